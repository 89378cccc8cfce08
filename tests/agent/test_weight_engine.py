"""One step of weighing, alone and beside an engine that pauses, on groups that only pretend."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from utilctl_agent.alps.model import CoreSettings, PrincipalSpec, Reading
from utilctl_agent.alps.turns import TurnScheduler
from utilctl_agent.alps.weights import CPU_SHARES, Knob, WeightScheduler
from utilctl_agent.engine import Engine
from utilctl_agent.host.port import ForeignWeightError, GroupGoneError, MechanismError
from utilctl_agent.mixed import MixedEngine
from utilctl_agent.testing import SimulatedHost, Spin
from utilctl_agent.weight_engine import NO_CAPS, WeightEngine
from utilctl_common.quantities import NS_PER_MS, NS_PER_S

PERIOD_NS = 200 * NS_PER_MS


@dataclass
class Pretended:
    """A group with a weight. Implements weight_engine.Weighable. foreign, refusing, gone: what happens to it."""

    used_ns: int = 0
    knob: Knob = CPU_SHARES
    mechanism: str = "weight"
    weight: int = 1024
    foreign: bool = False
    refusing: bool = False
    gone: bool = False
    closed: int = 0
    written: list[int] = field(default_factory=list)

    def cpu_ns(self) -> int:
        return self.used_ns

    def read(self, *, observe: bool = True) -> Reading:
        self._check()
        return Reading(self.used_ns, None, False if observe else None)

    def check(self) -> None:
        self._check()
        if self.foreign:
            raise ForeignWeightError("cpu.shares was set by somebody else")

    def set_weight(self, weight: int) -> None:
        self.check()
        if self.refusing:
            raise MechanismError("read-only")
        self.weight = weight
        self.written.append(weight)

    def restore(self) -> None:
        self.set_weight(1024)

    def pause(self) -> None:
        raise AssertionError("nobody is paused here")

    def resume(self) -> None:
        raise AssertionError("nobody is paused here")

    def close(self) -> None:
        self.closed += 1

    def _check(self) -> None:
        if self.gone:
            raise GroupGoneError("it was removed")


@pytest.fixture
def engine() -> WeightEngine:
    return WeightEngine(WeightScheduler())


def add(engine: WeightEngine, name: str, share: float = 1.0, cap_cores: float | None = None) -> Pretended:
    group = Pretended()
    engine.put(PrincipalSpec(name, share, 1, cap_cores), 0, group)
    return group


def run(engine: WeightEngine, groups: list[Pretended], seconds: float, start_ns: int = 0) -> int:
    """Equal parts for everybody, whatever the weights."""
    now_ns = start_ns
    while now_ns < start_ns + seconds * NS_PER_S:
        now_ns += PERIOD_NS
        for group in groups:
            group.used_ns += PERIOD_NS // len(groups)
        engine.step(now_ns)
    return now_ns


class TestWeighing:
    def test_the_first_step_writes_weights_in_proportion_to_the_shares(self, engine: WeightEngine) -> None:
        one, three = add(engine, "one", 1), add(engine, "three", 3)
        step = engine.step(0)
        assert (one.written, three.written) == ([512], [1536])
        assert (step.next_wake_ns, step.gone) == (PERIOD_NS, ())

    def test_who_gets_too_little_gets_more_weight(self, engine: WeightEngine) -> None:
        groups = [add(engine, "one", 1), add(engine, "three", 3)]
        run(engine, groups, 3)
        assert groups[1].weight > 1536
        assert groups[0].weight < 512

    def test_readings_count_from_when_control_began(self, engine: WeightEngine) -> None:
        group = Pretended(used_ns=50)
        engine.put(PrincipalSpec("a", 1.0), 0, group)
        group.used_ns = 80
        assert engine.readings()["a"].cpu_ns == 30
        other = Pretended(used_ns=1000)
        engine.put(PrincipalSpec("a", 1.0), 0, other)
        other.used_ns = 1001
        assert engine.readings()["a"].cpu_ns == 31, "an exchanged group keeps the count"
        assert group.closed == 1

    def test_a_removed_principal_gets_its_weight_back_by_closing_its_group(self, engine: WeightEngine) -> None:
        group = add(engine, "a")
        engine.remove("a", 0)
        engine.remove("a", 0)
        assert (group.closed, engine.names()) == (1, ())

    def test_who_is_only_watched_from_now_on_gets_its_weight_back(self, engine: WeightEngine) -> None:
        group = add(engine, "a", 3)
        add(engine, "b")
        engine.step(0)
        engine.put(PrincipalSpec("a", 3.0), 0, observe=True)
        assert group.weight == 1024
        engine.step(PERIOD_NS)
        assert group.weight == 1024
        assert set(engine.readings()) == {"a", "b"}
        engine.put(PrincipalSpec("a", 3.0), PERIOD_NS)
        engine.step(PERIOD_NS)
        assert group.weight == 1536

    def test_closing_closes_everybody_once(self, engine: WeightEngine) -> None:
        group = add(engine, "a")
        engine.close()
        engine.close()
        assert group.closed == 1

    def test_a_group_without_a_weight_is_refused(self, engine: WeightEngine) -> None:
        with pytest.raises(MechanismError, match="no weight"):
            engine.put(PrincipalSpec("a", 1.0), 0, SimulatedHost().group("a", Spin()))
        assert engine.names() == ()

    def test_a_cap_is_reported_as_not_held(self, engine: WeightEngine) -> None:
        add(engine, "a", cap_cores=0.5)
        assert engine.problems == {"a": NO_CAPS}


class TestRefusals:
    def test_a_weight_set_by_somebody_else_is_left_to_them_counted_and_reported(self, engine: WeightEngine) -> None:
        groups = [add(engine, "one", 1), add(engine, "three", 3)]
        now_ns = run(engine, groups, 1)
        groups[0].foreign = True
        before = list(groups[0].written)
        run(engine, groups, 5, now_ns)
        assert groups[0].written == before
        assert engine.foreign_writes == 1
        assert "somebody else" in engine.problems["one"]
        assert len(groups[1].written) > 3, "the others are weighed on"
        assert "one" in engine.names()

    def test_a_principal_whose_group_is_gone_is_told_and_forgotten(self, engine: WeightEngine) -> None:
        group = add(engine, "a")
        add(engine, "b")
        engine.step(0)
        group.gone = True
        assert engine.step(PERIOD_NS).gone == ("a",)
        assert engine.names() == ("b",)
        assert group.closed == 1

    def test_a_refused_write_is_noted_until_one_succeeds(self, engine: WeightEngine) -> None:
        groups = [add(engine, "one", 1), add(engine, "three", 3)]
        groups[0].refusing = True
        engine.step(0)
        assert engine.problems == {"one": "read-only"}
        groups[0].refusing = False
        run(engine, groups, 2)
        assert engine.problems == {}

    def test_a_weight_that_does_nothing_is_reported(self, engine: WeightEngine) -> None:
        run(engine, [add(engine, "one", 1), add(engine, "three", 3)], 60)
        assert "does not bring its share" in engine.problems["three"]


class TestMixed:
    @pytest.fixture
    def host(self) -> SimulatedHost:
        return SimulatedHost()

    @pytest.fixture
    def mixed(self) -> MixedEngine:
        return MixedEngine(Engine(TurnScheduler(CoreSettings())), WeightEngine(WeightScheduler()))

    def test_each_is_held_back_as_its_group_is_made_for(self, mixed: MixedEngine, host: SimulatedHost) -> None:
        weighed = Pretended()
        mixed.put(PrincipalSpec("weighed", 1.0), 0, weighed)
        paused = [host.group(name, Spin()) for name in ("a", "b")]
        for group in paused:
            mixed.put(PrincipalSpec(group.name, 1.0), 0, group)
        while host.now_ns() < 2 * NS_PER_S:
            step = mixed.step(host.now_ns())
            before_ns = host.now_ns()
            host.advance_to(max(step.next_wake_ns, before_ns + 1))
            weighed.used_ns += host.now_ns() - before_ns  # as much as both others: it shall get less
        assert sum(group.pauses for group in paused) > 10
        assert weighed.weight < 1024
        assert set(mixed.readings()) == set(mixed.names()) == {"weighed", "a", "b"}
        assert mixed.group("weighed") is weighed
        assert mixed.paused_ns("weighed", host.now_ns()) == 0
        mixed.close()
        host.assert_clean()
        assert weighed.closed == 1

    def test_who_was_paused_before_anybody_was_weighed_counts_too(self, host: SimulatedHost) -> None:
        pausing = Engine(TurnScheduler(CoreSettings()))
        spec = PrincipalSpec("before", 1.0)
        pausing.put(spec, 0, host.group("before", Spin()))
        mixed = MixedEngine(pausing, WeightEngine(WeightScheduler()), {"before": spec})
        weighed = Pretended()
        mixed.put(PrincipalSpec("weighed", 3.0), 0, weighed)
        mixed.step(0)
        assert weighed.weight == 1536

    def test_changing_the_kind_keeps_the_count(self, mixed: MixedEngine, host: SimulatedHost) -> None:
        weighed = Pretended()
        mixed.put(PrincipalSpec("a", 1.0), 0, weighed)
        weighed.used_ns = 70
        group = host.group("a", Spin())
        mixed.put(PrincipalSpec("a", 1.0), 0, group)
        assert weighed.closed == 1
        assert mixed.group("a") is group
        host.advance_to(30)
        assert mixed.readings()["a"].cpu_ns == 100
        mixed.put(PrincipalSpec("a", 1.0), 30, Pretended())
        assert mixed.readings()["a"].cpu_ns == 100
        mixed.remove("a", 30)
        assert mixed.names() == ()

    def test_with_nobody_under_control_it_sleeps(self, mixed: MixedEngine) -> None:
        step = mixed.step(7)
        assert (step.next_wake_ns > 7 + 50 * NS_PER_MS, step.closed, step.gone) == (True, (), ())

    def test_gone_and_problems_come_from_both(self, mixed: MixedEngine, host: SimulatedHost) -> None:
        weighed = Pretended()
        mixed.put(PrincipalSpec("w", 1.0, 1, 0.5), 0, weighed)
        group = host.group("p", Spin())
        mixed.put(PrincipalSpec("p", 1.0), 0, group)
        assert mixed.problems == {"w": NO_CAPS}
        mixed.step(0)
        weighed.gone = True
        group.end()
        gone: list[str] = []
        for tick in range(1, 6):
            gone += mixed.step(tick * PERIOD_NS).gone
        assert sorted(gone) == ["p", "w"]
        assert mixed.wakeups > 2
