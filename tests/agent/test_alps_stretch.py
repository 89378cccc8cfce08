"""Cycles that lengthen because pausing and resuming hundreds of processes takes long."""

from __future__ import annotations

import pytest

from support.simulated import Alps, run_for
from utilctl_agent.alps.model import CoreSettings, Switch
from utilctl_agent.alps.rounds import ROUND_NS
from utilctl_agent.alps.stretch import LONG_NS, MOST, Stretch
from utilctl_agent.alps.turns import TurnScheduler
from utilctl_agent.testing import SimulatedHost, Spin
from utilctl_common.quantities import NS_PER_MS as MS

CYCLE_NS = 60 * MS


def switches(took_ns: int, *, every_ns: int, count: int = 20) -> list[Switch]:
    return [Switch(at * every_ns, 0, took_ns=took_ns) for at in range(count)]


class TestTheFactor:
    def test_switches_that_take_a_few_microseconds_change_nothing_however_many(self) -> None:
        stretch = Stretch(1)
        assert not stretch.learn(switches(LONG_NS - 1, every_ns=MS), CYCLE_NS)
        assert stretch.factor == 1.0

    def test_long_ones_lengthen_the_cycle_until_they_take_what_they_may(self) -> None:
        stretch = Stretch(2)
        assert stretch.learn(switches(300_000, every_ns=20 * MS), CYCLE_NS)
        assert stretch.factor == pytest.approx(300_000 / (20 * MS) / MOST)

    def test_the_cycle_stays_within_a_round(self) -> None:
        stretch = Stretch(2)
        stretch.learn(switches(10 * MS, every_ns=20 * MS), CYCLE_NS)
        assert stretch.factor * CYCLE_NS == pytest.approx(2 * ROUND_NS)

    def test_a_cycle_that_is_longer_than_a_round_stays_as_it_is(self) -> None:
        stretch = Stretch(1)
        assert not stretch.learn(switches(10 * MS, every_ns=20 * MS), 2 * ROUND_NS)

    def test_it_goes_back_when_switching_is_fast_again(self) -> None:
        stretch = Stretch(2)
        stretch.learn(switches(300_000, every_ns=20 * MS), CYCLE_NS)
        assert stretch.learn(switches(20_000, every_ns=60 * MS), 3 * CYCLE_NS)
        assert stretch.factor == 1.0

    def test_small_changes_are_left_alone(self) -> None:
        stretch = Stretch(2)
        stretch.learn(switches(300_000, every_ns=20 * MS), CYCLE_NS)
        before = stretch.factor
        assert not stretch.learn(switches(330_000, every_ns=60 * MS), 3 * CYCLE_NS)
        assert stretch.factor == before

    @pytest.mark.parametrize("count", [0, 1])
    def test_one_switch_says_nothing(self, count: int) -> None:
        assert not Stretch(2).learn(switches(10 * MS, every_ns=MS, count=count), CYCLE_NS)


def test_the_core_keeps_the_shares_in_the_longer_cycles() -> None:
    core = TurnScheduler(CoreSettings(cores=2, quantum_ns=10 * MS, reading_error_ns=4 * MS))
    alps = Alps(core, SimulatedHost(2, tick_ns=4 * MS))
    costs_ns = iter(range(0, 10**15, 500_000))  # every look at this clock is half a millisecond after the last
    alps.engine.clock_ns = lambda: next(costs_ns)
    for number, share in enumerate([1, 2, 3]):
        alps.add(f"p{number}", share, *[Spin()] * 50)
    run_for(alps.host, 10_000 * MS, alps)
    assert core.stretch == pytest.approx(500_000 / (10 * MS) / MOST, rel=0.3)
    alps.log.cycles.clear()
    alps.mark()
    begin_ns = alps.host.now_ns()
    run_for(alps.host, 10_000 * MS, alps)
    mean_ns = (alps.host.now_ns() - begin_ns) / len(alps.log.cycles)
    assert mean_ns == pytest.approx(core.stretch * 30 * MS, rel=0.1)
    assert alps.fractions() == pytest.approx({"p0": 1 / 6, "p1": 2 / 6, "p2": 3 / 6}, rel=0.02)
