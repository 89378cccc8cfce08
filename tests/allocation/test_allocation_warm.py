"""An allocation from the one before it: the same as from nothing, whatever has changed."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from allocation.allocation_fleets import fleet, large_fleet, random_fleet
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from utilctl_controller.allocation import AllocationProblem, HostCapacity, SeeAllocation, SeeClaim, balance, solver
from utilctl_controller.allocation.solver import Solution, allocate, solve
from utilctl_controller.allocation.warm import warm_grants

CLOSE = 1e-9


@pytest.fixture(autouse=True)
def _splits_to_the_last_digit(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in large fleets: small ones are split from nothing in a bounded number of rounds."""
    monkeypatch.setattr(balance, "_ARRAY_ARCS", 0)


def assert_same(found: Solution, problem: AllocationProblem) -> None:
    wanted = allocate(problem)
    got = found.allocation
    assert [see.name for see in got.sees] == [see.name for see in wanted.sees]
    for one, other in zip(got.sees, wanted.sees, strict=True):
        assert one.total_cores == pytest.approx(other.total_cores, rel=CLOSE, abs=CLOSE), one.name
        assert dict(one.host_cores) == pytest.approx(dict(other.host_cores), rel=1e-6, abs=1e-6), one.name
    assert got.min_max_ratio == pytest.approx(wanted.min_max_ratio, rel=1e-6)
    assert got.notes == wanted.notes


def moved(problem: AllocationProblem, rng: random.Random, part: float) -> AllocationProblem:
    """Some of the demands, shares, caps, floors and capacities changed; hosts and SEEs stay."""

    def other(value: float) -> float:
        return round(value * rng.choice([0.0, 0.3, 0.9, 1.0, 1.1, 3.0]), 4) if rng.random() < part else value

    def changed(see: SeeClaim) -> SeeClaim:
        cap = None if see.cap_cores is None else other(see.cap_cores)
        floor = other(see.floor_cores)
        share = see.share * rng.choice([0.5, 2.0]) if rng.random() < part else see.share
        wants = {host: other(cores) for host, cores in see.demand_cores.items()}
        if rng.random() < part / 4 and wants:
            wants.pop(rng.choice(sorted(wants)))
        return replace(
            see, share=share, floor_cores=floor if cap is None else min(floor, cap), cap_cores=cap, demand_cores=wants
        )

    hosts = tuple(replace(host, capacity_cores=other(host.capacity_cores)) for host in problem.hosts)
    return replace(problem, hosts=hosts, sees=tuple(changed(see) for see in problem.sees))


class Counted:
    """How often an allocation came from the one before."""

    def __init__(self, context: pytest.MonkeyPatch) -> None:
        self.warm = 0
        self.cold = 0
        from_nothing = solver._from_nothing

        def cold(*arguments: object) -> Solution:
            self.cold += 1
            return from_nothing(*arguments)  # type: ignore[arg-type]  # passed on as they come

        context.setattr(solver, "_from_nothing", cold)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10**9), floors=st.booleans(), caps=st.booleans(), part=st.sampled_from([0.05, 0.2, 1.0]))
def test_a_sequence_of_changes_comes_out_as_from_nothing(seed: int, floors: bool, caps: bool, part: float) -> None:
    rng = random.Random(seed)
    problem = random_fleet(seed, tree=False, floors=floors, caps=caps)
    found = solve(problem, warm_arcs=0)
    for _ in range(4):
        problem = moved(problem, rng, part)
        found = solve(problem, found, warm_arcs=0)
        assert_same(found, problem)


@pytest.mark.parametrize("caps", [False, True])
@pytest.mark.parametrize("mode", ["fleet", "fleet-with-floor"])
def test_in_a_large_fleet_small_changes_do_not_begin_from_nothing(
    caps: bool, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(3)
    problem = replace(large_fleet(150, 60, caps=caps), mode=mode)  # type: ignore[arg-type]  # one of the modes
    found = solve(problem)
    problems = []
    counted = Counted(monkeypatch)
    for _ in range(4):
        problem = replace(
            problem,
            sees=tuple(
                replace(
                    see,
                    demand_cores={
                        host: cores * rng.uniform(0.5, 1.5) if rng.random() < 0.01 else cores
                        for host, cores in see.demand_cores.items()
                    },
                )
                for see in problem.sees
            ),
        )
        found = solve(problem, found)
        problems.append((problem, found))
    assert counted.cold <= 1
    for problem, found in problems:
        assert_same(found, problem)


def test_other_services_or_hosts_begin_from_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = fleet({"h": 1.0}, {"a": (1, {"h": 1.0}), "b": (1, {"h": 1.0})})
    found = solve(problem, warm_arcs=0)
    counted = Counted(monkeypatch)
    more = replace(problem, sees=(*problem.sees, SeeClaim("c", 2.0, 0.0, None, {"h": 1.0})))
    assert_same(solve(more, found, warm_arcs=0), more)
    elsewhere = replace(problem, hosts=(*problem.hosts, HostCapacity("i", 1.0)))
    assert_same(solve(elsewhere, found, warm_arcs=0), elsewhere)
    assert counted.cold == 4, "two of them by allocate itself"
    assert_same(solve(problem, found, warm_arcs=0), problem)
    assert counted.cold == 5


def test_what_does_not_pass_verification_is_found_from_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = fleet({"h": 1.0}, {"a": (1, {"h": 1.0}), "b": (1, {"h": 1.0})})
    found = solve(problem, warm_arcs=0)

    def unfair(*arguments: object) -> object:
        result = warm_grants(*arguments)  # type: ignore[arg-type]  # passed on as they come
        assert result is not None
        return result[0] * [1.5, 0.5], result[1]

    monkeypatch.setattr(solver, "warm_grants", unfair)
    changed = replace(problem, sees=(replace(problem.sees[0], share=2.0), problem.sees[1]))
    rows = {see.name: see for see in solve(changed, found, warm_arcs=0).allocation.sees}
    assert rows["a"].total_cores == pytest.approx(2 / 3)
    assert isinstance(rows["b"], SeeAllocation)
