"""Large fleets are worked on as arrays: the same results as from lists, on fleets small enough to try many."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from utilctl_common.errors import UsageError
from utilctl_controller.allocation import (
    AllocationMode,
    AllocationProblem,
    HostCapacity,
    SeeClaim,
    allocate,
    static,
    verify_host,
)
from utilctl_controller.allocation.instance import compile_problem
from utilctl_controller.allocation.static import static_grants
from utilctl_controller.allocation.verify_host import host_violations

NEVER = 1 << 30


def fleet(seed: int, mode: AllocationMode = "host") -> AllocationProblem:
    """Some hosts and SEEs without children, floors and caps; amounts that tie now and then."""
    rng = random.Random(seed)
    hosts = [f"h{number}" for number in range(rng.randint(1, 8))]
    claims = []
    for see in range(rng.randint(1, 12)):
        here = rng.sample(hosts, rng.randint(0, len(hosts)))
        demand = {host: rng.choice([0.0, 0.25, 1.0, round(rng.uniform(0.01, 4), 3)]) for host in here}
        claims.append(SeeClaim(f"svc=s{see}", rng.choice([1.0, 2.0, 3.0, 0.3]), 0.0, None, demand))
    capacities = tuple(HostCapacity(host, rng.choice([0.0, 1.0, 2.0, 7.5])) for host in hosts)
    return AllocationProblem(mode, capacities, tuple(claims))


def as_arrays(context: pytest.MonkeyPatch, *, always: bool) -> None:
    """Whether arrays are used for everything, or for nothing."""
    from_size = 0 if always else NEVER
    context.setattr(static, "LARGE_ARCS", from_size)
    context.setattr(verify_host, "LARGE_ARCS", from_size)


@settings(max_examples=300, deadline=None)
@given(seed=st.integers(0, 10**9))
def test_hosts_are_divided_in_the_same_way(seed: int) -> None:
    grants = []
    for always in (False, True):
        with pytest.MonkeyPatch.context() as context:
            as_arrays(context, always=always)
            grants.append(static_grants(compile_problem(fleet(seed))))
    # Weights are added up in another order, so the level may differ by an ulp.
    assert grants[1] == pytest.approx(grants[0], rel=1e-12, abs=2)


@settings(max_examples=300, deadline=None)
@given(seed=st.integers(0, 10**9))
def test_an_unfair_division_is_found_either_way(seed: int) -> None:
    compiled = compile_problem(fleet(seed))
    rng = random.Random(seed + 1)
    granted = static_grants(compiled) / compiled.ticks_per_core
    spoilt = np.array([amount * rng.choice([1.0, 1.0, 0.5]) for amount in granted.tolist()])
    for grants in (granted, spoilt):
        found = []
        for always in (False, True):
            with pytest.MonkeyPatch.context() as context:
                as_arrays(context, always=always)
                found.append(sorted(host_violations(compiled, grants)))
        assert found[0] == found[1]
    assert host_violations(compiled, granted) == []


@pytest.mark.parametrize("mode", ["host", "fleet", "fleet-with-floor"])
def test_allocations_are_the_same(mode: AllocationMode) -> None:
    for seed in range(150):
        results = []
        for always in (False, True):
            with pytest.MonkeyPatch.context() as context:
                as_arrays(context, always=always)
                results.append(allocate(fleet(seed, mode)))
        lists, arrays = results
        assert [see.bottleneck for see in arrays.sees] == [see.bottleneck for see in lists.sees]
        for one, other in zip(arrays.sees, lists.sees, strict=True):
            assert one.host_cores == pytest.approx(other.host_cores, abs=1e-9)


@pytest.mark.parametrize("demand", [float("nan"), -1.0, float("inf")])
def test_bad_demand_among_many_is_named(demand: float) -> None:
    hosts = tuple(HostCapacity(f"h{number:03d}", 1.0) for number in range(100))
    wanted = {host.name: 1.0 for host in hosts} | {"h042": demand}
    with pytest.raises(UsageError, match="demand of svc=a on host h042"):
        compile_problem(AllocationProblem("fleet", hosts, (SeeClaim("svc=a", 1.0, 0.0, None, wanted),)))


def test_an_unknown_host_among_many_is_named() -> None:
    hosts = tuple(HostCapacity(f"h{number:03d}", 1.0) for number in range(100))
    wanted = {host.name: 1.0 for host in hosts} | {"gone": 1.0}
    with pytest.raises(UsageError, match="host gone"):
        compile_problem(AllocationProblem("fleet", hosts, (SeeClaim("svc=a", 1.0, 0.0, None, wanted),)))
