"""Turns planned ahead and common turns: what they save, what they must not cost, and where they end."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.simulated import MS, Alps, run_for
from utilctl_agent.alps.allotment import rms_relative_error
from utilctl_agent.alps.model import CoreSettings, Decision, PrincipalSpec, Reading, Turn
from utilctl_agent.alps.pauses import PauseGovernor, PauseSettings
from utilctl_agent.alps.principal import Principal, Use, observe
from utilctl_agent.alps.rounds import ROUND_NS
from utilctl_agent.alps.together import LEAST_NS, amounts_together
from utilctl_agent.alps.turns import TurnScheduler
from utilctl_agent.testing import Bursts, SimulatedHost, Spin

SLOW = settings(max_examples=25, deadline=None)
LATENCY_NS = 60_000


def spinners(shares: list[int], *, slice_ms: int = 3) -> Alps:
    alps = Alps(TurnScheduler(CoreSettings()), SimulatedHost(1, slice_ns=slice_ms * MS), latency_ns=LATENCY_NS)
    for number, share in enumerate(shares):
        alps.add(f"p{number}", share)
    return alps


def settled(alps: Alps, cycles: float) -> None:
    """Let the core learn whom it has before it, then forget what was measured."""
    run_for(alps.host, round(cycles * sum(alps.shares.values()) * 10 * MS), alps)
    alps.log.cycles.clear()
    alps.core.reads = 0
    alps.mark()


class TestPlans:
    def test_once_all_are_trusted_most_wake_ups_only_switch(self) -> None:
        alps = spinners([1, 2, 3])
        settled(alps, 30)
        before = alps.engine.wakeups
        run_for(alps.host, 6_000 * MS, alps)
        wakeups = alps.engine.wakeups - before
        assert 280 <= wakeups <= 320, "three turns in each cycle of 60 ms"
        assert alps.core.reads <= wakeups / 10, "decisions, which ask for readings, are rare"

    @SLOW
    @given(shares=st.lists(st.integers(1, 20), min_size=2, max_size=8))
    def test_planned_turns_keep_the_shares_in_every_cycle(self, shares: list[int]) -> None:
        alps = spinners(shares)
        settled(alps, 12)
        run_for(alps.host, 20 * sum(shares) * 10 * MS, alps)
        errors = [rms_relative_error(record.cpu_ns, alps.shares) for record in alps.log.cycles[1:]]
        assert len(errors) >= 15
        assert max(errors) <= 0.03
        assert alps.host.idle_ns == 0

    @SLOW
    @given(shares=st.lists(st.integers(1, 9), min_size=2, max_size=5), stop_ms=st.integers(500, 3_000))
    def test_every_nanosecond_is_counted_once_whenever_one_stops(self, shares: list[int], stop_ms: int) -> None:
        alps = spinners(shares)
        run_for(alps.host, stop_ms * MS, alps)
        readings = alps.engine.readings()
        assert {name: reading.cpu_ns for name, reading in readings.items()} == alps.used_ns()
        counted = alps.log.totals_ns()
        assert all(counted.get(name, 0) <= used_ns for name, used_ns in alps.used_ns().items())
        assert [record.index for record in alps.log.cycles] == list(range(len(alps.log.cycles)))

    def test_a_plan_ends_with_the_turn_that_is_not_used(self) -> None:
        alps = spinners([1, 1])
        sleeper = alps.add("sleeper", 2, Bursts(3_000 * MS, 400 * MS))
        while sleeper.used_ns < 2_995 * MS:
            run_for(alps.host, 5 * MS, alps)
        alps.mark()
        idle_ns = alps.host.idle_ns
        run_for(alps.host, 300 * MS, alps)
        assert alps.host.idle_ns - idle_ns <= 45 * MS, "at most two of its turns go by before it is noticed"

    def test_a_newcomer_and_a_leaver_end_the_plan(self) -> None:
        alps = spinners([1, 2])
        settled(alps, 30)
        alps.add("late", 3)
        run_for(alps.host, 3_000 * MS, alps)
        alps.mark()
        run_for(alps.host, 6_000 * MS, alps)
        assert alps.fractions() == pytest.approx({"p0": 1 / 6, "p1": 2 / 6, "late": 3 / 6}, rel=0.02)
        alps.leave("p1")
        run_for(alps.host, 1_000 * MS, alps)
        alps.mark()
        run_for(alps.host, 6_000 * MS, alps)
        assert alps.fractions() == pytest.approx({"p0": 1 / 4, "late": 3 / 4}, rel=0.02)

    def test_nobody_is_paused_longer_than_allowed_by_a_plan(self) -> None:
        governor = PauseGovernor(PauseSettings(max_pause_ns=500 * MS, margin_ns=50 * MS))
        governor.apply(Decision(("b", "c"), (), 0), 0)
        plan = [
            Turn("a", 100 * MS, 0, 0),
            Turn("b", 300 * MS, 0, 0),
            Turn("a", 400 * MS, 0, 0),
            Turn("c", 600 * MS, 0, 0),
        ]
        assert governor.reach_ns(plan) is None, "c runs again before 450 ms"
        assert governor.reach_ns([*plan[:3], Turn("a", 500 * MS, 0, 0)]) == 450 * MS
        assert governor.reach_ns([Turn("a", 449 * MS, 0, 0)]) is None


class TestReadingsThatLag:
    """Several CPUs: what runs on another one is known up to its last tick only, 4 ms ago."""

    @staticmethod
    def groups(shares: list[int], *, cores: int = 2, threads: int = 6) -> Alps:
        core = TurnScheduler(CoreSettings(quantum_ns=40 * MS, cores=cores, reading_error_ns=4 * MS))
        alps = Alps(core, SimulatedHost(cores, tick_ns=4 * MS), latency_ns=LATENCY_NS)
        for number, share in enumerate(shares):
            alps.add(f"p{number}", share, *[Spin()] * threads)
        return alps

    @SLOW
    @given(shares=st.lists(st.integers(1, 5), min_size=2, max_size=5), cores=st.integers(2, 4))
    def test_groups_that_fill_the_host_are_exact_in_every_cycle(self, shares: list[int], cores: int) -> None:
        alps = self.groups(shares, cores=cores)
        cycle_ns = sum(shares) * 40 * MS // cores
        run_for(alps.host, 15 * cycle_ns, alps)
        alps.log.cycles.clear()
        run_for(alps.host, 20 * cycle_ns, alps)
        errors = [rms_relative_error(record.cpu_ns, alps.shares) for record in alps.log.cycles]
        assert len(errors) >= 15
        assert sum(errors) / len(errors) <= 0.02
        assert alps.host.idle_ns == 0

    @SLOW
    @given(shares=st.lists(st.integers(1, 5), min_size=2, max_size=4), stop_ms=st.integers(300, 3_000))
    def test_every_cycle_is_reported_with_all_that_was_used_in_it(self, shares: list[int], stop_ms: int) -> None:
        alps = self.groups(shares)
        run_for(alps.host, stop_ms * MS, alps)
        assert [record.index for record in alps.log.cycles] == list(range(len(alps.log.cycles)))
        counted = alps.log.totals_ns()
        used = alps.used_ns()
        assert all(counted.get(name, 0) <= used[name] for name in used)
        if alps.log.cycles:
            end_ns = alps.log.cycles[-1].end_ns
            assert sum(counted.values()) == pytest.approx(2 * end_ns, abs=2 * 4 * MS)

    @pytest.mark.parametrize(("queued_ns", "rate_cores"), [(90 * MS, 2.0), (40 * MS, 1.05), (None, 1.05)])
    def test_one_whose_threads_waited_all_the_time_is_taken_to_fill_the_host(
        self, queued_ns: int | None, rate_cores: float
    ) -> None:
        """Beside another group it used one of two CPUs: what it would use alone does not show in that."""
        core_settings = CoreSettings(cores=2)
        principal = Principal(PrincipalSpec("a", 1, 50), 0, 0, 0, 1.0)
        principal.last_queued_ns = 0
        principal.observed_ns, principal.observed_used_ns, principal.observed_others_ns = 100 * MS, 100 * MS, 100 * MS
        reading = Reading(100 * MS, 0, False, queued_ns)
        observe(principal, reading, core_settings, Use(principal.used_ns, 0, 100 * MS))
        assert principal.rate_cores == pytest.approx(rate_cores)

    def test_one_that_sleeps_is_noticed_although_it_is_read_late(self) -> None:
        alps = self.groups([1, 1])
        alps.add("sleeper", 2, *[Bursts(1_000 * MS, 500 * MS)] * 4)
        run_for(alps.host, 20_000 * MS, alps)
        assert alps.host.idle_ns <= 0.05 * 2 * alps.host.now_ns()


class TestCommonTurns:
    @pytest.mark.parametrize("count", [40, 100])
    def test_many_equals_cost_about_one_switch_each_a_cycle(self, count: int) -> None:
        alps = spinners([5] * count)
        settled(alps, 2)
        before = alps.engine.wakeups
        cycle_ns = 5 * count * 10 * MS
        run_for(alps.host, 2 * cycle_ns, alps)
        assert (alps.engine.wakeups - before) / 2 <= 1.3 * count
        errors = [rms_relative_error(record.cpu_ns, alps.shares) for record in alps.log.cycles]
        assert errors
        assert max(errors) <= 0.01

    def test_their_bursts_are_noticed(self) -> None:
        alps = spinners([20] * 10)
        alps.add("sleeper", 20, Bursts(500 * MS, 300 * MS))
        run_for(alps.host, 20_000 * MS, alps)
        assert alps.host.idle_ns <= 0.02 * alps.host.now_ns()

    @SLOW
    @given(
        allotments_ms=st.lists(st.integers(1, 400), min_size=1, max_size=30),
        parallelism=st.integers(1, 4),
    )
    def test_a_reserve_is_kept_and_the_last_is_not_waited_for_longer_than_a_round(
        self, allotments_ms: list[int], parallelism: int
    ) -> None:
        principals = [
            Principal(
                PrincipalSpec(f"p{i}", 1, parallelism), 0, None, 0, 1.0, allotment_ns=ms * MS, allowance_ns=ms * MS
            )
            for i, ms in enumerate(allotments_ms)
        ]
        cycle_ns = sum(allotments_ms) * MS
        amounts = amounts_together(((p, p.allowance_ns) for p in principals), cycle_ns=cycle_ns, round_ns=ROUND_NS)
        reserve = min(1.0, ROUND_NS / cycle_ns)
        for principal in principals:
            if principal.spec.name in amounts:
                amount_ns = amounts[principal.spec.name]
                assert LEAST_NS - 1 <= amount_ns <= (1 - reserve) * principal.allotment_ns + 1
        assert len(amounts) != 1, "alone, nobody shares anything"
        if amounts:
            waits_ns = sum(amounts.values()) - min(amounts.values()) * len(amounts)
            assert waits_ns <= ROUND_NS + len(amounts)

    def test_a_reading_in_between_changes_nothing(self) -> None:
        core = TurnScheduler(CoreSettings())
        for name in ("a", "b"):
            core.put(PrincipalSpec(name, 200), 0, Reading(0, 0))
        assert core.follow([], failed=False) == ()
