"""Cgroups: as matcher, as scope, and as the handle by which a whole SEE is reached."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from utilctl_agent.discovery.cgroupfs import CgroupMount, cgroup_mounts, processes_below
from utilctl_agent.discovery.groups import SeeGroups
from utilctl_agent.discovery.process_cache import REFRESH_SCANS
from utilctl_agent.discovery.procfs import ProcReader
from utilctl_agent.discovery.scan import Discovery
from utilctl_agent.discovery.scope import parse_scope
from utilctl_common.matchers import parse_matchers
from utilctl_common.policy import SeePolicy

pytestmark = [pytest.mark.kernel, pytest.mark.root]

WAIT = "import time; print('ready', flush=True); time.sleep(600)"

FORK_ON_LINE = """
import os, sys, time
print('ready', flush=True)
for line in sys.stdin:
    pid = os.fork()
    if pid == 0:
        time.sleep(600)
    print(pid, flush=True)
"""


def policy(name: str, *matchers: str) -> SeePolicy:
    return SeePolicy(name, 1.0, matchers=parse_matchers(matchers))


def put(pid: int, directory: Path) -> None:
    directory.mkdir(exist_ok=True, parents=True)
    (directory / "cgroup.procs").write_text(str(pid))


def test_processes_are_found_by_the_cgroup_they_are_in(spawn: Any, cgroup: Path, v2: CgroupMount) -> None:
    inside, deeper, outside = spawn(WAIT), spawn(WAIT), spawn(WAIT)
    put(inside.pid, cgroup / "a.service")
    put(deeper.pid, cgroup / "b" / "worker-1")
    path = v2.path_of(cgroup)
    discovery = Discovery(ProcReader())
    membership = discovery.scan(
        [
            policy("svc=all", f"cgroup={path}"),
            policy("svc=unit", f"unit=a,cgroup={path}"),
            policy("svc=glob", f"cgroup={path}/*/worker-*,user=root"),
        ]
    )
    assert {see: [key.pid for key in keys] for see, keys in membership.members.items()} == {
        "svc=all": [],
        "svc=unit": [inside.pid],
        "svc=glob": [deeper.pid],
    }
    assert discovery.explain_pid(outside.pid).see is None


def test_a_cgroup_scope_takes_in_and_lets_go_of_what_moves(
    spawn: Any, cgroup: Path, v2: CgroupMount, unique: str
) -> None:
    inside, outside = (spawn(WAIT, env={"UTILCTL_SEE": f"svc={unique}"}) for _ in range(2))
    put(inside.pid, cgroup / "x")
    policies = [SeePolicy(f"svc={unique}", 1.0)]
    for text in (f"cgroup:{v2.path_of(cgroup)}", f"cgroup:{cgroup}"):
        discovery = Discovery(ProcReader(), parse_scope(text, ProcReader(), cgroup_mounts()))
        discovery.scan(policies)
        assert discovery.membership.see_of(inside.pid) == f"svc={unique}"
        assert discovery.membership.see_of(outside.pid) is None
        assert "outside the scope" in discovery.explain_pid(outside.pid).sentence
    put(outside.pid, cgroup)
    put(inside.pid, v2.mount_point)
    for _ in range(REFRESH_SCANS):
        discovery.scan(policies)
    assert discovery.membership.see_of(inside.pid) is None
    assert discovery.membership.see_of(outside.pid) == f"svc={unique}"


def test_a_v1_cgroup_is_a_scope_too(spawn: Any, unique: str) -> None:
    freezer = next((m for m in cgroup_mounts() if "freezer" in m.controllers), None)
    if freezer is None or os.geteuid() != 0:
        pytest.skip("needs root and the v1 freezer")
    directory = freezer.mount_point / f"utilctl-test-{unique}"
    inside = spawn(WAIT, env={"UTILCTL_SEE": f"svc={unique}"})
    directory.mkdir()
    try:
        put(inside.pid, directory)
        scope = parse_scope(f"cgroup:/utilctl-test-{unique}", ProcReader(), cgroup_mounts())
        discovery = Discovery(ProcReader(), scope)
        discovery.scan([SeePolicy(f"svc={unique}", 1.0)])
        assert [key.pid for key in discovery.membership.members[f"svc={unique}"]] == [inside.pid]
        assert discovery.table.in_scope is not None
        assert {key.pid for key in discovery.table.in_scope} == {inside.pid}
    finally:
        inside.end()
        directory.rmdir()


def test_a_filled_cgroup_is_named_and_the_rest_is_loose(spawn: Any, cgroup: Path, unique: str) -> None:
    one, two, loose = (spawn(WAIT, env={"UTILCTL_SEE": f"svc={unique}"}) for _ in range(3))
    put(one.pid, cgroup / "web")
    put(two.pid, cgroup / "web" / "sub")
    discovery = Discovery(ProcReader())
    discovery.scan([SeePolicy(f"svc={unique}", 1.0)])
    key = next(key for key in discovery.table.live if key.pid == loose.pid)
    assert discovery.groups() == {f"svc={unique}": SeeGroups((cgroup / "web",), (key,))}


def test_a_cgroup_with_a_stranger_is_not_filled_but_those_below_it_may_be(
    spawn: Any, cgroup: Path, unique: str
) -> None:
    members = [spawn(WAIT, env={"UTILCTL_SEE": f"svc={unique}"}) for _ in range(3)]
    stranger = spawn(WAIT)
    put(members[0].pid, cgroup / "web")
    put(members[1].pid, cgroup / "web" / "a")
    put(members[2].pid, cgroup / "web" / "b" / "c")
    put(stranger.pid, cgroup / "web")
    discovery = Discovery(ProcReader())
    policies = [SeePolicy(f"svc={unique}", 1.0)]
    discovery.scan(policies)
    found = discovery.groups()[f"svc={unique}"]
    assert found.cgroup_paths == (cgroup / "web" / "a", cgroup / "web" / "b" / "c")
    assert [key.pid for key in found.loose] == [members[0].pid]
    stranger.end()
    discovery.scan(policies)
    assert discovery.groups()[f"svc={unique}"] == SeeGroups((cgroup / "web",), ())


def test_a_stranger_that_came_after_the_scan_is_seen_in_the_cgroup_itself(
    spawn: Any, cgroup: Path, unique: str
) -> None:
    members = [spawn(WAIT, env={"UTILCTL_SEE": f"svc={unique}"}) for _ in range(2)]
    put(members[0].pid, cgroup / "web" / "a")
    put(members[1].pid, cgroup / "web" / "b")
    discovery = Discovery(ProcReader())
    discovery.scan([SeePolicy(f"svc={unique}", 1.0)])
    assert discovery.groups()[f"svc={unique}"].cgroup_paths == (cgroup / "web",)
    put(spawn(WAIT).pid, cgroup / "web" / "b")
    found = discovery.groups()[f"svc={unique}"]
    assert found.cgroup_paths == (cgroup / "web" / "a",)
    assert [key.pid for key in found.loose] == [members[1].pid]


def test_what_a_member_forked_after_the_scan_does_not_break_its_group(spawn: Any, cgroup: Path, unique: str) -> None:
    member = spawn(FORK_ON_LINE, env={"UTILCTL_SEE": f"svc={unique}"})
    put(member.pid, cgroup)
    discovery = Discovery(ProcReader())
    discovery.scan([SeePolicy(f"svc={unique}", 1.0)])
    child = int(member.tell())
    assert processes_below(cgroup) == frozenset({member.pid, child})
    assert discovery.groups() == {f"svc={unique}": SeeGroups((cgroup,), ())}


def test_a_cgroup_that_holds_the_agent_is_never_named(spawn: Any, cgroup: Path, unique: str) -> None:
    member, agent = (spawn(WAIT, env={"UTILCTL_SEE": f"svc={unique}"}) for _ in range(2))
    put(member.pid, cgroup)
    put(agent.pid, cgroup)
    discovery = Discovery(ProcReader(), None, {agent.pid})
    discovery.scan([SeePolicy(f"svc={unique}", 1.0)])
    found = discovery.groups()[f"svc={unique}"]
    assert found.cgroup_paths == ()
    assert [key.pid for key in found.loose] == [member.pid]


def test_neither_a_slice_nor_a_cgroup_with_one_other_in_it_stands_for_its_contents(
    spawn: Any, cgroup: Path, unique: str
) -> None:
    members = [spawn(WAIT, env={"UTILCTL_SEE": f"svc={unique}"}) for _ in range(3)]
    put(members[0].pid, cgroup / "system.slice" / "a.service")
    put(members[1].pid, cgroup / "system.slice" / "b.service")
    put(members[2].pid, cgroup / "outer" / "inner")
    discovery = Discovery(ProcReader())
    discovery.scan([SeePolicy(f"svc={unique}", 1.0)])
    assert discovery.groups()[f"svc={unique}"] == SeeGroups(
        (
            cgroup / "outer" / "inner",
            cgroup / "system.slice" / "a.service",
            cgroup / "system.slice" / "b.service",
        ),
        (),
    )


def test_a_mount_that_shows_part_of_the_hierarchy_never_has_its_root_named(
    spawn: Any, cgroup: Path, v2: CgroupMount, unique: str
) -> None:
    member = spawn(WAIT, env={"UTILCTL_SEE": f"svc={unique}"})
    put(member.pid, cgroup)
    path = v2.path_of(cgroup)
    assert path is not None
    part = replace(v2, mount_point=cgroup, root=path)
    discovery = Discovery(ProcReader(), mounts=(part,))
    discovery.scan([SeePolicy(f"svc={unique}", 1.0)])
    assert discovery.groups()[f"svc={unique}"].cgroup_paths == ()


def test_without_v2_every_process_is_loose(spawn: Any, unique: str) -> None:
    member = spawn(WAIT, env={"UTILCTL_SEE": f"svc={unique}"})
    discovery = Discovery(ProcReader(), mounts=())
    discovery.scan([SeePolicy(f"svc={unique}", 1.0)])
    found = discovery.groups()[f"svc={unique}"]
    assert (found.cgroup_paths, [key.pid for key in found.loose]) == ((), [member.pid])
