"""How fast the response-time model is, how exact, and what its assumptions cost against a simulated processor.

No published figure: the paper's program goes through all orders, n! of them. ``speed`` rows time the model and, where
that ends, the enumeration. ``assumption`` rows compare the model's prediction with a simulation that drops one of its
assumptions: largest error over the workloads, and the range over seeds.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from bench.harness import Case
from bench.plots import bars
from utilctl_common.responsetime import Machine, Node, Transactions, predict
from utilctl_common.responsetime.enumeration import enumerated, orders
from utilctl_common.responsetime.simulation import (
    ServiceTimes,
    constant,
    exponential,
    hyperexponential,
    simulate,
)

GOAL_S: Final = 2.0
"""Longest that a prediction for 500 workloads may take."""
REPEATS: Final = 5
SEEDS: Final = 3
JOBS: Final = 300_000
MOST_ENUMERATED: Final = 8


def cases(*, quick: bool) -> dict[str, Case]:
    """Speed first, then the assumptions."""
    repeats = 2 if quick else REPEATS
    found: dict[str, Case] = {}
    for count in (3, 6, MOST_ENUMERATED):
        found[f"{count} workloads, 1 core"] = partial(_speed, partial(flat, count, 1), repeats)
    for count, cores in ((500, 1), (500, 8), (500, 64), (5_000, 1)):
        found[f"{count} workloads, {cores} core{'s' if cores > 1 else ''}"] = partial(
            _speed, partial(flat, count, cores), repeats
        )
    for cores in (1, 8):
        name = f"500 workloads, tree of depth 4, {cores} core{'s' if cores > 1 else ''}"
        found[name] = partial(_speed, partial(tree, cores), repeats)
    jobs = JOBS // 6 if quick else JOBS
    for name, (machine, settings) in _assumptions().items():
        found[name] = partial(_assumption, machine, jobs, **settings)
    return found


def flat(count: int, cores: int, busy: float = 0.9) -> Machine:
    """Workloads side by side with unequal shares, utilizations and service times."""
    rng = random.Random(count)
    parts = [rng.uniform(0.1, 1.0) for _ in range(count)]
    total = sum(parts)
    nodes = (
        Node(f"w{n}", rng.uniform(0.1, 10), load=Transactions(part / total * busy * cores, 10 ** rng.uniform(-2, 1)))
        for n, part in enumerate(parts)
    )
    return Machine(cores, "guarantee", tuple(nodes))


def tree(cores: int, busy: float = 0.9) -> Machine:
    """500 workloads as leaves of a tree of depth 4, five groups in each."""
    leaves = iter(flat(500, cores, busy).nodes)
    rng = random.Random(4)

    def level(depth: int, prefix: str) -> tuple[Node, ...]:
        if depth == 0:
            return tuple(next(leaves) for _ in range(4))
        groups = ((f"{prefix}g{n}", rng.uniform(0.1, 10)) for n in range(5))
        return tuple(Node(name, share, children=level(depth - 1, f"{name}/")) for name, share in groups)

    return Machine(cores, "guarantee", level(3, ""))


def _speed(make: Callable[[], Machine], repeats: int) -> dict[str, Any]:
    machine = make()
    prediction = predict(machine)  # what is imported on the way is not counted
    seconds: list[float] = []
    for _ in range(repeats):
        start_s = time.process_time()
        predict(machine)
        seconds.append(time.process_time() - start_s)
    loads = [leaf.load for leaf in machine.leaves() if isinstance(leaf.load, Transactions)]
    alone = predict(Machine(machine.cores, "none", machine.nodes))
    due = sum(
        load.utilization_cores * (one.response_time_s or 0.0) for load, one in zip(loads, alone.workloads, strict=True)
    )
    spent = sum(
        load.utilization_cores * (one.response_time_s or 0.0)
        for load, one in zip(loads, prediction.workloads, strict=True)
    )
    row: dict[str, Any] = {
        "kind": "speed",
        "repeats": repeats,
        "model_s": _figure(seconds, 5),
        "goal_s": GOAL_S if len(loads) == 500 else None,
        "conservation_error": abs(spent / due - 1),
    }
    if len(loads) <= MOST_ENUMERATED:
        start_s = time.process_time()
        times = enumerated(machine)
        row["enumeration_s"] = round(time.process_time() - start_s, 5)
        row["largest_difference"] = max(
            abs((one.response_time_s or 0.0) / times[one.name] - 1) for one in prediction.workloads
        )
    return row


def _machine(cores: float, *workloads: tuple[float, float, float]) -> Machine:
    """Workloads by share, part of the cores used, service time."""
    nodes = (
        Node(f"w{n}", share, load=Transactions(used * cores, service_s))
        for n, (share, used, service_s) in enumerate(workloads, 1)
    )
    return Machine(cores, "guarantee", tuple(nodes))


def _assumptions() -> dict[str, tuple[Machine, dict[str, Any]]]:
    two = _machine(1, (1, 0.24, 1), (1, 0.47, 1))
    light = _machine(1, (9, 0.24, 1), (1, 0.47, 1))
    three = _machine(1, (1, 0.14, 1), (1, 0.21, 1), (1, 0.39, 1))
    short = _machine(1, (1, 0.3, 0.1), (1, 0.4, 1))
    found: dict[str, tuple[Machine, dict[str, Any]]] = {
        "2 workloads (0.24, 0.47), all assumptions kept": (two, {}),
        "3 workloads (0.14, 0.21, 0.39), all kept": (three, {}),
        "service times 0.1 and 1, all kept": (short, {}),
    }
    for every_s in (10.0, 1.0, 0.1):
        found[f"2 workloads, order drawn every {every_s:g} service times"] = (two, {"redraw_s": every_s})
    found["2 workloads, shares 9 : 1, order drawn every 0.1"] = (light, {"redraw_s": 0.1})
    found["3 workloads, order drawn every 0.1"] = (three, {"redraw_s": 0.1})
    found["2 workloads, constant service times"] = (two, {"service_times": constant})
    found["2 workloads, service times of 4 times the variance"] = (two, {"service_times": hyperexponential})
    for cores in (2, 4, 16):
        equal = _machine(cores, (3, 0.2, 1), (2, 0.3, 1), (1, 0.4, 1))
        unequal = _machine(cores, (3, 0.2, 0.1), (2, 0.3, 1), (1, 0.4, 3))
        found[f"{cores} cores, equal service times"] = (equal, {})
        found[f"{cores} cores, service times 0.1, 1 and 3"] = (unequal, {})
    return found


def _assumption(
    machine: Machine, jobs: int, *, redraw_s: float | None = None, service_times: ServiceTimes = exponential
) -> dict[str, Any]:
    predicted = {one.name: one.response_time_s or 0.0 for one in predict(machine).workloads}
    runs = [_simulated(machine, seed, jobs, redraw_s, service_times) for seed in range(SEEDS)]
    simulated = {name: _figure([run[name] for run in runs], 4) for name in predicted}
    errors = {name: predicted[name] / simulated[name]["median"] - 1 for name in predicted}
    return {
        "kind": "assumption",
        "repeats": SEEDS,
        "jobs": jobs,
        "predicted_s": {name: round(value, 4) for name, value in predicted.items()},
        "simulated_s": simulated,
        "largest_error_pct": round(100 * max(errors.values(), key=abs), 1),
    }


def _simulated(
    machine: Machine, seed: int, jobs: int, redraw_s: float | None, service_times: ServiceTimes
) -> dict[str, float]:
    """Response times by name: of one run where orders change, else averaged over runs in each order."""
    if redraw_s is not None:
        # Redrawing costs more than jobs do: shorter runs where it is often.
        fewer = max(5_000, int(jobs * min(1.0, redraw_s)))
        measured = simulate(machine, np.random.default_rng(seed), jobs=fewer, redraw_s=redraw_s)
        return {one.name: one.response_time_s for one in measured}
    times = dict.fromkeys((leaf.name for leaf in machine.leaves()), 0.0)
    for number, (probability, order) in enumerate(orders(machine.nodes)):
        names = [leaf.name for leaf in order]
        random_ = np.random.default_rng([seed, number])
        for one in simulate(machine, random_, jobs=2 * jobs, order=names, service_times=service_times):
            times[one.name] += probability * one.response_time_s
    return times


def _figure(values: Sequence[float], digits: int) -> dict[str, float]:
    return {
        "median": round(statistics.median(values), digits),
        "min": round(min(values), digits),
        "max": round(max(values), digits),
    }


def plot(results: Mapping[str, Any], path: Path) -> None:
    """Seconds of CPU by case."""
    speed = {name: row for name, row in results.items() if row["kind"] == "speed"}
    series = {
        "model": {name: row["model_s"]["median"] for name, row in speed.items()},
        "enumeration": {name: row["enumeration_s"] for name, row in speed.items() if "enumeration_s" in row},
    }
    bars(path, series, title="Predicting response times, one core", ylabel="seconds of CPU", line=("goal", GOAL_S))
