"""Hundreds of principals on one core: they share it by the kernel's fairness, and the shares still come out."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from utilctl_agent.alps.allotment import rms_relative_error
from utilctl_agent.alps.crowd import AHEAD, SLICE_NS, amounts, is_crowd
from utilctl_agent.alps.model import CoreSettings, CycleRecord, PrincipalSpec
from utilctl_agent.alps.principal import Principal
from utilctl_agent.alps.together import SharedTurn
from utilctl_agent.alps.turns import TurnScheduler
from utilctl_agent.engine import Engine
from utilctl_agent.testing import Bursts, SimulatedGroup, SimulatedHost, Spin, run_engine
from utilctl_common.quantities import NS_PER_MS, NS_PER_S

LATENCY_NS = 50_000
ALWAYS_BUSY = Bursts(10**18, 200 * NS_PER_MS, asleep_first=True)
"""Sleeps at first, like a program that has not been let go yet."""


class _Crowd:
    def __init__(self, shares: list[float], behaviour: Spin | Bursts = ALWAYS_BUSY) -> None:
        self.host = SimulatedHost(1)
        self.engine = Engine(TurnScheduler(CoreSettings(quantum_ns=10 * NS_PER_MS)))
        self.shares = {f"p{index}": share for index, share in enumerate(shares)}
        self.groups: dict[str, SimulatedGroup] = {}
        for name, share in self.shares.items():
            self.add(name, share, behaviour)

    def add(self, name: str, share: float, behaviour: Spin | Bursts) -> None:
        self.shares[name] = share
        self.groups[name] = self.host.group(name, behaviour)
        self.engine.put(PrincipalSpec(name, share, 1), self.host.now_ns(), self.groups[name])

    def end(self, name: str) -> None:
        self.engine.remove(name, self.host.now_ns())
        self.groups[name].end()
        del self.shares[name]

    def run_until(self, second: float) -> list[CycleRecord]:
        return run_engine(self.engine, self.host, round(second * NS_PER_S), latency_ns=LATENCY_NS).cycles

    def error(self, cycle: CycleRecord) -> float:
        return rms_relative_error(cycle.cpu_ns, self.shares)


class TestCrowds:
    @pytest.mark.parametrize("behaviour", [Spin(), ALWAYS_BUSY])
    def test_equal_shares_are_within_a_slice_in_every_cycle_and_nobody_is_paused(
        self, behaviour: Spin | Bursts
    ) -> None:
        crowd = _Crowd([5.0] * 300, behaviour)
        cycles = crowd.run_until(62)
        assert len(cycles) >= 3
        assert max(map(crowd.error, cycles)) <= 0.05
        assert sum(crowd.engine.paused_ns(name, 0) for name in crowd.shares) == 0

    def test_it_costs_a_few_decisions_a_second(self) -> None:
        crowd = _Crowd([5.0] * 300)
        crowd.run_until(5)
        before = crowd.engine.wakeups
        crowd.run_until(45)
        assert crowd.engine.wakeups - before <= 2 * 40

    def test_over_many_cycles_everybody_gets_the_same(self) -> None:
        crowd = _Crowd([1.0] * 200)  # cycles of 2 s: three slices each
        cycles = crowd.run_until(60)
        got = {name: sum(cycle.cpu_ns[name] for cycle in cycles[1:]) for name in crowd.shares}
        assert rms_relative_error(got, crowd.shares) <= 0.02

    def test_whoever_is_ahead_waits_for_the_end_of_the_cycle(self) -> None:
        """One of two sizes: the small ones are done before, and never wait for longer than a pause may last."""
        crowd = _Crowd([2.0] * 100 + [6.0] * 100)
        cycles = crowd.run_until(60)
        assert crowd.error(cycles[-1]) <= 0.05
        assert crowd.engine.paused_ns("p0", crowd.host.now_ns()) > 0

    def test_one_that_becomes_a_crowd_and_one_that_is_no_longer_keep_their_shares(self) -> None:
        crowd = _Crowd([5.0] * 160)
        crowd.run_until(30)
        for index in range(80):
            crowd.end(f"p{index}")
        few = crowd.run_until(50)
        assert crowd.error(few[-1]) <= 0.02
        for index in range(200, 320):
            crowd.add(f"p{index}", 5.0, Spin())
        many = crowd.run_until(90)
        assert crowd.error(many[-1]) <= 0.05

    def test_one_that_falls_asleep_leaves_its_part_to_the_others(self) -> None:
        crowd = _Crowd([5.0] * 200)
        for index in range(200, 210):
            crowd.add(f"p{index}", 5.0, Bursts(30 * NS_PER_MS, 5 * NS_PER_S))
        crowd.run_until(60)
        assert crowd.host.idle_ns <= NS_PER_S  # before anybody woke up

    def test_short_cycles_and_caps_make_no_crowd(self) -> None:
        short = _Crowd([0.5] * 200, Spin())  # cycles of one second
        capped = _Crowd([5.0] * 200, Spin())
        spec = PrincipalSpec("p0", 5.0, 1, cap_cores=0.001)
        capped.engine.put(spec, 0)
        for crowd, name in ((short, "p0"), (capped, "p1")):
            crowd.run_until(30)
            assert crowd.engine.paused_ns(name, crowd.host.now_ns()) > 0
        readings = capped.engine.readings()
        assert readings["p0"].cpu_ns <= readings["p1"].cpu_ns

    @given(st.integers(147, 400), st.integers(1, 20))
    @settings(max_examples=10, deadline=None)
    def test_all_of_the_core_is_used_and_counted_once(self, count: int, share: int) -> None:
        crowd = _Crowd([float(share)] * count, Spin())
        crowd.run_until(5)
        crowd.engine.settle()
        used_ns = sum(reading.cpu_ns for reading in crowd.engine.readings().values())
        assert crowd.host.idle_ns + used_ns == crowd.host.now_ns()
        assert crowd.host.idle_ns == 0


@pytest.mark.parametrize(("hungry", "crowd"), [(1, False), (100, False), (146, False), (147, True), (1000, True)])
def test_a_crowd_is_one_whose_slices_take_half_a_round(hungry: int, crowd: bool) -> None:
    assert is_crowd(hungry) is crowd


def test_members_may_be_ahead_by_two_slices_or_a_quarter_of_their_allotment() -> None:
    big, small = (
        Principal(PrincipalSpec(name, 1.0, 1), 0, 0, 0, 1.0, allotment_ns=allotment_ns)
        for name, allotment_ns in (("big", 100 * NS_PER_MS), ("small", 4 * NS_PER_MS))
    )
    given_ns = amounts([(big, 50 * NS_PER_MS), (small, 3 * NS_PER_MS)])
    assert given_ns == {"big": 50 * NS_PER_MS + 2 * SLICE_NS, "small": round((3 + 4 * AHEAD) * NS_PER_MS)}
    assert amounts([(big, 0), (small, -NS_PER_MS)]) == {}


@pytest.mark.parametrize("crowd", [True, False])
def test_who_had_its_part_joins_again_in_a_crowd_only(crowd: bool) -> None:
    """It was taken to be asleep for a while; elsewhere it has exact turns at the end of the cycle."""
    members = {
        name: Principal(
            PrincipalSpec(name, 1.0, 1), 0, 0, 0, 1.0, allotment_ns=100 * NS_PER_MS, allowance_ns=90 * NS_PER_MS
        )
        for name in ("stays", "slept")
    }
    shared = SharedTurn(100 * NS_PER_MS)
    shared.begin(members, 0, crowd=crowd)
    slept = members.pop("slept")
    slept.together = False
    again = shared.joins([slept], cycle_ns=10 * NS_PER_S, round_ns=NS_PER_S)
    assert again == ([slept] if crowd else [])
