"""What holds for every allocation, on fleets that hypothesis invents."""

from __future__ import annotations

from dataclasses import replace

import pytest
from allocation.allocation_fleets import fleet, fleets
from hypothesis import given, settings
from hypothesis import strategies as st

from utilctl_controller.allocation import Allocation, AllocationProblem, allocate, verify

MARGIN = 1e-8
quick = settings(max_examples=150, deadline=None)


def by_name(allocation: Allocation) -> dict[str, float]:
    return {see.name: see.total_cores for see in allocation.sees}


def is_top(problem: AllocationProblem, name: str) -> bool:
    names = {see.name for see in problem.sees}
    return not any("/".join(name.split("/")[:depth]) in names for depth in range(1, name.count("/") + 1))


@quick
@given(fleets(), st.randoms(use_true_random=False))
def test_the_order_of_the_input_does_not_matter(problem: AllocationProblem, rng: object) -> None:
    hosts, sees = list(problem.hosts), list(problem.sees)
    rng.shuffle(hosts)  # type: ignore[attr-defined]  # a random.Random
    rng.shuffle(sees)  # type: ignore[attr-defined]  # a random.Random
    shuffled = [replace(see, demand_cores=dict(reversed(list(see.demand_cores.items())))) for see in sees]
    assert allocate(replace(problem, hosts=tuple(hosts), sees=tuple(shuffled))) == allocate(problem)


@quick
@given(fleets())
def test_limits_hold_and_the_independent_checker_agrees(problem: AllocationProblem) -> None:
    allocation = allocate(problem)
    assert verify(problem, allocation) == ()
    capacity = {host.name: host.capacity_cores for host in problem.hosts}
    used = dict.fromkeys(capacity, 0.0)
    claims = {see.name: see for see in problem.sees}
    for see in allocation.sees:
        claim = claims[see.name]
        assert see.total_cores == pytest.approx(sum(see.host_cores.values()), abs=MARGIN)
        assert claim.cap_cores is None or see.total_cores <= claim.cap_cores + MARGIN
        for host, cores in see.own_host_cores.items():
            assert 0.0 <= cores <= claim.demand_cores[host] + MARGIN
        if is_top(problem, see.name):
            for host, cores in see.host_cores.items():
                used[host] += cores
    assert all(used[host] <= cores + MARGIN for host, cores in capacity.items())


@quick
@given(fleets(limits=False))
def test_no_core_idles_where_somebody_wants_it(problem: AllocationProblem) -> None:
    allocation = allocate(problem)
    for host in problem.hosts:
        wanted = sum(see.demand_cores.get(host.name, 0.0) for see in problem.sees)
        used = sum(see.own_host_cores.get(host.name, 0.0) for see in allocation.sees)
        assert used == pytest.approx(min(wanted, host.capacity_cores), abs=MARGIN)


@quick
@given(fleets(), st.sampled_from([0.125, 4.0, 1000.0]))
def test_only_the_ratio_of_shares_matters(problem: AllocationProblem, factor: float) -> None:
    # Parents that are not listed, and own demand, have share 1, which does not scale: flat fleets only.
    flat = replace(problem, sees=tuple(see for see in problem.sees if "/" not in see.name))
    scaled = replace(flat, sees=tuple(replace(see, share=see.share * factor) for see in flat.sees))
    assert by_name(allocate(scaled)) == pytest.approx(by_name(allocate(flat)), abs=MARGIN)


@quick
@given(fleets(limits=False), st.data())
def test_a_bigger_share_never_gives_less(problem: AllocationProblem, data: st.DataObject) -> None:
    # Holds among sources of one flow network: flat fleets and, on every host alone, host mode.
    flat = replace(problem, sees=tuple(see for see in problem.sees if "/" not in see.name))
    if not flat.sees or flat.mode == "fleet-with-floor":
        return
    chosen = data.draw(st.sampled_from(flat.sees))
    raised = tuple(replace(see, share=see.share * 3) if see is chosen else see for see in flat.sees)
    before, after = by_name(allocate(flat)), by_name(allocate(replace(flat, sees=raised)))
    assert after[chosen.name] >= before[chosen.name] - MARGIN


@quick
@given(fleets(limits=False), st.data())
def test_a_service_that_leaves_harms_nobody(problem: AllocationProblem, data: st.DataObject) -> None:
    flat = replace(problem, mode="fleet", sees=tuple(see for see in problem.sees if "/" not in see.name))
    if not flat.sees:
        return
    gone = data.draw(st.sampled_from(flat.sees))
    before = by_name(allocate(flat))
    after = by_name(allocate(replace(flat, sees=tuple(see for see in flat.sees if see is not gone))))
    assert all(after[name] >= before[name] - MARGIN for name in after)


@quick
@given(fleets(limits=False))
def test_fleet_with_floor_gives_everybody_at_least_the_static_total(problem: AllocationProblem) -> None:
    static = by_name(allocate(replace(problem, mode="host")))
    guarded = by_name(allocate(replace(problem, mode="fleet-with-floor")))
    assert all(guarded[name] >= static[name] - MARGIN for name in static)


@quick
@given(fleets())
def test_floors_hold_or_are_noted(problem: AllocationProblem) -> None:
    allocation = allocate(replace(problem, mode="fleet"))
    noted = {note.removeprefix("floor of ").split(":")[0] for note in allocation.notes}
    capacity = {host.name: host.capacity_cores for host in problem.hosts}
    claims = {see.name: see for see in problem.sees}
    for see in allocation.sees:
        claim = claims[see.name]
        if any(other.startswith(see.name + "/") for other in claims):
            continue
        usable = sum(min(cores, capacity[host]) for host, cores in claim.demand_cores.items())
        if see.name not in noted:
            assert see.total_cores >= min(claim.floor_cores, usable) - MARGIN


@pytest.mark.parametrize("change", [1e-6, -1e-6])
def test_a_small_change_of_demand_moves_the_split_a_little(change: float) -> None:
    hosts = {f"h{index}": 1.0 + index / 4 for index in range(6)}
    sees = {
        f"s{index}": (1 + index % 3, {host: 0.4 + ((index * 7 + at) % 5) / 5 for at, host in enumerate(hosts)})
        for index in range(8)
    }
    before = allocate(fleet(hosts, sees))
    sees["s3"][1]["h2"] += change
    after = allocate(fleet(hosts, sees))
    for old, new in zip(before.sees, after.sees, strict=True):
        assert new.host_cores == pytest.approx(old.host_cores, abs=1e-5)
        assert min(new.host_cores.values()) > 0.0
