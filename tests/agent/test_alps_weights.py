"""The weighing core on a simulated kernel that misjudges everybody: what is measured becomes what is due."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.weighing import MINUTE_NS, Weighed, WeighingKernel, spinners
from utilctl_agent.alps.feasible import feasible_fractions
from utilctl_agent.alps.model import PrincipalSpec, Reading
from utilctl_agent.alps.weights import (
    CPU_SHARES,
    CPU_WEIGHT,
    DEBT_S,
    Knob,
    WeightScheduler,
    WeightSettings,
)
from utilctl_common.errors import UsageError
from utilctl_common.quantities import NS_PER_MS, NS_PER_S

SLOW = settings(max_examples=25, deadline=None)
FACTORS = st.floats(0.6, 1.6)
GROUPS = st.lists(st.tuples(st.integers(1, 20), FACTORS), min_size=2, max_size=6)


def relative_errors(kernel: WeighingKernel, start_ns: int, end_ns: int) -> list[float]:
    """How far everybody is from the feasible fraction, relative to it."""
    due = feasible_fractions([p.spec for p in kernel.principals], kernel.cores)
    split = kernel.split(start_ns, end_ns)
    return [abs(split[name] / fraction - 1) for name, fraction in due.items()]


class TestConvergence:
    @SLOW
    @given(groups=GROUPS, period_ms=st.sampled_from([100, 200, 250]))
    def test_over_a_minute_the_split_follows_the_shares_whatever_the_kernel_misjudges(
        self, groups: list[tuple[int, float]], period_ms: int
    ) -> None:
        shares, factors = zip(*groups, strict=True)
        kernel = WeighingKernel(spinners(shares, factors), period_ns=period_ms * NS_PER_MS)
        kernel.run(MINUTE_NS)
        assert max(relative_errors(kernel, 0, MINUTE_NS)) < 0.003

    @SLOW
    @given(groups=GROUPS)
    def test_once_settled_any_five_seconds_are_right_within_a_percent(self, groups: list[tuple[int, float]]) -> None:
        shares, factors = zip(*groups, strict=True)
        kernel = WeighingKernel(spinners(shares, factors))
        kernel.run(MINUTE_NS)
        for start_s in range(30, 55, 5):
            assert max(relative_errors(kernel, start_s * NS_PER_S, (start_s + 5) * NS_PER_S)) < 0.01

    @SLOW
    @given(groups=GROUPS, cores=st.integers(2, 4), capacity=st.floats(0.3, 1.0))
    def test_groups_of_many_threads_share_several_cores_and_what_strangers_leave_of_them(
        self, groups: list[tuple[int, float]], cores: int, capacity: float
    ) -> None:
        shares, factors = zip(*groups, strict=True)
        kernel = WeighingKernel(spinners(shares, factors, threads=20), cores, capacity=capacity)
        kernel.run(MINUTE_NS)
        assert max(relative_errors(kernel, 0, MINUTE_NS)) < 0.003

    def test_who_cannot_use_its_share_gets_all_it_can_use(self) -> None:
        few = Weighed(PrincipalSpec("few", 9.0, 1), factor=0.3)
        many = Weighed(PrincipalSpec("many", 1.0, 8), factor=3.0)
        kernel = WeighingKernel([few, many], cores=2)
        kernel.run(MINUTE_NS)
        assert kernel.split(30 * NS_PER_S, MINUTE_NS)["few"] == pytest.approx(0.5, rel=0.01)

    def test_coarse_weights_are_exact_in_the_long_run_too(self) -> None:
        principals = spinners([1, 30])
        for principal, factor in zip(principals, (1.2, 1.0), strict=True):
            principal.knob, principal.weight, principal.factor = CPU_WEIGHT, 100, factor
        kernel = WeighingKernel(principals)
        kernel.run(MINUTE_NS)
        assert {weight for _, name, weight in kernel.writes if name == "p0"} <= set(range(3, 9))
        assert max(relative_errors(kernel, 0, MINUTE_NS)) < 0.003

    def test_a_share_that_changes_is_followed(self) -> None:
        kernel = WeighingKernel(spinners([1, 1], [1.3, 0.9]))
        kernel.run(20 * NS_PER_S)
        principal = kernel.principals[0]
        principal.spec = PrincipalSpec("p0", 4.0)
        kernel.scheduler.put(principal.spec, kernel.now_ns, Reading(0), principal.knob)
        kernel.run(40 * NS_PER_S)
        assert kernel.split(30 * NS_PER_S, MINUTE_NS)["p0"] == pytest.approx(0.8, rel=0.005)


class TestDemand:
    def test_who_leaves_cpu_unused_is_not_chased_up_and_the_others_share_the_rest(self) -> None:
        light = Weighed(PrincipalSpec("light", 10.0), wants=0.1)
        kernel = WeighingKernel([light, *spinners([1, 2], [1.4, 0.8])])
        kernel.run(MINUTE_NS)
        split = kernel.split(30 * NS_PER_S, MINUTE_NS)
        assert split["light"] == pytest.approx(0.1, rel=0.01)
        assert split["p1"] / split["p0"] == pytest.approx(2.0, rel=0.005)
        assert kernel.scheduler.debts_ns()["light"] == pytest.approx(0, abs=NS_PER_MS)
        assert {weight for _, name, weight in kernel.writes if name == "light"} <= set(range(2000, 2800))

    def test_who_slept_for_long_comes_back_without_a_claim_on_the_past(self) -> None:
        kernel = WeighingKernel(spinners([1, 1]))
        kernel.run(5 * NS_PER_S)
        sleeper = kernel.principals[0]
        sleeper.wants = 0.0
        kernel.run(20 * NS_PER_S)
        sleeper.wants = 1.0
        kernel.run(35 * NS_PER_S)
        assert kernel.split(26 * NS_PER_S, 29 * NS_PER_S)["p0"] == pytest.approx(0.5, abs=0.05)
        assert kernel.split(40 * NS_PER_S, MINUTE_NS)["p0"] == pytest.approx(0.5, rel=0.005)

    def test_a_cap_below_the_share_leaves_the_rest_to_the_others(self) -> None:
        capped = Weighed(PrincipalSpec("capped", 1.0, cap_cores=0.1))
        kernel = WeighingKernel([capped, *spinners([1])])
        kernel.run(MINUTE_NS)
        assert kernel.split(30 * NS_PER_S, MINUTE_NS)["capped"] == pytest.approx(0.1, rel=0.02)

    def test_bystanders_count_for_what_is_due_and_get_no_weights(self) -> None:
        paused = Weighed(PrincipalSpec("paused", 1.0), factor=1.5, knob=None)
        kernel = WeighingKernel([paused, *spinners([3])])
        kernel.run(MINUTE_NS)
        assert kernel.split(0, MINUTE_NS)["p0"] == pytest.approx(0.75, rel=0.003)
        assert {name for _, name, _ in kernel.writes} == {"p0"}


class TestBounds:
    @SLOW
    @given(
        groups=st.lists(st.tuples(st.sampled_from([0.001, 1, 50, 1e6]), st.floats(0.01, 100)), min_size=1, max_size=5),
        knob=st.sampled_from([CPU_SHARES, CPU_WEIGHT, Knob(90, 110, 100)]),
        wants=st.lists(st.floats(0, 1), min_size=5, max_size=5),
    )
    def test_no_weight_is_ever_out_of_bounds_and_no_debt_either(
        self, groups: list[tuple[float, float]], knob: Knob, wants: list[float]
    ) -> None:
        shares, factors = zip(*groups, strict=True)
        principals = spinners(shares, factors)
        for principal, want in zip(principals, wants, strict=False):
            principal.knob, principal.wants = knob, want
        kernel = WeighingKernel(principals)
        kernel.run(20 * NS_PER_S)
        assert all(knob.least <= weight <= knob.most for _, _, weight in kernel.writes)
        assert all(abs(debt_ns) <= DEBT_S * NS_PER_S for debt_ns in kernel.scheduler.debts_ns().values())

    def test_a_weight_that_does_nothing_ends_at_its_bound_is_reported_and_recovers_at_once(self) -> None:
        kernel = WeighingKernel(spinners([1, 1], [0.001, 1.0]))
        kernel.run(MINUTE_NS)
        assert "p0" in kernel.decisions[-1].stuck
        for principal in kernel.principals:
            principal.factor = 1.0
        kernel.run(MINUTE_NS)
        assert kernel.decisions[-1].stuck == ()
        assert kernel.split(100 * NS_PER_S, 2 * MINUTE_NS)["p0"] == pytest.approx(0.5, rel=0.01)

    @SLOW
    @given(groups=GROUPS)
    def test_what_one_is_owed_the_others_had_too_much(self, groups: list[tuple[int, float]]) -> None:
        shares, factors = zip(*groups, strict=True)
        kernel = WeighingKernel(spinners(shares, factors))
        for _ in range(50):
            kernel.run(kernel.period_ns)
            debts_ns = kernel.scheduler.debts_ns()
            if max(map(abs, debts_ns.values())) < DEBT_S * NS_PER_S * min(shares) / sum(shares):  # none was cut
                assert sum(debts_ns.values()) == 0


class TestRestraint:
    def test_the_first_answer_is_proportional_to_the_shares_and_the_usual_weight_on_average(self) -> None:
        kernel = WeighingKernel(spinners([1, 2, 3]))
        assert [principal.weight for principal in kernel.principals] == [512, 1024, 1536]

    def test_nothing_is_written_while_the_kernel_does_it_right(self) -> None:
        kernel = WeighingKernel(spinners([1, 3]))
        kernel.run(MINUTE_NS)
        assert len(kernel.writes) == 2

    def test_once_settled_hardly_anything_is_written(self) -> None:
        kernel = WeighingKernel(spinners([1, 3], [1.5, 0.7]))
        kernel.run(2 * MINUTE_NS)
        assert len([at_ns for at_ns, _, _ in kernel.writes if at_ns > MINUTE_NS]) < 30, "of 600 looks at weights"

    def test_an_early_look_changes_nothing_but_for_newcomers(self) -> None:
        kernel = WeighingKernel(spinners([1, 3], [1.5, 0.7]))
        kernel.run(5 * NS_PER_S)
        early_ns = kernel.now_ns + kernel.period_ns // 4
        decision = kernel.scheduler.decide(early_ns, {"p0": Reading(10**12), "p1": Reading(0)})
        assert decision.weights == {}
        assert decision.next_wake_ns == kernel.now_ns + kernel.period_ns
        kernel.scheduler.put(PrincipalSpec("new", 4.0), early_ns, Reading(0), CPU_SHARES)
        assert "new" in kernel.scheduler.decide(early_ns, {}).weights

    def test_a_long_gap_says_nothing_about_the_weights(self) -> None:
        kernel = WeighingKernel(spinners([1, 1]))
        kernel.run(5 * NS_PER_S)
        later_ns = kernel.now_ns + MINUTE_NS
        decision = kernel.scheduler.decide(later_ns, {"p0": Reading(MINUTE_NS), "p1": Reading(kernel.now_ns)})
        assert decision.weights == {}
        assert set(kernel.scheduler.debts_ns().values()) == {0}

    @SLOW
    @given(groups=GROUPS)
    def test_equal_inputs_give_equal_answers(self, groups: list[tuple[int, float]]) -> None:
        shares, factors = zip(*groups, strict=True)
        one, two = (WeighingKernel(spinners(shares, factors)) for _ in range(2))
        for kernel in (one, two):
            kernel.run(10 * NS_PER_S)
        assert one.decisions == two.decisions


def test_cycles_are_recorded_with_what_everybody_used() -> None:
    kernel = WeighingKernel(spinners([1, 3]))
    kernel.run(NS_PER_S)
    closed = [record for decision in kernel.decisions for record in decision.closed]
    assert [record.index for record in closed] == [0, 1, 2, 3, 4]
    assert sum(sum(record.cpu_ns.values()) for record in closed) == NS_PER_S


def test_whoever_is_removed_is_forgotten() -> None:
    kernel = WeighingKernel(spinners([1, 3]))
    kernel.scheduler.remove("p0")
    assert kernel.scheduler.names() == ("p1",)
    with pytest.raises(KeyError):
        kernel.scheduler.remove("p0")


@pytest.mark.parametrize("wrong", [{"period_ns": NS_PER_MS}, {"period_ns": NS_PER_S}, {"response_ns": NS_PER_MS}])
def test_settings_under_which_it_would_swing_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(UsageError):
        WeightSettings(**wrong)


def test_the_defaults_are_what_the_documentation_says() -> None:
    in_ms = WeightSettings(200 * NS_PER_MS, 100 * NS_PER_MS, 1, 1500 * NS_PER_MS, 0.01, 4 * NS_PER_MS)
    assert WeightSettings() == in_ms
    assert WeightScheduler().decide(0, {}).next_wake_ns == 200 * NS_PER_MS
