"""Totals against an oracle made of linear programs, and the compiled path against the plain one."""

from __future__ import annotations

import os

import pytest
from allocation.allocation_fleets import large_fleet, random_fleet
from allocation.allocation_oracle import oracle_totals

from utilctl_controller.allocation import AllocationProblem, allocate, components, network, solver, verify
from utilctl_controller.allocation.instance import Instance, compile_problem
from utilctl_controller.allocation.static import static_grants

SEEDS_A_KIND = int(os.environ.get("UTILCTL_ORACLE_SEEDS", "30"))
"""Random fleets for each of the ten kinds below; set the variable to 300 for thousands of them (some minutes)."""


def static_totals(problem: AllocationProblem) -> dict[str, float]:
    """The guarantee of ``fleet-with-floor`` by node of the oracle's tree."""
    instance = compile_problem(problem)
    ticks = [0] * len(instance.parent)
    for leaf, amount in zip(instance.arc_leaf, static_grants(instance), strict=True):
        ticks[leaf] += amount
    for node in range(len(ticks) - 1, -1, -1):
        if instance.parent[node] >= 0:
            ticks[instance.parent[node]] += ticks[node]
    return {oracle_name(instance, node): amount / instance.ticks_per_core for node, amount in enumerate(ticks)}


def oracle_name(instance: Instance, node: int) -> str:
    above = instance.parent[node]
    is_own = above >= 0 and instance.path[above] == instance.path[node]
    return instance.path[node] + "/#own" if is_own else instance.path[node]


@pytest.mark.parametrize("caps", [False, True])
@pytest.mark.parametrize("floors", [False, True])
@pytest.mark.parametrize("tree", [False, True])
def test_totals_equal_those_of_linear_programs(tree: bool, floors: bool, caps: bool) -> None:
    for seed in range(SEEDS_A_KIND):
        problem = random_fleet(seed, tree=tree, floors=floors, caps=caps)
        static = static_totals(problem) if problem.mode == "fleet-with-floor" else None
        expected = oracle_totals(problem, static)
        for see in allocate(problem).sees:
            assert see.total_cores == pytest.approx(expected[see.name], abs=1e-6), (seed, see.name)


@pytest.fixture
def compiled_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks of any size go the way of large ones."""
    monkeypatch.setattr(network, "LARGE_ARCS", 1)
    monkeypatch.setattr(network, "LARGE_PART_ARCS", 1)
    monkeypatch.setattr(solver, "LARGE_ARCS", 1)
    monkeypatch.setattr(components, "_LARGE_EDGES", 1)


@pytest.mark.usefixtures("compiled_path")
@pytest.mark.parametrize("tree", [False, True])
def test_the_compiled_path_gives_the_oracles_totals_too(tree: bool) -> None:
    for seed in range(SEEDS_A_KIND):
        problem = random_fleet(seed, tree=tree, floors=True, caps=True)
        static = static_totals(problem) if problem.mode == "fleet-with-floor" else None
        expected = oracle_totals(problem, static)
        for see in allocate(problem).sees:
            assert see.total_cores == pytest.approx(expected[see.name], abs=1e-6), (seed, see.name)


@pytest.mark.parametrize("caps", [False, True])
@pytest.mark.parametrize("parents", [0, 8])
def test_plain_and_compiled_paths_agree_on_larger_fleets(
    monkeypatch: pytest.MonkeyPatch, parents: int, caps: bool
) -> None:
    problem = large_fleet(120, 40, parents=parents, caps=caps)
    compiled = allocate(problem)
    assert verify(problem, compiled) == ()
    monkeypatch.setattr(network, "LARGE_ARCS", 10**9)
    monkeypatch.setattr(solver, "LARGE_ARCS", 10**9)
    for one, other in zip(compiled.sees, allocate(problem).sees, strict=True):
        assert one.total_cores == pytest.approx(other.total_cores, abs=1e-8)
        assert one.host_cores == pytest.approx(other.host_cores, abs=1e-6)
