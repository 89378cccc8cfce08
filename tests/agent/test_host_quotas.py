"""Quotas of cgroups on the real kernel: what they hold, whose they are, and that they are lifted."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.processes import spinning, temporary_cgroup
from utilctl_agent.host.port import ForeignWeightError, GroupGoneError, MechanismError
from utilctl_agent.host.programcgroup import PREFIX, ProgramCgroup
from utilctl_agent.host.quotas import QuotaGroup, quota_mounts, quota_refusal
from utilctl_agent.safety.journal import Journal, quota_in, spelled
from utilctl_agent.safety.thaw import thaw_journal
from utilctl_common.quantities import NS_PER_MS

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.root,
    pytest.mark.skipif(quota_refusal() is not None, reason="no quota can be set here"),
]


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    made = Journal.create(str(tmp_path / "j"), slots=16)
    yield made
    made.close(unlink=True)


@contextlib.contextmanager
def cgroups() -> Iterator[tuple[Path, Path]]:
    with contextlib.ExitStack() as stack:
        made = [stack.enter_context(temporary_cgroup(mount)) for mount in quota_mounts()]
        yield made[0], made[-1]


def quota_of(folder: Path) -> int:
    knob = next(name for name in ("cpu.max", "cpu.cfs_quota_us") if (folder / name).exists())
    return quota_in((folder / knob).read_bytes())


def set_by_hand(folder: Path, value: str) -> None:
    knob = next(name for name in ("cpu.max", "cpu.cfs_quota_us") if (folder / name).exists())
    (folder / knob).write_text(value)


def test_what_is_read_counts_use_and_waiting_for_the_quota(journal: Journal) -> None:
    with cgroups() as (held, measured), spinning(1, cgroup=measured, cpu=0) as (process,):
        (held / "cgroup.procs").write_text(str(process.pid))
        group = QuotaGroup(held, measured, journal)
        group.set_quota(2 * NS_PER_MS, 10 * NS_PER_MS)
        before, began_ns = group.read(), time.monotonic_ns()
        time.sleep(1.0)
        after, took_ns = group.read(), time.monotonic_ns() - began_ns
        assert before.wait_ns is not None
        assert after.wait_ns is not None
        used_ns, waited_ns = after.cpu_ns - before.cpu_ns, after.wait_ns - before.wait_ns
        assert used_ns / took_ns <= 0.25
        assert (used_ns + waited_ns) / took_ns == pytest.approx(1.0, abs=0.05), "it was ready all the time"
        group.close()
        assert quota_of(held) == 0


def test_periods_and_quotas_change_in_any_order(journal: Journal) -> None:
    with cgroups() as (held, measured):
        group = QuotaGroup(held, measured, journal)
        for quota_ms, period_ms in ((1, 100), (900, 10), (2, 1000), (1, 10), (1, 10)):
            group.set_quota(quota_ms * NS_PER_MS, period_ms * NS_PER_MS)
            assert quota_of(held) == 1000 * quota_ms
        group.close()
        group.close()
        assert quota_of(held) == 0
        with pytest.raises(GroupGoneError):
            group.read()


def test_somebody_elses_quota_is_left_alone(journal: Journal) -> None:
    with cgroups() as (held, measured):
        group = QuotaGroup(held, measured, journal)
        group.set_quota(5 * NS_PER_MS, 10 * NS_PER_MS)
        set_by_hand(held, "7000")
        with pytest.raises(ForeignWeightError):
            group.set_quota(4 * NS_PER_MS, 10 * NS_PER_MS)
        group.close()
        assert quota_of(held) == 7000
        with pytest.raises(MechanismError, match="has a quota already"):
            QuotaGroup(held, measured, journal)


def test_a_quota_is_lifted_from_the_journal(journal: Journal) -> None:
    with cgroups() as (held, measured):
        group = QuotaGroup(held, measured, journal)
        group.set_quota(5 * NS_PER_MS, 10 * NS_PER_MS)
        assert not journal.any_in_force(), "no pause: nothing for the guard to time"
        assert thaw_journal(journal).weights == 1
        assert quota_of(held) == 0
        group.close()


def test_pausing_is_refused_and_a_cgroup_that_is_gone_is_told(journal: Journal) -> None:
    with cgroups() as (held, measured):
        group = QuotaGroup(held, measured, journal)
        with pytest.raises(MechanismError):
            group.pause()
        held.rmdir()
        with pytest.raises(GroupGoneError):
            group.set_quota(5 * NS_PER_MS, 10 * NS_PER_MS)
        group.close()
        with pytest.raises(GroupGoneError):
            QuotaGroup(held, measured, journal)


def test_who_is_still_in_a_programs_cgroup_is_moved_out_and_goes_on() -> None:
    made = ProgramCgroup(quota_mounts())
    with spinning(2, cpu=0) as processes:
        for folder in made.folders:
            for process in processes:
                (folder / "cgroup.procs").write_text(str(process.pid))
        assert made.count() == 2
        made.remove()
        made.remove()
        assert not any(folder.exists() for folder in made.folders)
        for process in processes:
            os.kill(process.pid, 0)
            assert PREFIX not in Path(f"/proc/{process.pid}/cgroup").read_text()


def test_quotas_are_spelled_as_the_kernel_does() -> None:
    assert [quota_in(text) for text in (b"-1\n", b"max 100000\n", b"5000 100000\n", b"7000\n")] == [0, 0, 5000, 7000]
    assert spelled("cpu.max", 0) == b"max"
    assert spelled("cpu.cfs_quota_us", 0) == b"-1"
    assert spelled("cpu.shares", 0) == b"0"
