"""What the version 1 freezer has beyond the contract of all groups: ancestors, CPU time from elsewhere, the journal."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.processes import freeze, is_frozen, remove_cgroup, spinning, temporary_cgroup, thaw, wait_until
from utilctl_agent.host.freezer_v1 import FreezerV1Group, freezer_v1_refusal
from utilctl_agent.host.hierarchies import CPUACCT_V1, FREEZER_V1, v1_mount
from utilctl_agent.host.port import ForeignStopError, GroupGoneError, MechanismError
from utilctl_agent.safety.journal import Journal, PausedCgroup
from utilctl_agent.safety.thaw import Thawed, thaw_journal
from utilctl_common.quantities import NS_PER_MS

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0 or freezer_v1_refusal() is not None, reason="needs root and the v1 freezer"),
]


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    made = Journal.create(str(tmp_path / "a.journal"), slots=8)
    yield made
    made.close()


@pytest.fixture
def cgroup() -> Iterator[Path]:
    with temporary_cgroup(v1_mount(FREEZER_V1)) as path:
        yield path


def test_below_a_frozen_cgroup_nothing_is_paused_and_nothing_thawed(cgroup: Path, journal: Journal) -> None:
    inner = cgroup / "inner"
    inner.mkdir()
    group = FreezerV1Group(inner, journal)
    freeze(cgroup)
    with pytest.raises(ForeignStopError, match="above"):
        group.pause()
    assert not journal.any_in_force()
    group.resume()
    assert (cgroup / "freezer.state").read_text().strip() == "FROZEN"
    thaw(cgroup)
    group.pause()
    assert is_frozen(inner)
    freeze(cgroup)
    group.resume()
    assert not is_frozen(inner), "our own wish is withdrawn"
    assert is_frozen(cgroup), "theirs stands"
    group.close()
    thaw(cgroup)
    inner.rmdir()


def test_cpu_time_comes_from_the_cpuacct_cgroup_of_the_same_path(cgroup: Path, journal: Journal) -> None:
    mount = v1_mount(CPUACCT_V1)
    if mount is None:
        pytest.skip("no cpuacct hierarchy")
    account = mount / cgroup.name
    account.mkdir()
    try:
        with spinning(2, cgroup=cgroup) as processes:
            for process in processes:
                (account / "cgroup.procs").write_text(str(process.pid))
            group = FreezerV1Group(cgroup, journal)
            usage = account / "cpuacct.usage"
            wait_until(lambda: group.read(observe=False).cpu_ns > 20 * NS_PER_MS, "it runs")
            before_ns = int(usage.read_text())
            assert before_ns <= group.read().cpu_ns <= int(usage.read_text())
            group.close()
        # The account may outlive the cgroup; it is gone all the same.
        group = FreezerV1Group(cgroup, journal)
        remove_cgroup(cgroup)
        with pytest.raises(GroupGoneError):
            group.read()
        group.close()
    finally:
        remove_cgroup(account)


def test_a_pause_left_behind_is_undone_from_the_journal(cgroup: Path, journal: Journal) -> None:
    with spinning(1, cgroup=cgroup):
        group = FreezerV1Group(cgroup, journal)
        group.pause()
        ((_, pause),) = journal.in_force()
        assert isinstance(pause, PausedCgroup)
        assert (pause.path, pause.v1) == (str(cgroup), True)
        assert thaw_journal(journal) == Thawed(resumed=1)
        wait_until(lambda: (cgroup / "freezer.state").read_text().strip() == "THAWED", "it is thawed")
        group.close()


def test_another_cgroup_of_the_same_path_is_left_frozen(cgroup: Path, journal: Journal) -> None:
    slot = journal.enter_cgroup(str(cgroup), cgroup.stat().st_ino + 1, v1=True)
    journal.begin(slot, time.monotonic_ns())
    freeze(cgroup)
    assert thaw_journal(journal) == Thawed(gone=1)
    assert is_frozen(cgroup)


def test_what_is_no_cgroup_of_the_freezer_is_refused(tmp_path: Path, journal: Journal) -> None:
    with pytest.raises(GroupGoneError):
        FreezerV1Group(tmp_path / "absent", journal)
    (tmp_path / "freezer.state").mkdir()
    with pytest.raises(MechanismError, match="cannot be controlled"):
        FreezerV1Group(tmp_path, journal)


def test_a_closed_group_answers_as_one_that_is_gone(cgroup: Path, journal: Journal) -> None:
    group = FreezerV1Group(cgroup, journal)
    group.close()
    with pytest.raises(GroupGoneError):
        group.read()
    group.pause()
    assert not is_frozen(cgroup)
