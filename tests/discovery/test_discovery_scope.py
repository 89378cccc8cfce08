"""``--scope``: what is refused, and what a scope lets in."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from utilctl_agent.discovery.cgroupfs import CgroupMount, cgroup_mounts
from utilctl_agent.discovery.facts import CgroupPath, ProcessFacts, ProcessKey
from utilctl_agent.discovery.procfs import ProcReader
from utilctl_agent.discovery.scope import CgroupScope, HostScope, TreeScope, parse_scope
from utilctl_common.errors import UsageError

ONE = ProcessFacts(pid=2, start_ticks=2, ppid=1, uid=0, user="root", comm="a")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "malformed"),
        ("cgroup", "malformed"),
        ("cgroup:", "malformed"),
        ("tree:", "malformed"),
        ("user:bob", "malformed"),
        ("tree:abc", "not a process id"),
        ("tree:-1", "not a process id"),
        ("tree:0", "not a process id"),
        ("tree:\u0663", "not a process id"),
        ("tree:99999999999", "not a process id"),
        ("tree:2147483647", "no such process"),
        ("cgroup:relative", "not an absolute path"),
        ("cgroup:/a/../b", "not an absolute path"),
        ("cgroup:/a\0b", "not an absolute path"),
        ("cgroup:/there-is-no-such-cgroup", "no cgroup /there-is-no-such-cgroup in any hierarchy"),
    ],
)
@pytest.mark.kernel
def test_a_bad_scope_is_a_usage_error_in_one_line(text: str, words: str) -> None:
    mounts = cgroup_mounts() or (CgroupMount(Path("/nowhere"), "/", frozenset()),)
    with pytest.raises(UsageError, match=words) as caught:
        parse_scope(text, ProcReader(), mounts)
    assert "\n" not in str(caught.value)


def test_a_host_without_cgroups_has_no_cgroup_scope() -> None:
    with pytest.raises(UsageError, match="use tree:PID"):
        parse_scope("cgroup:/", ProcReader(), ())


def test_a_cgroup_scope_holds_its_subtree_in_the_hierarchies_that_have_it(tmp_path: Path) -> None:
    v2 = CgroupMount(tmp_path / "unified", "/", frozenset())
    freezer = CgroupMount(tmp_path / "freezer", "/", frozenset({"freezer"}))
    cpu = CgroupMount(tmp_path / "cpu", "/", frozenset({"cpu"}))
    for mount, name in ((v2, "web"), (freezer, "web"), (cpu, "other")):
        (mount.mount_point / name).mkdir(parents=True)
    scope = parse_scope("cgroup:/web/", ProcReader(), (v2, freezer, cpu))
    assert scope == CgroupScope("/web", (v2, freezer))
    places = {
        2: CgroupPath("", "/web/a"),
        3: CgroupPath("freezer", "/web"),
        4: CgroupPath("cpu", "/web"),
        5: CgroupPath("", "/website"),
    }
    processes = {
        facts.key: facts for pid, place in places.items() for facts in [replace(ONE, pid=pid, cgroups=(place,))]
    }
    selected = scope.select(processes, {})
    assert selected is not None
    assert sorted(key.pid for key in selected) == [2, 3]
    assert parse_scope(f"cgroup:{freezer.mount_point}/web", ProcReader(), (v2, freezer, cpu)) == CgroupScope(
        "/web", (freezer,)
    )


@pytest.mark.kernel
def test_a_tree_scope_is_bound_to_the_start_of_its_root() -> None:
    scope = parse_scope(f"tree:{os.getpid()}", ProcReader(), ())
    assert scope == TreeScope(ProcessKey(os.getpid(), ProcReader().stat(os.getpid()).start_ticks))
    later = replace(ONE, pid=os.getpid(), start_ticks=2**40)
    assert scope.select({later.key: later}, {}) == frozenset()


def test_a_tree_scope_holds_descendants_of_a_root_that_has_gone() -> None:
    child = replace(ONE, pid=3)
    stranger = replace(ONE, pid=4)
    scope = TreeScope(ONE.key)
    processes = {facts.key: facts for facts in (child, stranger)}
    assert scope.select(processes, {child.key: ONE.key, stranger.key: stranger.key}) == frozenset({child.key})
    assert HostScope().select(processes, {}) is None
