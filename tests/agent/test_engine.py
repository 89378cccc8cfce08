"""One step of the loop: read who is due, decide, pause and resume, on the simulated host."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from utilctl_agent.alps.model import CoreSettings, PrincipalSpec, Reading
from utilctl_agent.alps.paper import PaperScheduler
from utilctl_agent.alps.turns import TurnScheduler
from utilctl_agent.engine import LOOK_NS, QUIET_NS, Engine
from utilctl_agent.host.port import ForeignStopError, GroupGoneError, MechanismError
from utilctl_agent.testing import Bursts, SimulatedGroup, SimulatedHost, Spin, run_engine
from utilctl_common.quantities import NS_PER_MS, NS_PER_S


@pytest.fixture
def host() -> SimulatedHost:
    return SimulatedHost()


@pytest.fixture
def engine() -> Engine:
    return Engine(TurnScheduler(CoreSettings()))


def add(engine: Engine, host: SimulatedHost, name: str, share: float = 1.0) -> SimulatedGroup:
    group = host.group(name, Spin())
    engine.put(PrincipalSpec(name, share), host.now_ns(), group)
    return group


def run_until_paused(engine: Engine, host: SimulatedHost, name: str) -> None:
    while name not in engine.paused():
        assert host.now_ns() < 10 * NS_PER_S, f"{name} is never paused"
        step = engine.step(host.now_ns())
        if name not in engine.paused():
            host.advance_to(step.next_wake_ns)


@dataclass
class Recorder:
    """A group that keeps the order of what is done to it, among others, and can refuse. Implements host.port.Group."""

    name: str
    acts: list[str]
    used_ns: int = 0
    wait_ns: int | None = None
    refusal: Exception | None = None
    mechanism: str = "signal"
    closed: int = field(default=0)

    def read(self, *, observe: bool = True) -> Reading:
        return Reading(self.used_ns, self.wait_ns if observe else None, False if observe else None)

    def cpu_ns(self) -> int:
        return self.used_ns

    def pause(self) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.acts.append(f"pause {self.name}")

    def resume(self) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.acts.append(f"resume {self.name}")

    def check(self) -> None:
        if self.refusal is not None:
            raise self.refusal

    def close(self) -> None:
        self.closed += 1


class TestControl:
    def test_pauses_of_the_engine_are_those_of_the_groups(self, engine: Engine, host: SimulatedHost) -> None:
        groups = {name: add(engine, host, name) for name in ("a", "b", "c")}
        for _ in range(200):
            step = engine.step(host.now_ns())
            assert engine.paused() == {name for name, group in groups.items() if group.stopped}
            host.advance_to(step.next_wake_ns)
        assert engine.wakeups == 200

    def test_somebody_is_resumed_before_somebody_else_is_paused(self) -> None:
        """Else the CPU would have nobody to run in between."""
        acts: list[str] = []
        engine = Engine(PaperScheduler(CoreSettings()))
        first, second = Recorder("first", acts), Recorder("second", acts)
        for group in (first, second):
            engine.put(PrincipalSpec(group.name, 1.0), 0, group)
        engine.step(0)
        first.used_ns = 15 * NS_PER_MS
        engine.step(10 * NS_PER_MS)
        second.used_ns = 22 * NS_PER_MS
        engine.step(20 * NS_PER_MS)  # the cycle ends; second is overdrawn, first has 5 ms again
        assert acts == ["pause first", "resume first", "pause second"]

    def test_cycles_come_through(self, engine: Engine, host: SimulatedHost) -> None:
        for name in ("a", "b"):
            add(engine, host, name)
        log = run_engine(engine, host, NS_PER_S)
        assert [record.index for record in log.cycles] == list(range(len(log.cycles)))
        assert log.totals_ns()["a"] == pytest.approx(NS_PER_S / 2, rel=0.05)

    def test_closing_leaves_nothing_paused(self, engine: Engine, host: SimulatedHost) -> None:
        for name in ("a", "b", "c"):
            add(engine, host, name)
        run_until_paused(engine, host, "b")
        engine.close()
        host.assert_clean()
        engine.close()
        assert engine.names() == ()


class TestMembership:
    def test_a_removed_principal_runs(self, engine: Engine, host: SimulatedHost) -> None:
        add(engine, host, "a")
        group = add(engine, host, "b")
        run_until_paused(engine, host, "b")
        engine.remove("b", host.now_ns())
        assert not group.stopped
        assert engine.names() == ("a",)
        assert engine.paused() == frozenset()

    def test_removing_a_stranger_changes_nothing(self, engine: Engine) -> None:
        engine.remove("stranger", 0)
        assert engine.names() == ()

    def test_a_new_principal_needs_a_group(self, engine: Engine) -> None:
        with pytest.raises(KeyError):
            engine.put(PrincipalSpec("a", 1.0), 0)

    def test_a_group_that_has_ended_is_not_added(self, engine: Engine, host: SimulatedHost) -> None:
        group = host.group("a", Spin())
        group.end()
        with pytest.raises(GroupGoneError):
            engine.put(PrincipalSpec("a", 1.0), 0, group)
        assert engine.names() == ()

    def test_a_principal_whose_group_ends_is_reported_gone_and_forgotten(
        self, engine: Engine, host: SimulatedHost
    ) -> None:
        group = add(engine, host, "a")
        add(engine, host, "b")
        group.end()
        gone: list[str] = []
        for _ in range(20):
            step = engine.step(host.now_ns())
            gone.extend(step.gone)
            host.advance_to(step.next_wake_ns)
        assert gone == ["a"]
        assert engine.names() == ("b",)

    def test_a_group_that_ends_while_paused_is_gone_too(self, engine: Engine, host: SimulatedHost) -> None:
        add(engine, host, "a")
        group = add(engine, host, "b")
        run_until_paused(engine, host, "b")
        group.end()
        run_engine(engine, host, host.now_ns() + NS_PER_S)
        assert engine.names() == ("a",)
        assert engine.paused() == frozenset()

    def test_exchanging_the_group_keeps_the_count_and_frees_the_old_group(
        self, engine: Engine, host: SimulatedHost
    ) -> None:
        add(engine, host, "a")
        old = add(engine, host, "b")
        run_engine(engine, host, 300 * NS_PER_MS)
        run_until_paused(engine, host, "b")
        before_ns = engine.readings()["b"].cpu_ns
        elsewhere = SimulatedHost()
        new = elsewhere.group("b", Spin())
        elsewhere.advance_to(77 * NS_PER_MS)  # what it used before is not the principal's
        engine.put(PrincipalSpec("b", 1.0), host.now_ns(), new)
        assert not old.stopped
        assert engine.group("b") is new
        assert engine.readings()["b"].cpu_ns == before_ns
        elsewhere.advance_to(80 * NS_PER_MS)
        assert engine.readings()["b"].cpu_ns == before_ns + 3 * NS_PER_MS

    def test_changing_a_share_keeps_the_group(self, engine: Engine, host: SimulatedHost) -> None:
        group = add(engine, host, "a")
        engine.put(PrincipalSpec("a", 5.0), 0)
        assert engine.group("a") is group


class TestWatching:
    def test_who_is_only_watched_is_never_paused_and_counted(self, engine: Engine, host: SimulatedHost) -> None:
        add(engine, host, "a")
        add(engine, host, "b")
        watched = host.group("watched", Spin())
        engine.put(PrincipalSpec("watched", 1.0), 0, watched, observe=True)
        run_engine(engine, host, NS_PER_S)
        assert watched.pauses == 0
        assert engine.readings()["watched"].cpu_ns == watched.used_ns > 0
        engine.remove("watched", host.now_ns())
        assert "watched" not in engine.names()

    def test_who_is_watched_from_now_on_is_resumed(self, engine: Engine, host: SimulatedHost) -> None:
        add(engine, host, "a")
        group = add(engine, host, "b")
        run_until_paused(engine, host, "b")
        engine.put(PrincipalSpec("b", 1.0), host.now_ns(), observe=True)
        assert not group.stopped
        run_engine(engine, host, host.now_ns() + 500 * NS_PER_MS)
        assert not group.stopped

    def test_who_was_watched_comes_under_control(self, engine: Engine, host: SimulatedHost) -> None:
        add(engine, host, "a")
        group = host.group("b", Spin())
        engine.put(PrincipalSpec("b", 1.0), 0, group, observe=True)
        engine.put(PrincipalSpec("b", 1.0), 0)
        run_until_paused(engine, host, "b")
        assert group.stopped


class TestRefusals:
    @pytest.mark.parametrize("refusal", [MechanismError("not permitted"), ForeignStopError("stopped by hand")])
    def test_a_refused_pause_is_noted_and_the_rest_goes_on(self, refusal: Exception) -> None:
        acts: list[str] = []
        engine = Engine(PaperScheduler(CoreSettings()))
        stubborn, other = Recorder("stubborn", acts, refusal=refusal), Recorder("other", acts)
        for group in (stubborn, other):
            engine.put(PrincipalSpec(group.name, 1.0), 0, group)
        engine.step(0)
        stubborn.used_ns = 10 * NS_PER_MS
        step = engine.step(10 * NS_PER_MS)
        assert step.gone == ()
        assert engine.problems == {"stubborn": str(refusal)}
        assert "stubborn" in engine.names()
        # Once it is permitted again, the note goes.
        stubborn.refusal = None
        other.used_ns = 10 * NS_PER_MS
        engine.step(20 * NS_PER_MS)
        assert engine.problems == {}

    def test_the_note_goes_with_the_principal(self) -> None:
        engine = Engine(PaperScheduler(CoreSettings()))
        stubborn = Recorder("stubborn", [], refusal=MechanismError("not permitted"))
        engine.put(PrincipalSpec("stubborn", 1.0), 0, stubborn)
        engine.put(PrincipalSpec("other", 1.0), 0, Recorder("other", []))
        engine.step(0)
        stubborn.used_ns = 10 * NS_PER_MS
        engine.step(10 * NS_PER_MS)
        assert engine.problems
        engine.remove("stubborn", 10 * NS_PER_MS)
        assert engine.problems == {}
        assert stubborn.closed == 1


class TestReadings:
    def test_they_count_from_when_control_began(self, engine: Engine, host: SimulatedHost) -> None:
        group = host.group("a", Spin())
        host.advance_to(50 * NS_PER_MS)
        engine.put(PrincipalSpec("a", 1.0), host.now_ns(), group)
        host.advance_to(80 * NS_PER_MS)
        assert engine.readings()["a"].cpu_ns == 30 * NS_PER_MS

    def test_an_unknown_waiting_time_keeps_its_last_value(self) -> None:
        engine = Engine(TurnScheduler(CoreSettings()))
        group = Recorder("a", [], wait_ns=7)
        engine.put(PrincipalSpec("a", 1.0), 0, group)
        assert engine.readings()["a"].wait_ns == 7
        group.wait_ns = None
        assert engine.readings()["a"].wait_ns == 7

    def test_those_that_ended_are_left_out(self, engine: Engine, host: SimulatedHost) -> None:
        group = add(engine, host, "a")
        add(engine, host, "b")
        group.end()
        assert set(engine.readings()) == {"b"}


class FakePressure:
    """Says what it is told."""

    def __init__(self) -> None:
        self.waiting = False
        self.asked = 0

    def contended(self, now_ns: int) -> bool:
        self.asked += now_ns >= 0
        return self.waiting


class TestQuiet:
    @pytest.fixture
    def pressure(self) -> FakePressure:
        return FakePressure()

    @pytest.fixture
    def idle(self, host: SimulatedHost, pressure: FakePressure) -> Engine:
        """An engine with one principal that sleeps, and has been seen to."""
        engine = Engine(TurnScheduler(CoreSettings()), pressure=pressure)
        group = host.group("p", Bursts(NS_PER_S, 3600 * NS_PER_S, asleep_first=True))
        engine.put(PrincipalSpec("p", 1.0), host.now_ns(), group)
        for _ in range(20):
            host.advance_to(engine.step(host.now_ns()).next_wake_ns)
        assert pressure.asked
        return engine

    def test_on_a_quiet_host_an_idle_engine_reads_nobody(
        self, idle: Engine, host: SimulatedHost, pressure: FakePressure
    ) -> None:
        idle.step(host.now_ns() + LOOK_NS)  # the look that is due in any case
        host.advance_to(host.now_ns() + LOOK_NS)
        wakeups, end_ns = idle.wakeups, host.now_ns() + LOOK_NS
        while host.now_ns() + QUIET_NS < end_ns:
            host.advance_to(host.now_ns() + QUIET_NS)
            assert idle.step(host.now_ns()).next_wake_ns == host.now_ns() + QUIET_NS
        assert idle.wakeups == wakeups

    def test_a_group_that_ends_on_a_quiet_host_is_found_gone_all_the_same(
        self, idle: Engine, host: SimulatedHost
    ) -> None:
        group = idle.group("p")
        assert isinstance(group, SimulatedGroup)
        group.end()
        gone: tuple[str, ...] = ()
        end_ns = host.now_ns() + LOOK_NS + QUIET_NS
        while not gone:
            assert host.now_ns() <= end_ns
            step = idle.step(host.now_ns())
            gone = step.gone
            host.advance_to(step.next_wake_ns)
        assert gone == ("p",)

    def test_it_looks_at_everybody_as_soon_as_anybody_waits(
        self, idle: Engine, host: SimulatedHost, pressure: FakePressure
    ) -> None:
        wakeups = idle.wakeups
        pressure.waiting = True
        idle.step(host.now_ns())
        assert idle.wakeups == wakeups + 1

    def test_a_newcomer_is_looked_at_without_asking_the_host(
        self, idle: Engine, host: SimulatedHost, pressure: FakePressure
    ) -> None:
        add(idle, host, "q")
        wakeups, asked = idle.wakeups, pressure.asked
        idle.step(host.now_ns())
        assert (idle.wakeups, pressure.asked) == (wakeups + 1, asked)
