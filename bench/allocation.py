"""How long the controller's allocation takes, verification included, on one core: from nothing, and from the last one.

No published figure. A *change* is what the next decision costs after one demand in a hundred moved, as the controller
makes it: from the allocation before, which itself came from the one before that. Cold starts and changes alternate.
Imports are not counted; nor is the building of the problem.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from bench.allocation_speed import GOALS_S, fleet
from bench.harness import Case
from bench.plots import bars
from utilctl_controller.allocation import AllocationMode, AllocationProblem, allocate
from utilctl_controller.allocation.solver import Solution, solve

REPEATS: Final = 5
QUICK_REPEATS: Final = 3
CHANGED: Final = 0.01
"""Part of the demands that a change moves."""

CHANGE_GOAL: Final = 0.2
"""What a change should cost at most, as a part of the cold start, and of what that should cost at most."""


def cases(*, quick: bool) -> dict[str, Case]:
    """By size, distribution of demand and mode; a tree of two levels last."""
    repeats = QUICK_REPEATS if quick else REPEATS
    found: dict[str, Case] = {}
    for hosts, sees in ((1_000, 200), (10_000, 1_000)):
        variants: list[tuple[str, AllocationMode, int]] = [
            ("uniform", "fleet", 0), ("pareto", "fleet", 0), ("uniform", "fleet-with-floor", 0), ("uniform", "host", 0),
        ]  # fmt: skip
        if not quick or sees == 200:
            variants.append(("uniform", "fleet", sees // 10))
        for kind, mode, parents in variants:
            name = f"{hosts:,} hosts x {sees:,} services, {kind}, {mode}{', tree' if parents else ''}"
            times = 1 if parents and sees > 200 else repeats  # the large tree takes many times as long
            found[name] = partial(_case, (hosts, sees), kind, mode, parents, times)
    return found


def _case(size: tuple[int, int], kind: str, mode: AllocationMode, parents: int, repeats: int) -> dict[str, Any]:
    allocate(fleet(200, 40, "uniform", "fleet", parents=0))  # what is imported on the way is not counted
    problem = fleet(*size, kind, mode, parents=parents)
    cold: list[float] = []
    changed: list[float] = []
    last: Solution | None = None
    for repeat in range(repeats):
        spent_s, found = _cpu_s(problem, None)
        cold.append(spent_s)
        if not parents:
            problem = _moved(problem, repeat)
            spent_s, last = _cpu_s(problem, last or found)
            changed.append(spent_s)
    row: dict[str, Any] = {
        "pairs": sum(len(see.demand_cores) for see in problem.sees),
        "repeats": repeats,
        "cold_s": _figure(cold),
        "goal_s": None if parents else GOALS_S[size],
    }
    return {**row, "changed_s": _figure(changed)} if changed else row


def _cpu_s(problem: AllocationProblem, before: Solution | None) -> tuple[float, Solution]:
    """CPU time of one allocation, which other work on the machine moves less than wall time; and the allocation."""
    start_s = time.process_time()
    found = solve(problem, before)
    return time.process_time() - start_s, found


def _moved(problem: AllocationProblem, seed: int) -> AllocationProblem:
    """The problem after a part of its demands went up or down by up to a half."""
    rng = random.Random(seed)
    return replace(
        problem,
        sees=tuple(
            replace(
                see,
                demand_cores={
                    host: round(cores * rng.uniform(0.5, 1.5), 3) if rng.random() < CHANGED else cores
                    for host, cores in see.demand_cores.items()
                },
            )
            for see in problem.sees
        ),
    )


def _figure(seconds: list[float]) -> dict[str, float]:
    return {
        "median": round(statistics.median(seconds), 4),
        "min": round(min(seconds), 4),
        "max": round(max(seconds), 4),
    }


def plot(results: Mapping[str, Any], path: Path) -> None:
    """Median seconds by case."""
    series = {
        "cold": {name: row["cold_s"]["median"] for name, row in results.items()},
        "1 % changed": {name: row["changed_s"]["median"] for name, row in results.items() if "changed_s" in row},
    }
    bars(path, series, title="Allocation with verification, one core", ylabel="seconds")
