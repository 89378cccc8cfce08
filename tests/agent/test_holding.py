"""Pauses that do not hold: found by looking now and then, not fought over, tried again later, counted."""

from __future__ import annotations

import pytest

from utilctl_agent.alps.model import CoreSettings, PrincipalSpec
from utilctl_agent.alps.turns import TurnScheduler
from utilctl_agent.engine import Engine
from utilctl_agent.holding import (
    FIRST_LEAVE_NS,
    LONGEST_LEAVE_NS,
    LOOK_EVERY_NS,
    MOST_LOOKS,
    OVERDUE_NS,
    UNFINISHED_NS,
    Faults,
    HoldWatch,
)
from utilctl_agent.host.port import (
    SETTLE_NS,
    ForeignResumeError,
    ForeignStopError,
    PendingPauseError,
    UnfinishedPauseError,
)
from utilctl_agent.testing import SimulatedGroup, SimulatedHost, Spin, run_engine
from utilctl_common.quantities import NS_PER_MS, NS_PER_S

RESUMED = ForeignResumeError("resumed by hand")
UNFINISHED = UnfinishedPauseError("it goes on")


class TestWhomToLookAt:
    def test_a_few_at_a_time_those_first_that_were_not_looked_at_for_longest(self) -> None:
        watch = HoldWatch()
        paused = {f"p{number:02}": 0 for number in range(3 * MOST_LOOKS)}
        seen = [watch.due(paused, turn * LOOK_EVERY_NS + 1) for turn in range(3)]
        assert [len(names) for names in seen] == [MOST_LOOKS] * 3
        assert {name for names in seen for name in names} == set(paused)
        assert watch.due(paused, 3 * LOOK_EVERY_NS + 1) == seen[0]

    def test_nobody_more_often_than_every_so_often(self) -> None:
        watch = HoldWatch()
        assert watch.due({"a": 0}, LOOK_EVERY_NS) == ["a"]
        assert watch.due({"a": 0, "b": 0}, LOOK_EVERY_NS + 1) == ["b"]
        assert watch.due({"a": 0, "b": 0}, 2 * LOOK_EVERY_NS - 1) == []
        assert watch.due({"a": 0, "b": 0}, 2 * LOOK_EVERY_NS) == ["a"]

    def test_nobody_is_looked_at_while_nobody_is_paused(self) -> None:
        watch = HoldWatch()
        assert watch.due({}, NS_PER_S) == []
        assert watch.due({"a": 0}, NS_PER_S) == ["a"]

    def test_who_was_never_found_paused_becomes_overdue_and_is_due_at_once(self) -> None:
        watch = HoldWatch()
        assert watch.overdue(["a", "b"], 0) is None
        assert watch.due({"a": 0}, OVERDUE_NS - NS_PER_MS) == ["a"]
        assert watch.overdue(["a", "b"], OVERDUE_NS) == "b"
        assert watch.due({"a": 0, "b": 0}, OVERDUE_NS) == ["b"]
        assert watch.overdue(["a", "b"], OVERDUE_NS + 1) is None


class TestLeaves:
    def test_somebody_elses_resuming_is_believed_at_once(self) -> None:
        watch = HoldWatch()
        assert watch.found("a", RESUMED, 0, 5)
        assert watch.on_leave("a")
        assert watch.faults == Faults(foreign_writes=1)
        assert watch.next_wake_ns(6) == 5 + FIRST_LEAVE_NS
        assert watch.back(4 + FIRST_LEAVE_NS) == []
        assert watch.back(5 + FIRST_LEAVE_NS) == ["a"]
        assert not watch.on_leave("a")

    def test_each_leave_is_twice_as_long_up_to_a_bound(self) -> None:
        watch, now_ns, lengths = HoldWatch(), 0, []
        for _ in range(9):
            watch.found("a", RESUMED, 0, now_ns)
            until_ns = watch.next_wake_ns(now_ns)
            assert until_ns is not None
            lengths.append(until_ns - now_ns)
            now_ns = until_ns
            assert watch.back(now_ns) == ["a"]
        assert lengths[:4] == [FIRST_LEAVE_NS, 2 * FIRST_LEAVE_NS, 4 * FIRST_LEAVE_NS, 8 * FIRST_LEAVE_NS]
        assert lengths[-1] == LONGEST_LEAVE_NS

    def test_who_held_for_as_long_as_its_last_leave_begins_anew(self) -> None:
        watch = HoldWatch()
        for begins_ns in (0, FIRST_LEAVE_NS):
            watch.found("a", RESUMED, 0, begins_ns)
            watch.back(begins_ns + 2 * FIRST_LEAVE_NS)
        ended_ns = 3 * FIRST_LEAVE_NS
        watch.found("a", None, 0, ended_ns + 2 * FIRST_LEAVE_NS)
        watch.found("a", RESUMED, 0, 10 * NS_PER_S)
        assert watch.next_wake_ns(10 * NS_PER_S) == 10 * NS_PER_S + FIRST_LEAVE_NS

    def test_a_pause_may_take_a_while_to_take_effect(self) -> None:
        watch = HoldWatch()
        for now_ns in range(0, 10 * UNFINISHED_NS, 50 * NS_PER_MS):
            assert not watch.found("a", UNFINISHED, SETTLE_NS - 1, now_ns)
        assert watch.faults == Faults()

    def test_a_wait_for_the_disk_now_and_then_is_no_fault(self) -> None:
        watch = HoldWatch()
        for turn in range(20):
            now_ns = turn * (UNFINISHED_NS // 2)
            assert not watch.found("a", UNFINISHED if turn % 2 else None, SETTLE_NS, now_ns)
        assert watch.faults == Faults()

    def test_a_pause_that_is_unfinished_at_every_look_is_given_up(self) -> None:
        watch = HoldWatch()
        assert not watch.found("a", UNFINISHED, SETTLE_NS, 0)
        assert watch.next_wake_ns(0) == UNFINISHED_NS
        assert not watch.found("a", UNFINISHED, SETTLE_NS, UNFINISHED_NS - 1)
        assert watch.found("a", UNFINISHED, SETTLE_NS, UNFINISHED_NS)
        assert watch.faults == Faults(unfinished_pauses=1)
        assert watch.on_leave("a")

    def test_one_that_waits_for_a_cpu_to_stop_on_is_never_given_up(self) -> None:
        watch = HoldWatch()
        for now_ns in range(0, 10 * UNFINISHED_NS, 50 * NS_PER_MS):
            assert not watch.found("a", PendingPauseError("no CPU yet"), SETTLE_NS, now_ns)
        assert watch.faults == Faults()

    def test_a_foreign_stop_is_no_reason_for_a_leave(self) -> None:
        watch = HoldWatch()
        assert not watch.found("a", ForeignStopError("stopped by hand"), SETTLE_NS, 0)
        assert not watch.on_leave("a")

    def test_who_left_is_forgotten(self) -> None:
        watch = HoldWatch()
        watch.found("a", RESUMED, 0, 0)
        watch.forget("a")
        assert watch.back(LONGEST_LEAVE_NS) == []
        assert watch.next_wake_ns(0) is None


@pytest.fixture
def host() -> SimulatedHost:
    return SimulatedHost()


@pytest.fixture
def engine() -> Engine:
    return Engine(TurnScheduler(CoreSettings()))


def spinners(engine: Engine, host: SimulatedHost, *names: str) -> list[SimulatedGroup]:
    groups = [host.group(name, Spin()) for name in names]
    for group in groups:
        engine.put(PrincipalSpec(group.name, 1.0), host.now_ns(), group)
    return groups


def run_with_a_foreign_writer(engine: Engine, host: SimulatedHost, group: SimulatedGroup, until_ns: int) -> None:
    """Somebody resumes ``group`` every 5 ms."""
    next_ns = host.now_ns()
    while host.now_ns() < until_ns:
        if host.now_ns() >= next_ns:
            next_ns += 5 * NS_PER_MS
            group.thaw()
        wake_ns = engine.step(host.now_ns()).next_wake_ns
        host.advance_to(min(max(wake_ns, host.now_ns() + 1), max(next_ns, host.now_ns() + 1), until_ns))


class TestOfTheEngine:
    def test_a_foreign_writer_is_reported_counted_and_not_fought(self, engine: Engine, host: SimulatedHost) -> None:
        theirs, *_ = spinners(engine, host, "theirs", "b", "c")
        run_with_a_foreign_writer(engine, host, theirs, 5 * NS_PER_S)
        assert "resumed by somebody else" in engine.problems["theirs"]
        pauses, found = theirs.pauses, engine.faults.foreign_writes
        assert 1 <= found <= 4
        run_with_a_foreign_writer(engine, host, theirs, 20 * NS_PER_S)
        assert engine.faults.foreign_writes - found <= 2
        # Each time it is tried again there is a pause or a few until it is seen that it does not hold.
        assert theirs.pauses - pauses <= 60

    def test_meanwhile_the_others_share_what_is_left(self, engine: Engine, host: SimulatedHost) -> None:
        theirs, second, third = spinners(engine, host, "theirs", "b", "c")
        engine.put(PrincipalSpec("b", 3.0), 0)
        run_with_a_foreign_writer(engine, host, theirs, 4 * NS_PER_S)
        before = (second.used_ns, third.used_ns)
        run_with_a_foreign_writer(engine, host, theirs, 14 * NS_PER_S)
        ratio = (second.used_ns - before[0]) / (third.used_ns - before[1])
        assert ratio == pytest.approx(3.0, rel=0.1)

    def test_once_nobody_interferes_it_is_taken_back(self, engine: Engine, host: SimulatedHost) -> None:
        theirs, other = spinners(engine, host, "theirs", "b")
        run_with_a_foreign_writer(engine, host, theirs, 2 * NS_PER_S)
        assert engine.problems
        run_engine(engine, host, 20 * NS_PER_S)
        assert engine.problems == {}
        before = (theirs.used_ns, other.used_ns)
        run_engine(engine, host, 24 * NS_PER_S)
        assert theirs.used_ns - before[0] == pytest.approx(other.used_ns - before[1], rel=0.05)
        assert theirs.held != other.held

    def test_one_that_does_not_stop_is_let_run_and_tried_again(self, engine: Engine, host: SimulatedHost) -> None:
        stuck, _ = spinners(engine, host, "stuck", "b")
        stuck.stubborn = True
        engine.put(PrincipalSpec("stuck", 1.0), 0)
        engine.put(PrincipalSpec("b", 20.0), 0)
        run_engine(engine, host, NS_PER_S)
        assert engine.faults.unfinished_pauses == 1
        assert "does not stop" in engine.problems["stuck"]
        stuck.stubborn = False
        run_engine(engine, host, 20 * NS_PER_S)
        assert engine.problems == {}
        assert engine.faults.unfinished_pauses <= 3

    def test_a_leave_outlasts_an_exchange_of_the_group(self, engine: Engine, host: SimulatedHost) -> None:
        theirs, _ = spinners(engine, host, "theirs", "b")
        run_with_a_foreign_writer(engine, host, theirs, FIRST_LEAVE_NS // 2)
        assert engine.problems
        new = host.group("theirs", Spin())
        engine.put(PrincipalSpec("theirs", 1.0), host.now_ns(), new)
        assert engine.problems
        run_engine(engine, host, host.now_ns() + 200 * NS_PER_MS)
        assert new.pauses == 0
        run_engine(engine, host, host.now_ns() + 4 * NS_PER_S)
        assert new.pauses > 0
        assert engine.problems == {}

    def test_on_leave_it_can_be_watched_removed_and_closed(self, engine: Engine, host: SimulatedHost) -> None:
        groups = spinners(engine, host, "watched", "removed", "closed", "b")
        for group in groups[:3]:
            group.thaw()
        for _ in range(40):
            for group in groups[:3]:
                if group.stopped:
                    group.thaw()
            host.advance_to(max(engine.step(host.now_ns()).next_wake_ns, host.now_ns() + 1))
        assert set(engine.problems) == {"watched", "removed", "closed"}
        engine.put(PrincipalSpec("watched", 1.0), host.now_ns(), observe=True)
        engine.remove("removed", host.now_ns())
        run_engine(engine, host, host.now_ns() + 4 * NS_PER_S)
        assert set(engine.names()) == {"watched", "closed", "b"}
        assert not groups[0].held
        engine.close()
        host.assert_clean()

    def test_one_that_ends_on_leave_is_reported_gone(self, engine: Engine, host: SimulatedHost) -> None:
        theirs, _ = spinners(engine, host, "theirs", "b")
        run_with_a_foreign_writer(engine, host, theirs, NS_PER_S)
        theirs.end()
        gone: list[str] = []
        while host.now_ns() < 6 * NS_PER_S:
            step = engine.step(host.now_ns())
            gone.extend(step.gone)
            host.advance_to(max(step.next_wake_ns, host.now_ns() + 1))
        assert gone == ["theirs"]
        assert engine.names() == ("b",)

    def test_a_stop_by_hand_is_counted_once_however_often_it_is_met(self, engine: Engine, host: SimulatedHost) -> None:
        theirs, _ = spinners(engine, host, "theirs", "b")
        run_engine(engine, host, NS_PER_S)
        while theirs.stopped:
            host.advance_to(max(engine.step(host.now_ns()).next_wake_ns, host.now_ns() + 1))
        theirs.freeze()
        run_engine(engine, host, 5 * NS_PER_S)
        assert engine.faults == Faults(foreign_stops=1)
        assert theirs.stopped_by_user

    @pytest.mark.parametrize("shares", [(1.0, 1.0), (1.0, 2.0), (1.0, 20.0)])
    def test_whoever_is_thawed_once_is_found_soon(self, shares: tuple[float, float]) -> None:
        """Also with two, where decisions might always find the same one paused."""
        for victim in ("a", "b"):
            host = SimulatedHost()
            engine = Engine(TurnScheduler(CoreSettings()))
            groups = {name: host.group(name, Spin()) for name in ("a", "b")}
            for (name, group), share in zip(groups.items(), shares, strict=True):
                engine.put(PrincipalSpec(name, share), 0, group)
            run_engine(engine, host, 3 * NS_PER_S)
            run_with_a_foreign_writer(engine, host, groups[victim], host.now_ns() + 2 * OVERDUE_NS)
            assert engine.faults.foreign_writes, victim
