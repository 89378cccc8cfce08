"""How often the default core wakes up, and whom it looks at."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.simulated import MS, make, run_for, spinners
from utilctl_agent.alps.model import CoreSettings, Decision
from utilctl_agent.alps.turns import TurnScheduler
from utilctl_agent.testing import Bursts

SHARES = st.lists(st.integers(1, 20), min_size=2, max_size=8)
LATENCIES_NS = st.sampled_from([0, 50_000, 100_000, 300_000])
SLOW = settings(max_examples=25, deadline=None)


class TestWakeUps:
    @SLOW
    @given(shares=SHARES, cores=st.integers(1, 4), latency_ns=LATENCIES_NS)
    def test_two_wake_ups_are_never_closer_than_the_minimum_gap(
        self, shares: list[int], cores: int, latency_ns: int
    ) -> None:
        alps = spinners(make(cores=cores, latency_ns=latency_ns), shares)
        run_for(alps.host, 1000 * MS, alps)
        instants_ns = [now_ns for now_ns, _ in alps.core.decisions]
        gaps_ns = [after - before for before, after in pairwise(instants_ns)]
        assert min(gaps_ns) >= CoreSettings().min_gap_ns
        assert max(gaps_ns) <= CoreSettings().idle_sleep_ns + latency_ns

    def test_an_empty_core_sleeps(self) -> None:
        assert TurnScheduler(CoreSettings()).decide(0, {}) == Decision((), (), CoreSettings().idle_sleep_ns, idle=True)

    @pytest.mark.parametrize("sleepers", [1, 50, 51, 400])
    def test_idle_principals_are_glanced_at_the_rarer_the_more_there_are(self, sleepers: int) -> None:
        alps = make()
        for number in range(sleepers):
            alps.add(f"p{number}", 1, Bursts(MS, 3600_000 * MS, asleep_first=True))
        run_for(alps.host, 2000 * MS, alps)
        reads = alps.core.reads
        run_for(alps.host, 4000 * MS, alps)
        assert alps.core.reads - reads <= 4000 * MS / max(100 * MS, 2 * MS * sleepers) * sleepers + sleepers

    def test_an_idle_principal_that_wants_cpu_is_under_control_soon(self) -> None:
        alps = make()
        alps.add("sleeper", 1, Bursts(10**15, 3000 * MS, asleep_first=True))
        alps.add("worker", 1)
        run_for(alps.host, 3500 * MS, alps)
        alps.mark()
        run_for(alps.host, 1000 * MS, alps)
        assert alps.used_ns()["sleeper"] == pytest.approx(500 * MS, rel=0.05)

    def test_nobody_is_idle_while_anybody_works(self) -> None:
        alps = make()
        alps.add("worker", 1)
        alps.add("sleeper", 1, Bursts(10**15, 1000 * MS, asleep_first=True))
        run_for(alps.host, 2000 * MS, alps)
        assert not any(decision.idle for _, decision in alps.core.decisions)

    def test_many_active_principals_that_are_looked_at_rarely_are_not_taken_for_idle(self) -> None:
        alps = spinners(make(), [1] * 300)
        assert not any(decision.idle for _, decision in alps.core.decisions)
        run_for(alps.host, 1000 * MS, alps)
        assert not any(decision.idle for _, decision in alps.core.decisions)


class TestSharedTurns:
    def test_of_many_who_share_a_turn_only_those_who_are_about_done_are_read(self) -> None:
        alps = spinners(make(latency_ns=50_000), [5] * 100)
        run_for(alps.host, 11_000 * MS, alps)
        reads, cycles = alps.core.reads, len(alps.log.cycles)
        run_for(alps.host, 15_000 * MS, alps)
        assert len(alps.log.cycles) == cycles + 3
        assert alps.core.reads - reads <= 3 * 6 * 100
        for cycle in alps.log.cycles[cycles:]:
            assert max(cycle.cpu_ns.values()) - min(cycle.cpu_ns.values()) <= 0.01 * 50 * MS

    def test_whoever_comes_while_others_share_a_turn_joins_it(self) -> None:
        alps = spinners(make(), [20] * 20)
        run_for(alps.host, 8_300 * MS, alps)
        alps.add("newcomer", 20)
        run_for(alps.host, 1_500 * MS, alps)
        assert alps.engine.paused_ns("newcomer", alps.host.now_ns()) <= 100 * MS
        alps.mark()
        run_for(alps.host, 8_400 * MS, alps)
        assert alps.used_ns()["newcomer"] == pytest.approx(400 * MS, rel=0.1)
