"""Allocations small enough to check by hand, and what bad input is told."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from allocation.allocation_fleets import fleet

from utilctl_common.errors import FailedError, UsageError
from utilctl_controller.allocation import (
    Allocation,
    AllocationError,
    AllocationMode,
    AllocationProblem,
    allocate,
    solver,
    verify,
)


def totals(allocation: Allocation) -> dict[str, object]:
    return {see.name: pytest.approx(see.total_cores, abs=1e-9) for see in allocation.sees}


def bottlenecks(allocation: Allocation) -> dict[str, str]:
    return {see.name: see.bottleneck for see in allocation.sees}


THREE = fleet(
    {"a": 1, "b": 1},
    {"web": (3, {"a": 1}), "etl": (1, {"b": 1}), "batch": (2, {"a": 1, "b": 1})},
)
TWO = fleet({"1": 1, "2": 1}, {"A": (1, {"1": 1}), "B": (1, {"1": 1, "2": 0.2})})


def test_fleet_shares_follow_totals_whatever_the_placement() -> None:
    allocation = allocate(THREE)
    assert totals(allocation) == {"web": 1.0, "etl": 1 / 3, "batch": 2 / 3}
    hosts = {see.name: see.host_cores for see in allocation.sees}
    assert hosts["web"] == pytest.approx({"a": 1.0})
    assert hosts["batch"] == pytest.approx({"a": 0.0, "b": 2 / 3}, abs=1e-9)
    assert allocation.min_max_ratio == pytest.approx(1.0)


def test_host_mode_divides_every_host_on_its_own() -> None:
    assert totals(allocate(replace(THREE, mode="host"))) == {"web": 0.6, "etl": 1 / 3, "batch": 0.4 + 2 / 3}


def test_fleet_mode_compensates_on_one_host_what_is_had_on_another() -> None:
    assert totals(allocate(TWO)) == {"A": 0.6, "B": 0.6}


def test_fleet_with_floor_takes_nothing_that_static_shares_would_give() -> None:
    allocation = allocate(replace(TWO, mode="fleet-with-floor"))
    assert totals(allocation) == {"A": 0.5, "B": 0.7}
    assert allocation.min_max_ratio == pytest.approx(0.5 / 0.7)


def test_a_floor_is_granted_before_anything_else() -> None:
    problem = fleet({"a": 1}, {"x": (1, {"a": 1}, 0.7), "y": (9, {"a": 1})})
    allocation = allocate(problem)
    assert totals(allocation) == {"x": 0.7, "y": 0.3}
    assert bottlenecks(allocation) == {"x": "floor", "y": "capacity of a"}
    assert allocation.notes == ()


def test_a_floor_without_demand_is_left_to_others() -> None:
    problem = fleet({"a": 1}, {"x": (1, {"a": 0.1}, 0.7), "y": (9, {"a": 1})})
    assert totals(allocate(problem)) == {"x": 0.1, "y": 0.9}


def test_floors_that_do_not_fit_are_scaled_by_one_factor_and_noted() -> None:
    problem = fleet(
        {"a": 1, "b": 1},
        {"x": (1, {"a": 1}, 0.9), "y": (1, {"a": 1}, 0.6), "z": (1, {"b": 1}, 0.5), "v": (1, {"b": 1})},
    )
    allocation = allocate(problem)
    assert totals(allocation) == {"x": 0.6, "y": 0.4, "z": 0.5, "v": 0.5}
    assert [note.split(":")[0] for note in allocation.notes] == ["floor of x", "floor of y"]


def test_a_cap_holds_on_an_idle_fleet_and_its_rest_goes_to_others() -> None:
    problem = fleet({"a": 1, "b": 1}, {"x": (1, {"a": 1, "b": 1}, 0, 0.5), "y": (1, {"a": 2, "b": 2})})
    allocation = allocate(problem)
    assert totals(allocation) == {"x": 0.5, "y": 1.5}
    assert bottlenecks(allocation)["x"] == "cap"
    assert allocation.sees[0].host_cores == pytest.approx({"a": 0.25, "b": 0.25})


def test_a_cap_in_host_mode_is_split_by_demand() -> None:
    problem = fleet({"a": 1, "b": 1}, {"x": (1, {"a": 0.9, "b": 0.3}, 0, 0.4)}, mode="host")
    assert allocate(problem).sees[0].host_cores == pytest.approx({"a": 0.3, "b": 0.1})


def test_what_a_child_cannot_use_goes_to_its_siblings_first() -> None:
    problem = fleet(
        {"a": 4},
        {
            "svc=web": (1, {}),
            "svc=web/class=gold": (3, {"a": 0.5}),
            "svc=web/class=free": (1, {"a": 4}),
            "svc=db": (1, {"a": 4}),
        },
    )
    assert totals(allocate(problem)) == {
        "svc=web": 2.0,
        "svc=web/class=gold": 0.5,
        "svc=web/class=free": 1.5,
        "svc=db": 2.0,
    }


def test_a_parents_own_demand_counts_as_a_child_with_share_1() -> None:
    problem = fleet({"a": 4}, {"p": (5, {"a": 4}), "p/c": (3, {"a": 4})})
    allocation = allocate(problem)
    assert totals(allocation) == {"p": 4.0, "p/c": 3.0}
    assert allocation.sees[0].own_host_cores == pytest.approx({"a": 1.0})
    assert allocation.sees[0].host_cores == pytest.approx({"a": 4.0})


def test_a_parent_that_is_not_listed_has_share_1_and_is_not_reported() -> None:
    problem = fleet({"a": 3}, {"p/c": (7, {"a": 3}), "p/d": (7, {"a": 3}), "q": (2, {"a": 3})})
    assert totals(allocate(problem)) == {"p/c": 0.5, "p/d": 0.5, "q": 2.0}


def test_an_ancestors_cap_is_named_as_the_bottleneck() -> None:
    problem = fleet({"a": 3}, {"p": (1, {}, 0, 1), "p/c": (1, {"a": 3})})
    assert bottlenecks(allocate(problem)) == {"p": "cap", "p/c": "cap of p"}


def test_parents_give_way_on_hosts_so_that_their_children_come_out_even() -> None:
    # Each parent's total is 1 either way; only giving each child half of it is fair inside both parents.
    problem = fleet(
        {"a": 1, "b": 1}, {"p/u": (1, {"a": 1}), "p/v": (1, {"b": 1}), "q/u": (1, {"a": 1}), "q/v": (1, {"b": 1})}
    )
    assert totals(allocate(problem)) == dict.fromkeys(("p/u", "p/v", "q/u", "q/v"), 0.5)


def test_no_host_is_left_out_without_need() -> None:
    problem = fleet({"a": 2, "b": 2, "c": 2}, {s: (1, {"a": 2, "b": 2, "c": 2}) for s in "xyz"})
    for see in allocate(problem).sees:
        assert see.host_cores == pytest.approx({"a": 2 / 3, "b": 2 / 3, "c": 2 / 3})


def test_an_empty_fleet_and_idle_services_are_no_problem() -> None:
    assert allocate(AllocationProblem("fleet", (), ())).sees == ()
    allocation = allocate(fleet({"a": 0}, {"x": (1, {"a": 1}), "y": (1, {})}))
    assert totals(allocation) == {"x": 0.0, "y": 0.0}
    assert bottlenecks(allocation) == {"x": "capacity of a", "y": "demand"}


GOOD = ({"a": 1.0}, {"x": (1.0, {"a": 1.0}, 0.0, 1.0)})


@pytest.mark.parametrize(
    ("hosts", "sees", "named"),
    [
        ({"a": -1.0}, GOOD[1], "capacity of host a"),
        ({"a": math.inf}, GOOD[1], "capacity of host a"),
        (GOOD[0], {"x": (0.0, {})}, "share 0.0 of x"),
        (GOOD[0], {"x": (math.nan, {})}, "share nan of x"),
        (GOOD[0], {"x": (1.0, {"a": math.nan})}, "demand of x on host a"),
        (GOOD[0], {"x": (1.0, {"a": -0.5})}, "demand of x on host a"),
        (GOOD[0], {"x": (1.0, {"b": 0.5})}, "demand of x names host b"),
        (GOOD[0], {"x": (1.0, {}, -1.0)}, "floor of x"),
        (GOOD[0], {"x": (1.0, {}, 0.0, math.inf)}, "cap of x"),
        (GOOD[0], {"x": (1.0, {}, 2.0, 1.0)}, "floor 2 of x is above its cap 1"),
        (GOOD[0], {"x//y": (1.0, {})}, "'x//y'"),
    ],
)
def test_bad_input_is_refused_by_name(hosts: dict[str, float], sees: dict[str, tuple], named: str) -> None:  # type: ignore[type-arg]  # ragged on purpose
    with pytest.raises(UsageError, match=named.replace("(", r"\(")):
        allocate(fleet(hosts, sees))


def test_duplicate_names_are_refused() -> None:
    with pytest.raises(UsageError, match="service web is listed twice"):
        allocate(replace(THREE, sees=(*THREE.sees, THREE.sees[0])))
    with pytest.raises(UsageError, match="host a is listed twice"):
        allocate(replace(THREE, hosts=(*THREE.hosts, THREE.hosts[0])))


def test_a_child_may_be_listed_without_its_parent_and_names_cannot_form_a_cycle() -> None:
    # The tree is the names' own: whoever is not listed above a child has share 1, whatever stands where in the input.
    problem = fleet({"a": 1}, {"a/b": (1, {"a": 1}), "b/a": (1, {"a": 1}), "a": (3, {})})
    assert totals(allocate(problem)) == {"a": 0.75, "a/b": 0.75, "b/a": 0.25}


def test_a_floor_above_all_capacity_takes_no_more_than_there_is() -> None:
    allocation = allocate(fleet({"a": 1}, {"x": (1, {"a": 5}, 5), "y": (1, {"a": 1}, 1)}))
    assert sum(see.total_cores for see in allocation.sees) == pytest.approx(1)
    assert len(allocation.notes) == 2


@pytest.mark.parametrize("mode", ["fleet", "fleet-with-floor", "host"])
def test_ten_thousand_services_are_allocated_and_verified(mode: AllocationMode) -> None:
    hosts = {f"h{index}": 8.0 for index in range(500)}
    sees = {f"s{index}": (1 + index % 5, {f"h{index % 500}": 1.0}) for index in range(10_000)}
    allocation = allocate(fleet(hosts, sees, mode))
    assert len(allocation.sees) == 10_000
    assert sum(see.total_cores for see in allocation.sees) == pytest.approx(4_000)


def test_a_tree_of_two_hundred_levels_is_allocated() -> None:
    name = "/".join(f"l{depth}" for depth in range(200))
    allocation = allocate(fleet({"a": 2}, {name: (1, {"a": 2}, 0.5), "other": (1, {"a": 2})}))
    assert totals(allocation) == {name: 1.0, "other": 1.0}


def test_a_result_that_does_not_verify_is_never_returned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(solver, "verify_compiled", lambda *_: ("host a grants 9 cores of 1",))
    with pytest.raises(AllocationError, match="host a grants 9 cores of 1") as raised:
        allocate(THREE)
    assert isinstance(raised.value, FailedError)


def tampered(allocation: Allocation, **amounts: float) -> Allocation:
    """The allocation with these amounts on host a (SEEs without children)."""
    sees = []
    for see in allocation.sees:
        hosts = {**see.host_cores, **({"a": amounts[see.name]} if see.name in amounts else {})}
        sees.append(replace(see, host_cores=hosts, own_host_cores=hosts, total_cores=sum(hosts.values())))
    return replace(allocation, sees=tuple(sees))


@pytest.mark.parametrize("mode", ["fleet", "fleet-with-floor", "host"])
@pytest.mark.parametrize(
    ("amounts", "says"),
    [
        ({"x": 0.7, "y": 0.5}, "host a grants"),
        ({"x": 0.45, "y": 0.5}, "x "),
        ({"x": 0.4, "y": 0.6}, "x "),
        ({"x": 1.2, "y": 0.0}, "where its demand is 1"),
        ({"x": -0.5, "y": 0.5}, "where its demand is 1"),
    ],
)
def test_the_checker_sees_what_is_wrong(mode: str, amounts: dict[str, float], says: str) -> None:
    problem = replace(fleet({"a": 1}, {"x": (1, {"a": 1}), "y": (1, {"a": 1})}), mode=mode)  # type: ignore[arg-type]  # one of the modes
    good = allocate(problem)
    assert verify(problem, good) == ()
    assert any(says in violation for violation in verify(problem, tampered(good, **amounts)))


def test_the_checker_sees_broken_floors_caps_sums_and_rows() -> None:
    problem = fleet({"a": 1}, {"x": (1, {"a": 1}, 0.6), "y": (1, {"a": 1}, 0, 0.3)})
    good = allocate(problem)
    assert "below its floor of 0.6" in verify(problem, tampered(good, x=0.5, y=0.3))[0]
    assert "more than its cap 0.3" in verify(problem, tampered(good, x=0.6, y=0.4))[0]
    wrong_sum = replace(good, sees=(replace(good.sees[0], total_cores=5.0), *good.sees[1:]))
    assert "has a total of 5" in verify(problem, wrong_sum)[0]
    assert "every service once" in verify(problem, replace(good, sees=good.sees[:1]))[0]
    assert "for mode host" in verify(problem, replace(good, mode="host"))[0]


def test_the_checker_sees_unfair_children() -> None:
    problem = fleet({"a": 2}, {"p/u": (1, {"a": 2}), "p/v": (1, {"a": 2})})
    good = allocate(problem)
    assert "p/u gets" in verify(problem, tampered(good, **{"p/u": 0.8, "p/v": 1.2}))[0]
