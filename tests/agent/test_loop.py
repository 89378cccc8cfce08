"""The loop's handling of orders, on real processes and a real channel; the test is its clock and its guard."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.driven import Driven
from support.guarded import GuardedLoop, Subject, subject
from support.processes import is_stopped, remove_cgroup, spinning, temporary_cgroup, wait_until
from utilctl_agent.host.processes import ProcessGroup
from utilctl_agent.host.procstat import ProcessId
from utilctl_agent.host.weights import weight_mount, weight_refusal
from utilctl_agent.orders import LoopReport, MembersDelta, PrincipalDelta, PrincipalOrder
from utilctl_agent.safety.journal import PausedProcess
from utilctl_common.quantities import NS_PER_MS

pytestmark = pytest.mark.kernel


@pytest.fixture
def driven(tmp_path: Path) -> Iterator[Driven]:
    """A loop with nothing to do; at the end nothing may be in force."""
    made = Driven(tmp_path)
    yield made
    made.end()


@pytest.fixture
def one() -> Iterator[Subject]:
    """A principal of one process."""
    with subject("a", "signal", count=1) as made:
        yield made


def test_a_roster_of_an_older_decision_is_ignored(driven: Driven, one: Subject) -> None:
    driven.roster(5, one.order(), epoch=2)
    driven.roster(4, epoch=2)
    driven.roster(9, epoch=1)
    report = driven.report()
    assert (report.epoch, report.generation, list(report.principals)) == (2, 5, ["a"])
    driven.roster(5, epoch=2)
    assert driven.report().principals == {}, "the same decision with newer membership counts"
    driven.roster(1, one.order(), epoch=3)
    assert (driven.report().epoch, list(driven.report().principals)) == (3, ["a"])


def test_an_order_it_does_not_know_changes_nothing(driven: Driven, one: Subject) -> None:
    driven.roster(1, one.order())
    driven.loop.obey({"op": "dance"}, time.monotonic_ns())
    driven.loop.obey({}, time.monotonic_ns())
    assert not driven.loop.stopping
    assert list(driven.report().principals) == ["a"]


def test_whoever_leaves_the_roster_is_resumed_at_once(driven: Driven, one: Subject) -> None:
    driven.roster(1, one.order())
    driven.run_until(one.all_paused, "it is paused")
    driven.roster(2)
    assert not driven.journal.any_in_force()
    driven.run_until(lambda: not one.any_paused(), "it runs")


def test_a_principal_that_is_only_to_be_observed_from_now_on_is_resumed(driven: Driven, one: Subject) -> None:
    driven.roster(1, one.order())
    driven.run_until(one.all_paused, "it is paused")
    driven.roster(2, PrincipalOrder("a", 1.0, 1, 0.01, processes=one.order().processes, observe=True))
    assert not driven.journal.any_in_force()
    before_ns = driven.report().principals["a"].cpu_ns
    driven.run_until(lambda: driven.report().principals["a"].cpu_ns - before_ns > 20 * NS_PER_MS, "it runs freely")
    assert not driven.journal.any_in_force()


def test_processes_that_join_and_leave_a_paused_principal_are_paused_and_resumed(driven: Driven) -> None:
    with spinning(2) as (first, second):
        pids = [(process.pid, process.start_ticks) for process in (first, second)]
        driven.roster(1, PrincipalOrder("a", 1.0, 1, 0.001, processes=(pids[0],)))
        driven.run_until(lambda: is_stopped(first.pid), "the first is paused")
        cpu_ns = driven.report().principals["a"].cpu_ns
        driven.roster(2, PrincipalOrder("a", 1.0, 1, 0.001, processes=(pids[1],)))
        assert len(driven.journal.in_force()) <= 1, "the first is no longer ours to hold"
        driven.run_until(lambda: is_stopped(second.pid) and not is_stopped(first.pid), "they change places")
        assert driven.report().principals["a"].cpu_ns >= cpu_ns, "totals never step back"


def test_a_principal_whose_last_process_ended_is_told_and_forgotten_and_may_come_back(driven: Driven) -> None:
    with subject("a", "signal", count=1) as brief:
        driven.roster(1, brief.order())
    said = driven.run_until(lambda: not driven.loop._orders, "the loop notices")
    assert {"op": "gone", "name": "a"} in said
    assert driven.report().principals == {}
    driven.roster(1, brief.order())
    assert driven.report().principals == {}, "an order for what has ended does no harm"
    with subject("a", "signal", count=1) as successor:
        driven.roster(1, successor.order())
        assert list(driven.report().principals) == ["a"]


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0 or weight_refusal() is not None, reason="needs root and a cpu controller")
def test_an_order_for_a_weight_is_weighed_beside_those_that_are_paused_and_back_again(
    driven: Driven, one: Subject
) -> None:
    with temporary_cgroup(weight_mount()) as cgroup, spinning(1, cgroup=cgroup) as (process,):
        knob = next(cgroup / name for name in ("cpu.weight", "cpu.shares") if (cgroup / name).exists())
        found = int(knob.read_text())
        weighed = PrincipalOrder("w", 3.0, 1, cgroups=(str(cgroup),), weight=True)
        driven.roster(1, one.order())
        driven.roster(2, one.order(), weighed)
        driven.run_until(lambda: int(knob.read_text()) > found, "the weight is moved")
        driven.run_until(one.all_paused, "the other is paused")
        assert {name: r.mechanism for name, r in driven.report().principals.items()} == {"a": "signal", "w": "weight"}
        assert driven.journal.changed()
        listed = ((process.pid, process.start_ticks),)
        before_ns = driven.report().principals["w"].cpu_ns
        driven.roster(3, one.order(), PrincipalOrder("w", 3.0, 1, 0.01, processes=listed))
        assert int(knob.read_text()) == found
        assert driven.journal.changed() == []
        driven.run_until(lambda: is_stopped(process.pid), "it is paused from now on")
        report = driven.report().principals["w"]
        assert report.mechanism == "signal"
        assert report.cpu_ns >= before_ns
        driven.roster(4)


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: cgroups are made")
def test_a_cgroup_that_was_removed_and_made_again_is_taken_again_by_the_same_order(driven: Driven) -> None:
    with temporary_cgroup() as cgroup:
        with spinning(1, cgroup=cgroup) as processes:
            before = Subject("a", tuple(processes), cgroup)
            driven.roster(1, before.order())
            driven.run_until(before.all_paused, "it is paused")
            remove_cgroup(cgroup)
        cgroup.mkdir()
        said = driven.run_until(lambda: not driven.loop._orders, "the loop notices")
        assert {"op": "gone", "name": "a"} in said
        with spinning(1, cgroup=cgroup) as processes:
            after = Subject("a", tuple(processes), cgroup)
            driven.roster(1, after.order())
            driven.run_until(after.all_paused, "it is paused again")
        driven.roster(2)


def test_what_cannot_be_controlled_is_reported_with_the_reason_until_it_leaves(
    driven: Driven, one: Subject, tmp_path: Path
) -> None:
    strange = tmp_path / "strange"
    (strange / "cgroup.freeze").mkdir(parents=True)
    (strange / "cpu.stat").touch()
    driven.roster(1, one.order(), PrincipalOrder("b", 1.0, 1, cgroups=(str(strange),)))
    report = driven.report().principals
    assert (report["a"].mechanism, report["a"].problem) == ("signal", "")
    assert (report["b"].mechanism, report["b"].cpu_ns) == ("none", 0)
    assert f"cgroup {strange} cannot be controlled" in report["b"].problem
    driven.roster(2, one.order())
    assert list(driven.report().principals) == ["a"]


def test_the_first_cycle_under_a_new_decision_is_announced_unasked_and_once(driven: Driven, one: Subject) -> None:
    for generation in (1, 2):
        driven.roster(generation, one.order(cap_cores=1.5))
        assert driven.report().cycles_since_roster == 0
        cycles_before = driven.loop._cycles
        said = driven.run_until(lambda: driven.loop._cycles >= cycles_before + 3, "three cycles end")  # noqa: B023 - called before it changes
        reports = [LoopReport.from_json(message["report"]) for message in said if message["op"] == "report"]
        assert [(report.generation, report.cycles_since_roster) for report in reports] == [(generation, 1)]


def test_the_loop_ends_by_itself_after_the_cycles_asked_for(tmp_path: Path, one: Subject) -> None:
    with GuardedLoop(tmp_path, stop_after_cycles=2) as guarded:
        guarded.control([one.order(cap_cores=1.5)])
        messages = guarded.wait_for_end_of_stream()
        (final,) = [message for message in messages if message["op"] == "final"]
        assert final["report"]["cycles"] == 2
        assert guarded.end() == (0, "")
    assert not one.any_paused()


def test_the_loop_imports_neither_grpc_nor_telemetry_nor_a_command_line() -> None:
    code = "import sys, utilctl_agent.loop; print(*sorted(sys.modules))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    refused = {"asyncio", "click", "grpc", "google.protobuf", "numpy", "opentelemetry", "psutil", "pydantic", "rich"}
    assert not refused & set(ran.stdout.split())


class TestMembersDelta:
    """Processes that come and go are told as such; everything else stays."""

    def order(self, *processes: ProcessId) -> PrincipalOrder:
        return PrincipalOrder("a", 1.0, 1, 0.001, processes=tuple((p.pid, p.start_ticks) for p in processes))

    def say(self, driven: Driven, serial: int, name: str, joined: list[ProcessId], left: list[ProcessId]) -> list[str]:
        """Send a delta; returns what kinds of messages the loop answers."""
        driven.peer.receive()
        pairs = [tuple((p.pid, p.start_ticks) for p in processes) for processes in (joined, left)]
        delta = MembersDelta(serial, (PrincipalDelta(name, 1, *pairs),))
        driven.loop.obey({"op": "members", "members": delta.to_json()}, time.monotonic_ns())
        return [message["op"] for message in driven.peer.receive()]

    def test_a_newcomer_to_a_paused_principal_is_paused_at_once_and_a_leaver_resumed(self, driven: Driven) -> None:
        with spinning(2) as (first, second):
            driven.roster(1, self.order(first))
            driven.run_until(lambda: is_stopped(first.pid), "the first is paused")
            assert self.say(driven, 1, "a", [second], []) == []
            assert {pause.pid for _, pause in driven.journal.in_force() if isinstance(pause, PausedProcess)} == {
                first.pid,
                second.pid,
            }
            assert self.say(driven, 2, "a", [], [first]) == []
            wait_until(lambda: not is_stopped(first.pid), "the first runs")
            wait_until(lambda: is_stopped(second.pid), "the second stops")
            driven.roster(1, self.order(second))
            assert driven.loop._orders["a"] == self.order(second)

    def test_a_delta_said_twice_does_no_harm_and_a_lost_one_is_asked_for_once(self, driven: Driven) -> None:
        with spinning(3) as (first, second, third):
            driven.roster(1, self.order(first))
            assert self.say(driven, 1, "a", [second], []) == []
            assert self.say(driven, 1, "a", [], [second]) == [], "an old one is not heeded"
            assert self.say(driven, 4, "a", [third], []) == ["resend"]
            assert self.say(driven, 7, "a", [], [first]) == []
            members = driven.loop._orders["a"].processes
            assert members == self.order(*sorted((second, third), key=lambda p: p.pid)).processes, (
                "what it says is true"
            )
            driven.roster(1, self.order(first, second))
            assert driven.loop._orders["a"] == self.order(first, second)

    def test_a_delta_for_a_principal_that_it_does_not_have_asks_for_a_roster(self, driven: Driven) -> None:
        with spinning(1) as (stranger,):
            assert self.say(driven, 1, "b", [stranger], []) == ["resend"]

    def test_members_that_ended_leave_no_slot_of_the_journal_behind(self, driven: Driven) -> None:
        free = len(driven.journal._free)
        with spinning(1) as (keeper,):
            driven.roster(1, self.order(keeper))
            serial = 0
            for _ in range(6):
                with spinning(4) as brief:
                    serial += 1
                    self.say(driven, serial, "a", brief, [])
                    driven.run_until(lambda: bool(driven.journal.in_force()), "they are paused")
                serial += 1
                self.say(driven, serial, "a", [], brief)
            assert len(driven.journal._free) == free - 1
        driven.run_until(lambda: not driven.loop._orders, "the loop notices")
        assert len(driven.journal._free) == free

    def test_a_large_change_is_taken_in_by_slices_and_nobody_is_forgotten(
        self, driven: Driven, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("utilctl_agent.host.processes.MOST_AT_ONCE", 2)
        with spinning(8) as processes:
            driven.roster(1, self.order(*processes))
            group = driven.loop._engine.group("a")
            assert isinstance(group, ProcessGroup)
            assert len(group.processes) < 8
            driven.run_until(lambda: not group.behind, "all are taken in")
            assert group.processes == set(processes)
            driven.run_until(lambda: all(is_stopped(p.pid) for p in processes), "all are paused")
            self.say(driven, 1, "a", [], processes[:7])
            driven.run_until(lambda: not group.behind, "all are let go")
            assert group.processes == {processes[7]}
            wait_until(lambda: not any(is_stopped(p.pid) for p in processes[:7]), "they run")
