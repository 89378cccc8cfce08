"""Shares and floors that the fleet cannot give are told when they are set, in one line each."""

from __future__ import annotations

from dataclasses import replace

import pytest
from allocation.allocation_fleets import fleet, fleets
from hypothesis import given, settings

from support.fleet_values import Fleet, policies
from utilctl_common.policy import SeePolicy
from utilctl_controller.allocation import AllocationProblem, allocate, unreachable
from utilctl_controller.rebalance import reachability_warnings

SKEWED = fleet(
    {"a": 4, "b": 20},
    {"svc=web": (3, {"a": 9}), "svc=etl": (5, {"a": 1, "b": 20}), "svc=db": (2, {"b": 20}), "svc=idle": (90, {})},
)


def test_a_share_above_what_its_hosts_have_is_named_with_need_and_reach() -> None:
    assert unreachable(SKEWED, ["svc=web", "svc=etl", "svc=db"]) == (
        "svc=web: share 3 of 10 would need 7.2 cores, it can use 4: the hosts where it runs have 4",
    )


def test_a_cap_below_the_share_is_named() -> None:
    sees = tuple(replace(see, cap_cores=1.5) if see.name == "svc=db" else see for see in SKEWED.sees)
    assert unreachable(replace(SKEWED, sees=sees), ["svc=db"]) == (
        "svc=db: share 2 of 10 would need 4.8 cores, it can use 1.5: its cap is 1.5",
    )


def test_a_child_is_measured_by_its_part_of_its_parent() -> None:
    problem = fleet(
        {"a": 1, "b": 3}, {"p/u": (3, {"a": 1}), "p/v": (1, {"b": 3}), "q": (1, {"a": 1, "b": 3})}
    )  # p's part is 2 of 4 cores, and u's 1.5 of them
    assert unreachable(problem) == (
        "p/u: share 3 of 4 would need 1.5 cores, it can use 1: the hosts where it runs have 1",
    )


def test_a_cap_of_the_parent_limits_what_its_children_may_reach() -> None:
    problem = fleet({"a": 4}, {"p": (1, {}, 0, 1), "p/u": (1, {"a": 4}, 2), "q": (1, {"a": 4})})
    assert unreachable(problem, ["p/u"]) == ("p/u: a floor of 2 cores cannot be met, the cap of p is 1",)


def test_a_floor_above_the_whole_fleet_is_named_although_nobody_runs_yet() -> None:
    problem = fleet({"a": 4}, {"svc=new": (1, {}, 5)})
    assert unreachable(problem) == ("svc=new: a floor of 5 cores cannot be met, the fleet has 4",)


def test_in_host_mode_shares_promise_nothing_for_the_fleet() -> None:
    assert unreachable(replace(SKEWED, mode="host"), ["svc=web"]) == ()


@settings(max_examples=100, deadline=None)
@given(fleets())
def test_the_order_of_the_input_does_not_matter_and_every_fleet_that_is_allocated_is_linted(
    problem: AllocationProblem,
) -> None:
    allocate(problem)
    turned = replace(problem, hosts=problem.hosts[::-1], sees=problem.sees[::-1])
    assert unreachable(turned) == unreachable(problem)
    assert all("\n" not in line for line in unreachable(problem))


def test_a_new_share_is_compared_with_the_newest_decision() -> None:
    simulated = Fleet(policies(SeePolicy("svc=web", 1.0), SeePolicy("svc=etl", 1.0)))
    assert reachability_warnings(simulated.rebalancer.decision, SeePolicy("svc=web", 9.0)) == ()
    simulated.hello("a")
    simulated.hello("b")
    simulated.run({"a": {"svc=web": 1.0, "svc=etl": 1.0}, "b": {"svc=etl": 1.0}}, 5)
    assert reachability_warnings(simulated.rebalancer.decision, SeePolicy("svc=web", 1.0)) == ()
    assert reachability_warnings(simulated.rebalancer.decision, SeePolicy("svc=web", 9.0)) == (
        "svc=web: share 9 of 10 would need 1.8 cores, it can use 1: the hosts where it runs have 1",
    )


@pytest.mark.parametrize("share", [1.0, 1e6])
def test_a_service_that_runs_everywhere_can_reach_any_share(share: float) -> None:
    assert unreachable(fleet({"a": 1, "b": 1}, {"x": (share, {"a": 1, "b": 1}), "y": (1, {"a": 1})}), ["x"]) == ()
