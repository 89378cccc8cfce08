"""Shares that M cores can deliver, and their split into whole nanoseconds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from utilctl_agent.alps.allotment import allotments_ns
from utilctl_agent.alps.feasible import feasible_fractions, most_cores, spread_ns, usable_cores
from utilctl_agent.alps.model import CoreSettings, PrincipalSpec
from utilctl_common.errors import UsageError
from utilctl_common.quantities import NS_PER_MS

SPECS = st.lists(
    st.tuples(
        st.floats(0.001, 1e6),
        st.integers(1, 40),
        st.one_of(st.none(), st.floats(0.01, 50)),
    ),
    min_size=1,
    max_size=8,
).map(lambda rows: [PrincipalSpec(f"p{n}", share, most, cap) for n, (share, most, cap) in enumerate(rows)])
CORES = st.integers(1, 32)


class TestBounds:
    def test_a_principal_burns_no_faster_than_its_threads_or_the_cores(self) -> None:
        assert usable_cores(PrincipalSpec("a", 1, parallelism=3), 8) == 3
        assert usable_cores(PrincipalSpec("a", 1, parallelism=30), 8) == 8

    def test_a_cap_bounds_it_further(self) -> None:
        assert most_cores(PrincipalSpec("a", 1, parallelism=3, cap_cores=0.5), 8) == 0.5
        assert most_cores(PrincipalSpec("a", 1, parallelism=3, cap_cores=5), 8) == 3


class TestFeasibleFractions:
    def test_feasible_shares_are_kept(self) -> None:
        specs = [PrincipalSpec("a", 1), PrincipalSpec("b", 2), PrincipalSpec("c", 3)]
        assert feasible_fractions(specs, 2) == pytest.approx({"a": 1 / 6, "b": 2 / 6, "c": 3 / 6})

    def test_an_infeasible_share_is_clamped_and_the_rest_is_spread_by_shares(self) -> None:
        specs = [PrincipalSpec("a", 10), PrincipalSpec("b", 2), PrincipalSpec("c", 1)]
        assert feasible_fractions(specs, 2) == pytest.approx({"a": 1 / 2, "b": 1 / 3, "c": 1 / 6})

    def test_what_the_clamped_leave_can_make_others_infeasible(self) -> None:
        specs = [PrincipalSpec("a", 100), PrincipalSpec("b", 10), PrincipalSpec("c", 1), PrincipalSpec("d", 1)]
        assert feasible_fractions(specs, 3) == pytest.approx({"a": 1 / 3, "b": 1 / 3, "c": 1 / 6, "d": 1 / 6})

    def test_who_together_cannot_use_the_host_may_all_run_all_the_time(self) -> None:
        specs = [PrincipalSpec("a", 100), PrincipalSpec("b", 1, parallelism=2)]
        assert feasible_fractions(specs, 8) == pytest.approx({"a": 1 / 3, "b": 2 / 3})

    def test_a_cap_makes_a_share_infeasible(self) -> None:
        specs = [PrincipalSpec("a", 10, cap_cores=0.2), PrincipalSpec("b", 1), PrincipalSpec("c", 2)]
        assert feasible_fractions(specs, 1) == pytest.approx({"a": 0.2, "b": 0.8 / 3, "c": 1.6 / 3})

    def test_nobody_gets_nothing_from_nothing(self) -> None:
        assert feasible_fractions([], 4) == {}

    @given(specs=SPECS, cores=CORES)
    def test_fractions_add_up_to_the_host(self, specs: list[PrincipalSpec], cores: int) -> None:
        assert sum(feasible_fractions(specs, cores).values()) == pytest.approx(1.0)

    @given(specs=SPECS, cores=CORES)
    def test_nobody_gets_more_than_they_can_use_unless_the_host_cannot_be_filled(
        self, specs: list[PrincipalSpec], cores: int
    ) -> None:
        bounds = {spec.name: most_cores(spec, cores) / cores for spec in specs}
        fractions = feasible_fractions(specs, cores)
        filled = sum(bounds.values()) > 1
        for name, bound in bounds.items():
            limit = bound if filled else bound / sum(bounds.values())
            assert fractions[name] <= limit * (1 + 1e-9)

    @given(specs=SPECS, cores=CORES)
    def test_nobody_below_their_bound_envies_a_smaller_share(self, specs: list[PrincipalSpec], cores: int) -> None:
        """Max-min fairness: whoever is not clamped has at least as much a share as anybody else."""
        fractions = feasible_fractions(specs, cores)
        if sum(most_cores(spec, cores) for spec in specs) <= cores:
            return
        for spec in specs:
            if fractions[spec.name] < most_cores(spec, cores) / cores * (1 - 1e-9):
                mine = fractions[spec.name] / spec.share
                assert all(fractions[other.name] / other.share <= mine * (1 + 1e-6) for other in specs)

    @given(specs=SPECS, cores=CORES, factor=st.sampled_from([0.5, 2.0, 4.0]))
    def test_only_ratios_of_shares_matter(self, specs: list[PrincipalSpec], cores: int, factor: float) -> None:
        inside = [spec for spec in specs if 0.001 <= spec.share * factor <= 1e6]
        scaled = [PrincipalSpec(s.name, s.share * factor, s.parallelism, s.cap_cores) for s in inside]
        assert feasible_fractions(scaled, cores) == pytest.approx(feasible_fractions(inside, cores))


class TestSpread:
    @given(
        fractions=st.dictionaries(st.text(min_size=1, max_size=3), st.floats(1e-6, 1.0), min_size=1, max_size=8),
        total_ns=st.integers(0, 10**13),
    )
    def test_parts_are_whole_add_up_exactly_and_are_off_by_less_than_a_nanosecond(
        self, fractions: dict[str, float], total_ns: int
    ) -> None:
        parts = spread_ns(fractions, total_ns)
        assert sum(parts.values()) == total_ns
        weight_sum = sum(fractions.values())
        for name, part in parts.items():
            # The float itself is off by one in 2**53 of the total.
            assert abs(part - fractions[name] / weight_sum * total_ns) <= 1 + total_ns / 2**50

    def test_ties_go_by_name_so_that_runs_repeat(self) -> None:
        assert spread_ns({"b": 1.0, "a": 1.0, "c": 1.0}, 10) == {"a": 4, "b": 3, "c": 3}

    def test_nothing_is_spread_over_nobody(self) -> None:
        assert spread_ns({}, 10) == {}


class TestAllotments:
    def test_a_share_is_a_number_of_quanta(self) -> None:
        specs = [PrincipalSpec("a", 1), PrincipalSpec("b", 2.5)]
        assert allotments_ns(specs, CoreSettings(quantum_ns=10 * NS_PER_MS)) == {
            "a": 10 * NS_PER_MS,
            "b": 25 * NS_PER_MS,
        }

    def test_a_cycle_of_given_length_is_divided_by_shares(self) -> None:
        specs = [PrincipalSpec("a", 1), PrincipalSpec("b", 3)]
        settings = CoreSettings(quantum_ns=10 * NS_PER_MS, cycle_ns=100 * NS_PER_MS)
        assert allotments_ns(specs, settings) == {"a": 25 * NS_PER_MS, "b": 75 * NS_PER_MS}

    def test_a_cycle_is_never_shorter_than_a_quantum(self) -> None:
        specs = [PrincipalSpec("a", 0.001), PrincipalSpec("b", 0.001)]
        assert sum(allotments_ns(specs, CoreSettings(quantum_ns=10 * NS_PER_MS)).values()) == 10 * NS_PER_MS

    def test_nobody_is_allotted_nothing(self) -> None:
        assert allotments_ns([], CoreSettings()) == {}


class TestValues:
    @pytest.mark.parametrize(
        "arguments",
        [{"quantum_ns": 999_999}, {"quantum_ns": 10**10 + 1}, {"cores": 0}, {"cycle_ns": 5 * NS_PER_MS}],
    )
    def test_settings_that_cannot_work_are_refused(self, arguments: dict[str, int]) -> None:
        with pytest.raises(UsageError):
            CoreSettings(**arguments)

    @pytest.mark.parametrize(
        ("share", "parallelism", "cap_cores"),
        [(0.0, 1, None), (-1.0, 1, None), (2e6, 1, None), (float("nan"), 1, None), (1.0, 0, None), (1.0, 1, 0.0)],
    )
    def test_principals_that_cannot_be_are_refused(
        self, share: float, parallelism: int, cap_cores: float | None
    ) -> None:
        with pytest.raises(UsageError):
            PrincipalSpec("a", share, parallelism, cap_cores)

    def test_the_defaults_are_pinned(self) -> None:
        assert CoreSettings() == CoreSettings(
            quantum_ns=10_000_000,
            cycle_ns=None,
            cores=1,
            min_gap_ns=100_000,
            reading_error_ns=0,
            max_sleep_ns=80_000_000,
            idle_sleep_ns=100_000_000,
        )
