"""Weights of real cgroups: written, noted before, put back, and left alone once they are somebody else's."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from support.processes import freeze, remove_cgroup, spinning, temporary_cgroup, wait_until
from utilctl_agent.discovery.weighing import find_weight_cgroup
from utilctl_agent.host.cputime import open_cpu_time
from utilctl_agent.host.hierarchies import CPUACCT_V1, counterpart, probe, v1_mount
from utilctl_agent.host.members import SampledThreads, threads_below
from utilctl_agent.host.port import ForeignWeightError, GroupGoneError, MechanismError
from utilctl_agent.host.weights import WeightGroup, weight_mount, weight_refusal
from utilctl_agent.host.workcgroup import WorkCgroup, work_mounts
from utilctl_agent.safety.journal import Journal
from utilctl_agent.safety.thaw import Thawed, thaw_journal, thaw_run_dir
from utilctl_common.errors import FailedError
from utilctl_common.quantities import NS_PER_MS

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0 or weight_refusal() is not None, reason="needs root and a cpu controller"),
]


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    made = Journal.create(str(tmp_path / "a.journal"), slots=8)
    yield made
    made.close()


@pytest.fixture
def cgroup() -> Iterator[Path]:
    with temporary_cgroup(weight_mount()) as path:
        yield path


@dataclass
class Weighed:
    """A group with the hands of those who look at its knob from outside."""

    group: WeightGroup
    journal: Journal

    def value(self) -> int:
        return int((self.group.path / self.group.knob_name).read_text())

    def set_from_outside(self, value: int) -> None:
        (self.group.path / self.group.knob_name).write_text(str(value))


@pytest.fixture
def weighed(cgroup: Path, journal: Journal) -> Iterator[Weighed]:
    with spinning(1, cgroup=cgroup):
        made = Weighed(WeightGroup(cgroup, journal), journal)
        yield made
        made.group.close()


class TestWeights:
    def test_a_weight_is_written_and_put_back_on_closing(self, weighed: Weighed) -> None:
        found = weighed.value()
        for weight in (7, 4711, 7):
            weighed.group.set_weight(weight)
            assert weighed.value() == weight == weighed.group.weight
        weighed.group.close()
        assert weighed.value() == found
        weighed.group.close()

    def test_what_was_found_is_put_back_not_what_is_usual(self, cgroup: Path, journal: Journal) -> None:
        knob = next(cgroup / name for name in ("cpu.weight", "cpu.shares") if (cgroup / name).exists())
        knob.write_text("333")
        group = WeightGroup(cgroup, journal)
        group.set_weight(55)
        group.restore()
        assert knob.read_text() == "333\n"
        assert journal.changed() == []
        group.set_weight(56)
        group.close()
        assert knob.read_text() == "333\n"

    def test_the_bounds_of_the_knob_are_the_kernels(self, weighed: Weighed) -> None:
        for weight in (weighed.group.knob.least, weighed.group.knob.most):
            weighed.group.set_weight(weight)
            assert weighed.value() == weight

    def test_the_journal_names_exactly_the_weights_that_are_not_as_found(self, weighed: Weighed) -> None:
        found = weighed.value()
        assert weighed.journal.changed() == []
        weighed.group.set_weight(50)
        weighed.group.set_weight(60)
        ((_, noted),) = weighed.journal.changed()
        assert (noted.path, noted.found, noted.before, noted.written) == (str(weighed.group.path), found, 50, 60)
        assert not weighed.journal.any_in_force(), "a weight is no pause, and the guard must not take it for one"
        weighed.group.close()
        assert weighed.journal.changed() == []

    def test_cpu_time_accrues_and_waiting_shows(self, weighed: Weighed) -> None:
        start = weighed.group.read()
        assert start.wait_ns is not None
        wait_until(lambda: weighed.group.read().cpu_ns > start.cpu_ns + 5 * NS_PER_MS, "it runs")
        assert weighed.group.read().blocked is False

    def test_it_is_never_paused(self, weighed: Weighed) -> None:
        with pytest.raises(MechanismError):
            weighed.group.pause()
        weighed.group.resume()
        assert weighed.group.mechanism == "weight"

    def test_a_weight_that_somebody_else_wrote_is_neither_moved_nor_put_back(self, weighed: Weighed) -> None:
        weighed.group.set_weight(50)
        weighed.set_from_outside(99)
        for _ in range(2):
            with pytest.raises(ForeignWeightError, match="somebody else"):
                weighed.group.set_weight(60)
        with pytest.raises(ForeignWeightError):
            weighed.group.check()
        assert weighed.journal.changed() == []
        assert weighed.group.read().cpu_ns >= 0, "it is measured on"
        weighed.group.close()
        assert weighed.value() == 99

    def test_a_cgroup_that_is_removed_is_gone(self, weighed: Weighed) -> None:
        weighed.group.set_weight(50)
        remove_cgroup(weighed.group.path)
        for action in (weighed.group.read, weighed.group.check, lambda: weighed.group.set_weight(3)):
            with pytest.raises(GroupGoneError):
                action()
        weighed.group.close()
        assert weighed.journal.changed() == []

    def test_what_is_no_cgroup_or_has_no_weight_is_refused_in_words(self, journal: Journal, tmp_path: Path) -> None:
        with pytest.raises(MechanismError, match="has no weight"):
            WeightGroup(tmp_path, journal)
        with pytest.raises(GroupGoneError, match="does not exist"):
            WeightGroup(tmp_path / "absent", journal)


class TestAfterACrash:
    def test_a_weight_left_behind_is_put_back_from_the_journal(self, weighed: Weighed) -> None:
        found = weighed.value()
        weighed.group.set_weight(50)
        weighed.group.set_weight(60)
        assert thaw_journal(weighed.journal) == Thawed(weights=1)
        assert weighed.value() == found
        assert thaw_journal(weighed.journal) == Thawed()

    def test_a_crash_between_note_and_write_is_undone_too(self, weighed: Weighed) -> None:
        found = weighed.value()
        weighed.group.set_weight(50)
        ((slot, _),) = weighed.journal.changed()
        weighed.journal.change(slot, 50, 60)
        assert thaw_journal(weighed.journal) == Thawed(weights=1)
        assert weighed.value() == found

    def test_a_weight_that_somebody_set_since_is_theirs(self, weighed: Weighed) -> None:
        weighed.group.set_weight(50)
        weighed.set_from_outside(99)
        assert thaw_journal(weighed.journal) == Thawed(gone=1)
        assert weighed.value() == 99

    def test_another_cgroup_of_the_same_path_is_left_alone(self, weighed: Weighed) -> None:
        weighed.group.set_weight(50)
        remove_cgroup(weighed.group.path)
        assert thaw_journal(weighed.journal) == Thawed(gone=1)
        weighed.journal.change(0, 50, 60)
        weighed.group.path.mkdir()
        weighed.set_from_outside(60)
        assert thaw_journal(weighed.journal) == Thawed(gone=1)
        assert weighed.value() == 60

    def test_thaw_by_hand_leaves_the_weights_of_a_living_agent_alone(
        self, cgroup: Path, journal: Journal, tmp_path: Path
    ) -> None:
        """The guard's handle has the lock, the loop's has not."""
        with spinning(1, cgroup=cgroup):
            loop = Journal.open(journal.path)
            weighed = Weighed(WeightGroup(cgroup, loop), loop)
            try:
                weighed.group.set_weight(50)
                assert thaw_run_dir(str(tmp_path), only_orphans=False) == Thawed()
                assert weighed.value() == 50
                journal.close()
                assert thaw_run_dir(str(tmp_path), only_orphans=False) == Thawed(weights=1)
            finally:
                weighed.group.close()
                loop.close()


class TestFinding:
    def test_a_cgroup_that_holds_exactly_the_members_has_their_weight(self, cgroup: Path) -> None:
        inner = cgroup / "inner"
        inner.mkdir()
        with spinning(1, cgroup=cgroup) as one, spinning(1, cgroup=inner) as two:
            both = frozenset(process.pid for process in (*one, *two))
            assert find_weight_cgroup(both) == (cgroup, "")
            assert find_weight_cgroup(frozenset({two[0].pid})) == (inner, "")
            found, refusal = find_weight_cgroup(frozenset({one[0].pid}))
            assert found is None
            assert "also holds other processes" in refusal
        remove_cgroup(inner)

    def test_processes_outside_any_cgroup_of_their_own_have_none(self) -> None:
        with spinning(1) as (process,):
            found, refusal = find_weight_cgroup(frozenset({process.pid}))
        assert found is None
        assert "no cgroup of their own" in refusal
        assert find_weight_cgroup(frozenset())[0] is None


class TestReading:
    def test_threads_of_a_cgroup_and_below_are_listed_up_to_a_limit(self, cgroup: Path) -> None:
        inner = cgroup / "inner"
        inner.mkdir()
        with spinning(2, cgroup=cgroup) as outer, spinning(1, cgroup=inner) as below:
            tids, complete = threads_below(cgroup, 8)
            assert (sorted(tids), complete) == (sorted(p.pid for p in (*outer, *below)), True)
            tids, complete = threads_below(cgroup, 2)
            assert (len(tids), complete) == (2, False)
        remove_cgroup(inner)
        assert threads_below(cgroup / "absent", 8) == ([], True)

    def test_waiting_is_seen_while_it_lasts(self, cgroup: Path) -> None:
        with spinning(2, cgroup=cgroup, cpu=0):
            threads = SampledThreads(cgroup)
            start_ns, blocked = threads.look()
            assert blocked is False
            wait_until(lambda: threads.look()[0] > start_ns + 20 * NS_PER_MS, "one waits while the other runs")
            assert not threads.single
            threads.close()

    def test_without_cpuacct_the_processes_clocks_are_added_up(self, cgroup: Path) -> None:
        if v1_mount(CPUACCT_V1) is None or counterpart(cgroup, CPUACCT_V1) == cgroup:
            pytest.skip("cpu time stands in the cgroup itself here")
        with spinning(2, cgroup=cgroup):
            total = open_cpu_time(cgroup)
            seen_ns = [total.read_ns()]

            def moved() -> bool:
                seen_ns.append(total.read_ns())
                return seen_ns[-1] > 20 * NS_PER_MS

            wait_until(moved, "both clocks run")
        seen_ns.append(total.read_ns())
        assert seen_ns == sorted(seen_ns), "what ended processes used stays counted"
        total.close()
        remove_cgroup(cgroup)
        with pytest.raises(FileNotFoundError):
            open_cpu_time(cgroup)

    def test_a_hierarchy_without_the_knob_is_refused_and_gets_no_file(self, cgroup: Path) -> None:
        refusal = probe(cgroup, "no.such.knob", "1")
        assert refusal is not None
        assert "no.such.knob cannot be written" in refusal
        assert [entry for entry in cgroup.iterdir() if entry.is_dir()] == []


@pytest.mark.parametrize("mechanism", ["weight", "freezer", "freezer-v1"])
def test_cgroups_for_work_are_made_in_every_hierarchy_they_need_and_leave_nothing_behind(mechanism: str) -> None:
    mounts = work_mounts(mechanism)  # type: ignore[arg-type]  # one of the literals
    if not mounts:
        pytest.skip("not mounted here")
    name = f"utilctl-test-work-{os.getpid()}"
    work = WorkCgroup(name, mounts)
    try:
        if mechanism == "weight":
            work.weigh(3)
        folder = work.child("p0")
        assert folder == mounts[0] / name / "p0"
        with contextlib.ExitStack() as stack:
            (process,) = stack.enter_context(spinning(1))
            for mount in mounts:
                (mount / name / "p0" / "cgroup.procs").write_text(str(process.pid))
            if mechanism != "weight":
                freeze(folder)
            work.remove()
            assert not any((mount / name).exists() for mount in mounts)
    finally:
        work.remove()


def test_a_cgroup_that_was_there_before_is_not_ours_to_remove(cgroup: Path) -> None:
    with pytest.raises(FailedError, match="cannot be made"):
        WorkCgroup(cgroup.name, [cgroup.parent])
    assert cgroup.exists()
