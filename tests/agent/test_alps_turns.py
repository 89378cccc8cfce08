"""The default core on simulated hosts: properties that hold whatever the shares, the cores and the behaviours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.simulated import MS, Alps, make, run_for, spinners
from utilctl_agent.alps.feasible import feasible_fractions
from utilctl_agent.alps.model import CoreSettings, CycleRecord, Decision, PrincipalSpec, Reading, Switch
from utilctl_agent.alps.turns import TurnScheduler
from utilctl_agent.testing import Bursts, Spin

SHARES = st.lists(st.integers(1, 20), min_size=2, max_size=8)
QUANTA_MS = st.sampled_from([2, 5, 10, 20])
SLICES_MS = st.sampled_from([1, 3, 6])
LATENCIES_NS = st.sampled_from([0, 50_000, 100_000, 300_000])
BURSTS = st.builds(
    Bursts,
    compute_ns=st.sampled_from([1, 5, 20, 80]).map(lambda ms: ms * MS),
    sleep_ns=st.sampled_from([1, 5, 20, 100, 240]).map(lambda ms: ms * MS),
    asleep_first=st.booleans(),
)
BEHAVIOURS = st.one_of(st.just(Spin()), BURSTS)
SLOW = settings(max_examples=25, deadline=None)


def feasible(alps: Alps) -> dict[str, float]:
    specs = [PrincipalSpec(name, share) for name, share in alps.shares.items()]
    return feasible_fractions(specs, alps.host.cores)


class TestOneCore:
    @SLOW
    @given(shares=SHARES, quantum_ms=QUANTA_MS, slice_ms=SLICES_MS, latency_ns=LATENCIES_NS)
    def test_in_every_cycle_everybody_hungry_gets_their_share_but_for_a_late_wake_up(
        self, shares: list[int], quantum_ms: int, slice_ms: int, latency_ns: int
    ) -> None:
        alps = spinners(make(quantum_ms=quantum_ms, slice_ms=slice_ms, latency_ns=latency_ns), shares)
        run_for(alps.host, 12 * sum(shares) * quantum_ms * MS, alps)
        steady = alps.log.cycles[3:]
        assert len(steady) >= 5
        for record in steady:
            total_ns = sum(record.cpu_ns.values())
            for name, share in alps.shares.items():
                # A turn may end a wake-up's latency late and the turn before may have; min_gap_ns besides.
                assert abs(record.cpu_ns[name] - total_ns * share / sum(shares)) <= 2 * latency_ns + 100_000

    @SLOW
    @given(shares=SHARES, quantum_ms=QUANTA_MS, slice_ms=SLICES_MS, latency_ns=LATENCIES_NS)
    def test_in_the_long_run_everybody_hungry_gets_their_share(
        self, shares: list[int], quantum_ms: int, slice_ms: int, latency_ns: int
    ) -> None:
        alps = spinners(make(quantum_ms=quantum_ms, slice_ms=slice_ms, latency_ns=latency_ns), shares)
        cycle_ns = sum(shares) * quantum_ms * MS
        run_for(alps.host, 3 * cycle_ns, alps)
        alps.mark()
        run_for(alps.host, 30 * cycle_ns, alps)
        used_ns = alps.used_ns()
        for name, share in alps.shares.items():
            ideal_ns = 30 * cycle_ns * share / sum(shares)
            # The window need not begin and end with a cycle: one allotment at either end.
            assert abs(used_ns[name] - ideal_ns) <= 2 * share * quantum_ms * MS + 2 * latency_ns
        assert alps.host.idle_ns == 0

    @SLOW
    @given(
        shares=st.lists(st.integers(1, 13), min_size=2, max_size=4),
        others=st.lists(st.tuples(st.integers(1, 13), BURSTS), max_size=3),
        quantum_ms=QUANTA_MS,
        latency_ns=LATENCIES_NS,
    )
    def test_beside_others_that_come_and_go_the_hungry_keep_their_ratio_and_are_never_starved(
        self, shares: list[int], others: list[tuple[int, Bursts]], quantum_ms: int, latency_ns: int
    ) -> None:
        alps = spinners(make(quantum_ms=quantum_ms, latency_ns=latency_ns), shares)
        hungry = list(alps.shares)
        for number, (share, bursts) in enumerate(others):
            alps.add(f"other{number}", share, bursts)
        cycle_ns = round(sum(alps.shares.values()) * quantum_ms * MS)
        run_for(alps.host, 4 * cycle_ns, alps)
        alps.mark()
        for _ in range(10):
            before_ns = alps.used_ns()
            run_for(alps.host, 4 * cycle_ns, alps)
            after_ns = alps.used_ns()
            assert all(after_ns[name] > before_ns[name] for name in hungry)
        fractions = alps.fractions(hungry)
        for name in hungry:
            ideal = alps.shares[name] / sum(shares)
            # A spinner ahead or behind by up to two allotments, of some forty.
            assert abs(fractions[name] / ideal - 1) <= 0.15

    def test_one_that_was_kept_waiting_for_long_shuts_nobody_out_once_it_is_hungry(self) -> None:
        """It computes for 5 ms and sleeps for 1: for long stretches it is light, and waits in each cycle."""
        alps = spinners(make(latency_ns=50_000), [2, 2])
        alps.add("bursts", 8, Bursts(80 * MS, 240 * MS))
        alps.add("nearly hungry", 11, Bursts(5 * MS, 1 * MS))
        for _ in range(20):
            alps.mark()
            run_for(alps.host, 4 * 230 * MS, alps)
            assert min(alps.used_ns()[name] for name in ("p0", "p1")) >= 2 * 20 * MS

    def test_the_smallest_shares_save_up_and_are_served_every_few_cycles(self) -> None:
        alps = make()
        alps.add("small", 0.01)
        alps.add("big", 3)
        run_for(alps.host, 1000 * MS, alps)
        alps.mark()
        run_for(alps.host, 30_000 * MS, alps)
        assert alps.fractions()["small"] == pytest.approx(0.01 / 3.01, rel=0.15)


class TestSeveralCores:
    @pytest.mark.parametrize(
        ("cores", "shares"),
        [
            (2, [3, 2, 1]),
            (2, [1, 2, 3, 4]),
            (3, [1, 2, 3, 4, 5, 6]),
            (4, [1, 2, 3, 4, 5, 6, 7, 8]),
            (2, [20, 1, 1]),  # infeasible: the first can use one core at most
            (8, [5] * 16),
        ],
    )
    def test_everybody_hungry_gets_the_feasible_part_of_their_share(self, cores: int, shares: list[int]) -> None:
        alps = spinners(make(cores=cores), shares)
        cycle_ns = sum(shares) * 10 * MS // cores
        run_for(alps.host, 10 * cycle_ns, alps)
        alps.mark()
        run_for(alps.host, 60 * cycle_ns, alps)
        assert alps.fractions() == pytest.approx(feasible(alps), rel=0.04)
        assert alps.host.idle_ns == 0

    @SLOW
    @given(
        cores=st.integers(2, 8), more=st.integers(1, 6), quantum_ms=QUANTA_MS, latency_ns=LATENCIES_NS, data=st.data()
    )
    def test_whatever_the_shares_nobody_is_far_from_the_feasible_part(
        self, cores: int, more: int, quantum_ms: int, latency_ns: int, data: st.DataObject
    ) -> None:
        shares = data.draw(st.lists(st.integers(1, 13), min_size=cores + more, max_size=cores + more))
        alps = spinners(make(cores=cores, quantum_ms=quantum_ms, latency_ns=latency_ns), shares)
        cycle_ns = sum(shares) * quantum_ms * MS // cores
        run_for(alps.host, 15 * cycle_ns, alps)
        alps.mark()
        run_for(alps.host, 45 * cycle_ns, alps)
        fractions, due = alps.fractions(), feasible(alps)
        # Of 45 allotments, some are still owed or were taken early.
        assert all(abs(fractions[name] / due[name] - 1) <= 0.15 for name in due)

    @pytest.mark.parametrize("cores", [3, 4, 8])
    def test_one_spinner_more_than_cores_starves_nobody(self, cores: int) -> None:
        alps = spinners(make(cores=cores, latency_ns=50_000), [5] * (cores + 1))
        run_for(alps.host, 2000 * MS, alps)
        alps.mark()
        run_for(alps.host, 10_000 * MS, alps)
        assert alps.fractions() == pytest.approx(feasible(alps), rel=0.05)

    @SLOW
    @given(
        cores=st.integers(2, 8),
        more=st.integers(0, 6),
        quantum_ms=QUANTA_MS,
        latency_ns=LATENCIES_NS,
        data=st.data(),
    )
    def test_no_core_idles_while_somebody_hungry_is_paused(
        self, cores: int, more: int, quantum_ms: int, latency_ns: int, data: st.DataObject
    ) -> None:
        shares = data.draw(st.lists(st.integers(1, 20), min_size=cores + more, max_size=cores + more))
        alps = spinners(make(cores=cores, quantum_ms=quantum_ms, latency_ns=latency_ns), shares)
        run_for(alps.host, 5 * sum(shares) * quantum_ms * MS // cores, alps)
        # A core idles for a wake-up's latency at most, once a turn and core; none of it while turns are contiguous.
        assert alps.host.idle_ns <= 0.01 * cores * alps.host.now_ns()


class TestUncontendedHost:
    @settings(max_examples=60, deadline=None)
    @given(cores=st.integers(1, 8), data=st.data())
    def test_nobody_is_ever_paused(self, cores: int, data: st.DataObject) -> None:
        alps = make(cores=cores)
        left = cores
        while left > 0:
            size = data.draw(st.integers(1, left))
            left -= size
            behaviours = data.draw(st.lists(BEHAVIOURS, min_size=size, max_size=size))
            alps.add(f"p{left}", data.draw(st.integers(1, 20)), *behaviours)
        run_for(alps.host, 2000 * MS, alps)
        assert {name: group.pauses for name, group in alps.groups.items() if group.pauses} == {}

    def test_a_single_spinner_is_never_paused_beside_foreign_load(self) -> None:
        alps = make()
        group = alps.add("only", 1)
        alps.host.group("foreign", Spin(), Spin())
        run_for(alps.host, 3000 * MS, alps)
        assert group.pauses == 0


class TestBlocking:
    @pytest.mark.parametrize("share", [1, 5])
    @pytest.mark.parametrize("sleep_ms", [100, 500, 2000])
    def test_time_asleep_earns_no_credit(self, share: int, sleep_ms: int) -> None:
        alps = make()
        alps.add("spinner", share)
        alps.add("sleeper", share, Bursts(10**15, sleep_ms * MS, asleep_first=True))
        run_for(alps.host, sleep_ms * MS, alps)
        alps.mark()
        run_for(alps.host, 10 * 2 * share * 10 * MS, alps)
        assert alps.fractions()["sleeper"] <= 0.5 + 0.05

    def test_who_wakes_up_competes_at_once(self) -> None:
        alps = make()
        alps.add("spinner", 1)
        alps.add("sleeper", 3, Bursts(10**15, 1000 * MS, asleep_first=True))
        run_for(alps.host, 1500 * MS, alps)
        alps.mark()
        run_for(alps.host, 2000 * MS, alps)
        assert alps.fractions()["sleeper"] == pytest.approx(0.75, rel=0.03)

    @pytest.mark.parametrize("sleep_ms", [50, 500, 5000])
    def test_what_a_sleeper_leaves_goes_to_the_others_by_their_shares(self, sleep_ms: int) -> None:
        alps = make()
        alps.add("A", 1)
        alps.add("B", 2, Bursts(1 * MS, sleep_ms * MS, asleep_first=True))
        alps.add("C", 3)
        run_for(alps.host, 500 * MS, alps)
        alps.mark()
        run_for(alps.host, 5000 * MS, alps)
        fractions = alps.fractions(["A", "C"])
        assert fractions == pytest.approx({"A": 0.25, "C": 0.75}, rel=0.04)
        assert alps.host.idle_ns <= 0.01 * alps.host.now_ns()

    @pytest.mark.parametrize(("compute_ms", "sleep_ms"), [(1, 9), (5, 50), (100, 1000)])
    def test_the_core_is_used_while_somebody_hungry_is_there(self, compute_ms: int, sleep_ms: int) -> None:
        alps = make()
        alps.add("A", 1)
        alps.add("B", 1)
        alps.add("bursty", 2, Bursts(compute_ms * MS, sleep_ms * MS))
        run_for(alps.host, 10_000 * MS, alps)
        assert alps.host.idle_ns <= 0.05 * alps.host.now_ns()

    def test_the_core_is_used_also_when_bursts_are_about_as_long_as_turns(self) -> None:
        idle: dict[tuple[int, int], float] = {}
        for compute_ms, sleep_ms in [(1, 1), (2, 2), (5, 5), (10, 10), (20, 20), (80, 240)]:
            alps = make()
            alps.add("A", 1)
            alps.add("B", 1)
            alps.add("bursty", 2, Bursts(compute_ms * MS, sleep_ms * MS))
            run_for(alps.host, 10_000 * MS, alps)
            idle[compute_ms, sleep_ms] = alps.host.idle_ns / alps.host.now_ns()
        assert max(idle.values()) <= 0.05, idle


class TestCaps:
    @SLOW
    @given(
        cores=st.integers(1, 4),
        processes=st.integers(1, 6),
        percent=st.integers(5, 95),
        quantum_ms=QUANTA_MS,
        latency_ns=LATENCIES_NS,
    )
    def test_a_cap_holds_on_an_idle_host_and_is_used_up(
        self, cores: int, processes: int, percent: int, quantum_ms: int, latency_ns: int
    ) -> None:
        cap_cores = percent / 100 * min(cores, processes)
        alps = make(cores=cores, quantum_ms=quantum_ms, latency_ns=latency_ns)
        alps.add("capped", 1, *[Spin()] * processes, cap_cores=cap_cores)
        run_for(alps.host, 5000 * MS, alps)
        # The bucket: one quantum's worth of CPU time may be used at once, and a wake-up may be late once.
        slack_ns = (cap_cores + cores) * (quantum_ms * MS + latency_ns)
        assert abs(alps.used_ns()["capped"] - cap_cores * 5000 * MS) <= slack_ns + 0.02 * cap_cores * 5000 * MS

    def test_idle_time_earns_no_burst_above_the_cap(self) -> None:
        """A sleeper is looked at now and then; what it uses before it is seen awake is a debt, paid at the cap."""
        alps = make()
        alps.add("capped", 1, Bursts(10**15, 3000 * MS, asleep_first=True), cap_cores=0.2)
        run_for(alps.host, 3000 * MS, alps)
        alps.mark()
        run_for(alps.host, 1000 * MS, alps)
        asleep_ns = CoreSettings().idle_sleep_ns  # how long ago it may have been looked at last
        assert alps.used_ns()["capped"] <= 0.2 * (1000 * MS + 10 * MS + asleep_ns)

    def test_hundreds_of_tiny_caps_hold_and_wake_the_loop_only_now_and_then(self) -> None:
        """Looked at whenever one of them could be used up, they would be looked at all the time."""
        alps = make()
        for number in range(200):
            alps.add(f"p{number}", 1, cap_cores=0.0005)
        run_for(alps.host, 20_000 * MS, alps)
        assert alps.core.reads < 200 * 200
        # Whoever is let go uses one of the kernel's slices, and pays for it for seconds.
        slice_ns = 3 * MS
        assert sum(alps.used_ns().values()) == pytest.approx(200 * 0.0005 * 20_000 * MS, abs=200 * slice_ns)

    def test_a_cap_taken_away_is_gone(self) -> None:
        alps = make()
        alps.add("capped", 1, cap_cores=0.1)
        run_for(alps.host, 1000 * MS, alps)
        alps.change("capped", 1, cap_cores=None)
        alps.mark()
        run_for(alps.host, 1000 * MS, alps)
        assert alps.used_ns()["capped"] >= 0.98 * 1000 * MS

    def test_what_the_capped_may_not_use_goes_to_the_others(self) -> None:
        alps = make()
        alps.add("capped", 10, cap_cores=0.2)
        alps.add("B", 1)
        alps.add("C", 2)
        run_for(alps.host, 5000 * MS, alps)
        assert alps.fractions()["capped"] <= 0.21
        assert alps.fractions(["B", "C"]) == pytest.approx({"B": 1 / 3, "C": 2 / 3}, rel=0.05)
        assert alps.host.idle_ns <= 0.01 * alps.host.now_ns()

    def test_the_capped_gets_what_its_cap_allows_also_beside_others(self) -> None:
        alps = make()
        alps.add("capped", 10, cap_cores=0.2)
        alps.add("B", 1)
        alps.add("C", 2)
        run_for(alps.host, 1000 * MS, alps)
        alps.mark()
        run_for(alps.host, 5000 * MS, alps)
        assert alps.fractions()["capped"] == pytest.approx(0.2, rel=0.1)


class TestChanges:
    @SLOW
    @given(
        old=st.lists(st.integers(1, 13), min_size=3, max_size=5),
        new=st.lists(st.integers(1, 13), min_size=3, max_size=5),
        at_ms=st.integers(1, 400),
    )
    def test_shares_changed_in_the_middle_of_a_cycle_hold_from_then_on(
        self, old: list[int], new: list[int], at_ms: int
    ) -> None:
        alps = spinners(make(), old)
        run_for(alps.host, at_ms * MS, alps)
        for number in range(len(old), len(new)):  # some join
            alps.add(f"p{number}", new[number])
        for number in range(len(new), len(old)):  # some leave
            alps.leave(f"p{number}")
        for number in range(min(len(old), len(new))):
            alps.change(f"p{number}", new[number])
        cycle_ns = sum(new) * 10 * MS
        # What was used under the old shares stays used: up to 13 quanta of debt, for a share of 1 as many cycles.
        run_for(alps.host, 16 * cycle_ns, alps)
        alps.mark()
        run_for(alps.host, 40 * cycle_ns, alps)
        for name, fraction in alps.fractions().items():
            assert fraction == pytest.approx(alps.shares[name] / sum(new), rel=0.08)

    def test_a_newcomer_is_served_within_a_cycle(self) -> None:
        alps = spinners(make(), [5, 5])
        run_for(alps.host, 1000 * MS, alps)
        alps.add("late", 10)
        alps.mark()
        run_for(alps.host, 400 * MS, alps)
        assert alps.fractions()["late"] == pytest.approx(0.5, abs=0.1)

    def test_who_leaves_leaves_unpaused_and_its_part_to_the_others(self) -> None:
        alps = spinners(make(), [1, 1, 2])
        run_for(alps.host, 1033 * MS, alps)
        assert alps.engine.paused()
        for name in ("p0", "p2"):
            alps.leave(name)
        run_for(alps.host, 100 * MS, alps)
        alps.host.assert_clean()
        assert alps.engine.names() == ("p1",)

    def test_an_unknown_principal_cannot_be_removed(self) -> None:
        with pytest.raises(KeyError):
            TurnScheduler(CoreSettings()).remove("nobody")


class TestDeterminism:
    @settings(max_examples=15, deadline=None)
    @given(
        cores=st.integers(1, 4),
        principals=st.lists(st.tuples(st.integers(1, 20), BEHAVIOURS), min_size=1, max_size=6),
        latency_ns=LATENCIES_NS,
    )
    def test_the_same_calls_give_the_same_decisions(
        self, cores: int, principals: list[tuple[int, Spin | Bursts]], latency_ns: int
    ) -> None:
        traces: list[list[tuple[int, Decision]]] = []
        for _ in range(2):
            alps = make(cores=cores, latency_ns=latency_ns)
            for number, (share, behaviour) in enumerate(principals):
                alps.add(f"p{number}", share, behaviour)
            run_for(alps.host, 1000 * MS, alps)
            traces.append(alps.core.decisions)
        assert traces[0] == traces[1]

    def test_names_do_not_matter(self) -> None:
        traces: list[list[int]] = []
        for names in (["a", "b", "c"], ["z", "y", "x"]):
            alps = make()
            for name, share in zip(names, (1, 2, 3), strict=True):
                alps.add(name, share)
            run_for(alps.host, 1000 * MS, alps)
            traces.append([now_ns for now_ns, _ in alps.core.decisions])
        assert traces[0] == traces[1]


@dataclass
class Dimmed:
    """A core that learns less than there is to know about waiting. Implements model.Scheduler."""

    core: TurnScheduler
    known: Literal["wait", "blocked", "now and then", "nothing"]
    readings: int = 0

    @property
    def stretch(self) -> float:
        return self.core.stretch

    def put(self, spec: PrincipalSpec, now_ns: int, reading: Reading) -> None:
        self.core.put(spec, now_ns, self._dim(reading))

    def remove(self, name: str) -> None:
        self.core.remove(name)

    def follow(self, switches: Sequence[Switch], *, failed: bool) -> tuple[CycleRecord, ...]:
        return self.core.follow(switches, failed=failed)

    def due(self, now_ns: int) -> Mapping[str, bool]:
        return self.core.due(now_ns)

    def decide(self, now_ns: int, readings: Mapping[str, Reading]) -> Decision:
        return self.core.decide(now_ns, {name: self._dim(reading) for name, reading in readings.items()})

    def _dim(self, reading: Reading) -> Reading:
        self.readings += 1
        wait = self.known == "wait" or (self.known == "now and then" and self.readings % 3 == 0)
        return Reading(
            reading.cpu_ns,
            reading.wait_ns if wait else None,
            reading.blocked if self.known in ("blocked", "now and then") else None,
        )


class TestUnknownWaiting:
    @pytest.mark.parametrize("known", ["wait", "blocked", "now and then"])
    @pytest.mark.parametrize(("cores", "shares"), [(1, [1, 2, 3]), (2, [1, 2, 3, 4])])
    def test_part_of_the_information_is_enough(
        self, known: Literal["wait", "blocked", "now and then"], cores: int, shares: list[int]
    ) -> None:
        dimmed = Dimmed(TurnScheduler(CoreSettings(cores=cores)), known)
        alps = spinners(make(cores=cores, core=dimmed), shares)
        run_for(alps.host, 1000 * MS, alps)
        alps.mark()
        run_for(alps.host, 10_000 * MS, alps)
        assert alps.fractions() == pytest.approx(feasible(alps), rel=0.03)
        assert alps.host.idle_ns == 0

    def test_without_any_nobody_is_held_back(self) -> None:
        """Nobody is known to be hungry, so pausing anybody might be in vain."""
        alps = spinners(make(core=Dimmed(TurnScheduler(CoreSettings()), "nothing")), [1, 2, 3])
        run_for(alps.host, 2000 * MS, alps)
        assert alps.host.idle_ns == 0
        assert min(alps.fractions().values()) >= 1 / 6 - 0.01

    def test_a_reading_that_steps_back_counts_as_no_progress(self) -> None:
        core = TurnScheduler(CoreSettings())
        core.put(PrincipalSpec("a", 1), 0, Reading(5 * MS, 0))
        core.put(PrincipalSpec("b", 1), 0, Reading(0, 0))
        core.decide(10 * MS, {"a": Reading(3 * MS, 1 * MS), "b": Reading(10 * MS, 0)})
        core.decide(20 * MS, {"a": Reading(3 * MS, 0, False), "b": Reading(20 * MS, 0)})
        assert isinstance(core.decide(30 * MS, {}), Decision)

    def test_readings_of_strangers_are_ignored(self) -> None:
        core = TurnScheduler(CoreSettings())
        assert core.decide(0, {"stranger": Reading(5)}).ineligible == ()
