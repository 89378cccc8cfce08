"""The loop's handling of orders, on real processes and a real channel; the test is its clock and its guard."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.guarded import GuardedLoop, Subject, subject
from support.processes import WAIT_S, is_stopped, remove_cgroup, spinning, temporary_cgroup
from utilctl_agent.channel import Channel, Message
from utilctl_agent.host.weights import weight_mount, weight_refusal
from utilctl_agent.loop import Loop
from utilctl_agent.orders import LoopReport, LoopSettings, PrincipalOrder, Roster
from utilctl_agent.safety.journal import Journal
from utilctl_common.quantities import NS_PER_MS, NS_PER_S

pytestmark = pytest.mark.kernel


class Driven:
    """A loop whose wake-ups happen when the test says so, and the other end of its channel."""

    def __init__(self, folder: Path) -> None:
        ours, theirs = socket.socketpair()
        self.peer, self._channel = Channel(ours), Channel(theirs)
        self.journal = Journal.create(str(folder / "a.journal"), slots=16)
        settings = LoopSettings(
            algorithm="default",
            quantum_ns=10 * NS_PER_MS,
            cycle_ns=20 * NS_PER_MS,
            cpus=tuple(sorted(os.sched_getaffinity(0))),
            max_pause_ns=NS_PER_S,
            cycle_log=False,
            announce_first_cycle=True,
        )
        self.loop = Loop(settings, self._channel, self.journal, "none")

    def roster(self, generation: int, *orders: PrincipalOrder, epoch: int = 1) -> None:
        """Order it to control exactly these."""
        self.loop.obey({"op": "roster", "roster": Roster(epoch, generation, orders).to_json()}, time.monotonic_ns())

    def report(self) -> LoopReport:
        """Ask for a report."""
        self.peer.receive()
        self.loop.obey({"op": "report"}, time.monotonic_ns())
        (message,) = self.peer.receive()
        return LoopReport.from_json(message["report"])

    def run_until(self, condition: Callable[[], bool], what: str) -> list[Message]:
        """Let it work until ``condition`` holds; returns what it said meanwhile."""
        said: list[Message] = []
        deadline = time.monotonic() + WAIT_S
        while not condition():
            assert time.monotonic() < deadline, f"never happened: {what}"
            wake_ns = self.loop.wake(time.monotonic_ns())
            said += self.peer.receive()
            time.sleep(max(0, min(wake_ns - time.monotonic_ns(), 2 * NS_PER_MS)) / NS_PER_S)
        return said

    def end(self) -> None:
        """What the loop does at its end."""
        self.loop.close(time.monotonic_ns())
        assert not self.journal.any_in_force()
        for closing in (self.peer, self._channel, self.journal):
            closing.close()


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
