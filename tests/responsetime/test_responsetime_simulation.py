"""The simulated processor agrees with the formulas where they are exact, and repeats itself."""

from __future__ import annotations

import numpy as np
import pytest

from utilctl_common.responsetime import Machine, Node, Transactions, predict
from utilctl_common.responsetime.enumeration import orders
from utilctl_common.responsetime.simulation import ServiceTimes, constant, exponential, hyperexponential, simulate

JOBS = 60_000


def averaged_over_orders(machine: Machine, jobs: int = JOBS) -> dict[str, float]:
    """Response times that stay in each order for long, weighted by its probability."""
    times = dict.fromkeys((leaf.name for leaf in machine.leaves()), 0.0)
    for seed, (probability, order) in enumerate(orders(machine.nodes)):
        names = [leaf.name for leaf in order]
        for one in simulate(machine, np.random.default_rng(seed), jobs=jobs, order=names):
            times[one.name] += probability * one.response_time_s
    return times


@pytest.mark.parametrize("cores", [1, 3])
def test_orders_that_stay_give_the_predicted_times(cores: int) -> None:
    group = Node(
        "g",
        2,
        children=(
            Node("g/a", 5, load=Transactions(0.2 * cores, 1.0)),
            Node("g/b", 1, load=Transactions(0.2 * cores, 1.0)),
        ),
    )
    machine = Machine(cores, "guarantee", (group, Node("c", 1, load=Transactions(0.2 * cores, 1.0))))
    simulated = averaged_over_orders(machine)
    for one in predict(machine).workloads:
        assert simulated[one.name] == pytest.approx(one.response_time_s, rel=0.05)


def test_unequal_service_times_on_one_core_give_the_predicted_times() -> None:
    machine = Machine(
        1, "guarantee", (Node("short", 1, load=Transactions(0.3, 0.1)), Node("long", 1, load=Transactions(0.3, 1.0)))
    )
    simulated = averaged_over_orders(machine, 300_000)
    for one in predict(machine).workloads:
        assert simulated[one.name] == pytest.approx(one.response_time_s, rel=0.08)


def test_the_first_in_order_is_served_alike_whatever_the_distribution() -> None:
    machine = Machine(
        1, "guarantee", (Node("a", 1, load=Transactions(0.5, 1.0)), Node("b", 1, load=Transactions(0.3, 1.0)))
    )
    for distribution in (constant, exponential, hyperexponential):
        random = np.random.default_rng(7)
        first, _ = simulate(machine, random, jobs=4 * JOBS, order=["a", "b"], service_times=distribution)
        assert first.response_time_s == pytest.approx(2.0, rel=0.06)


@pytest.mark.parametrize("distribution", [constant, exponential, hyperexponential])
def test_service_times_have_a_mean_of_one(distribution: ServiceTimes) -> None:
    assert distribution(np.random.default_rng(1), 200_000).mean() == pytest.approx(1.0, rel=0.02)


def test_the_same_seed_gives_the_same_answer() -> None:
    machine = Machine(
        2, "guarantee", (Node("a", 1, load=Transactions(0.7, 1.0)), Node("b", 2, load=Transactions(0.7, 0.5)))
    )
    one, same, other = (simulate(machine, np.random.default_rng(seed), jobs=2_000, redraw_s=0.5) for seed in (5, 5, 6))
    assert one == same
    assert one != other


def test_an_order_that_is_drawn_all_the_time_favours_the_light_workload_more_than_predicted() -> None:
    machine = Machine(
        1, "guarantee", (Node("light", 1, load=Transactions(0.24, 1.0)), Node("heavy", 1, load=Transactions(0.47, 1.0)))
    )
    light, heavy = simulate(machine, np.random.default_rng(2), jobs=JOBS, redraw_s=0.05)
    predicted = predict(machine).workloads
    assert predicted[0].response_time_s == pytest.approx(3.91, abs=0.01)
    assert light.response_time_s < 0.85 * 3.91
    assert heavy.response_time_s > 3.3
