"""A simulated processor with priorities that are drawn by shares: the model's oracle, for what formulas cannot say.

It makes the model's assumptions one by one optional: other service times than exponential, unequal ones on several
cores, and above all how often the order is drawn anew. The formulas average over orders that stay; a scheduler that
draws one every few milliseconds is another system, and this says how far off they are there.

Randomness is an argument: the same generator gives the same answer.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from utilctl_common.responsetime.model import Machine, Node, Transactions

ServiceTimes = Callable[[np.random.Generator, int], np.ndarray[tuple[int], np.dtype[np.float64]]]
"""Random service times of mean 1; the workload's mean is multiplied in."""


def exponential(random: np.random.Generator, count: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """What the model assumes."""
    return random.exponential(1.0, count)


def constant(random: np.random.Generator, count: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Every job takes the same."""
    return np.ones(count)


def hyperexponential(random: np.random.Generator, count: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Many short jobs and few long ones: squared coefficient of variation 4, balanced means."""
    short = 0.5 * (1 + np.sqrt(3 / 5))
    is_short = random.random(count) < short
    return np.asarray(random.exponential(1.0, count) / (2 * np.where(is_short, short, 1 - short)), dtype=np.float64)


@dataclass(frozen=True, slots=True)
class Measured:
    """A workload's mean response time over ``jobs`` jobs."""

    name: str
    response_time_s: float
    jobs: int


@dataclass(slots=True)
class _Queue:
    """The jobs of one workload that are there. They share evenly what the workload gets."""

    served_s: float = 0.0
    """What a job that has been there from the beginning would have got."""
    finishes: list[tuple[float, float]] = field(default_factory=list)
    """(``served_s`` at which the job is done, its arrival), a heap."""
    rate: float = 0.0
    """Of ``served_s``, now."""


def draw_order(nodes: Sequence[Node], random: np.random.Generator) -> list[str]:
    """Names of the leaves in a random order: groups by their shares, then inside each group."""
    clocks = random.exponential(1.0, len(nodes)) / np.array([node.share for node in nodes])
    order: list[str] = []
    for position in np.argsort(clocks):
        node = nodes[int(position)]
        order += draw_order(node.children, random) if node.children else [node.name]
    return order


def simulate(
    machine: Machine,
    random: np.random.Generator,
    *,
    jobs: int,
    redraw_s: float | None = None,
    order: Sequence[str] | None = None,
    service_times: ServiceTimes = exponential,
) -> tuple[Measured, ...]:
    """Mean response times of ``jobs`` arrivals, the first tenth left out.

    The order is drawn anew every ``redraw_s`` (None: never), or is ``order`` throughout. Cores serve jobs in that
    order, preemptively; jobs of one workload share evenly. All loads must be transactions under guarantees.
    """
    leaves = machine.leaves()
    loads = [leaf.load for leaf in leaves if isinstance(leaf.load, Transactions)]
    rates = np.array([load.utilization_cores / load.service_time_s for load in loads])
    arrivals = np.cumsum(random.exponential(1 / rates.sum(), jobs)).tolist()
    kinds = random.choice(len(loads), jobs, p=rates / rates.sum())
    sizes = (service_times(random, jobs) * np.array([load.service_time_s for load in loads])[kinds]).tolist()
    positions = {leaf.name: index for index, leaf in enumerate(leaves)}
    ranks = [positions[name] for name in (order if order is not None else draw_order(machine.nodes, random))]
    queues = [_Queue() for _ in loads]
    sums, counts = [0.0] * len(loads), [0] * len(loads)
    counted_from_s = arrivals[jobs // 10]
    now_s, next_redraw_s = 0.0, redraw_s if redraw_s is not None else np.inf
    upcoming = 0
    kind_of = kinds.tolist()
    while upcoming < jobs:
        free = machine.cores
        done_s, done = np.inf, -1
        for index in ranks:
            queue = queues[index]
            if not queue.finishes:
                continue
            given = min(free, len(queue.finishes))
            queue.rate = given / len(queue.finishes)
            free -= given
            if given > 0:
                end_s = now_s + (queue.finishes[0][0] - queue.served_s) / queue.rate
                if end_s < done_s:
                    done_s, done = end_s, index
        then_s = min(arrivals[upcoming], done_s, next_redraw_s)
        for queue in queues:
            if queue.finishes:
                queue.served_s += (then_s - now_s) * queue.rate
        now_s = then_s
        if done_s <= then_s:
            _, arrived_s = heapq.heappop(queues[done].finishes)
            if arrived_s >= counted_from_s:
                sums[done] += now_s - arrived_s
                counts[done] += 1
        elif arrivals[upcoming] <= then_s:
            queue = queues[kind_of[upcoming]]
            heapq.heappush(queue.finishes, (queue.served_s + sizes[upcoming], now_s))
            upcoming += 1
        else:
            ranks = [positions[name] for name in draw_order(machine.nodes, random)]
            next_redraw_s += redraw_s or np.inf
    return tuple(
        Measured(leaf.name, total / count if count else 0.0, count)
        for leaf, total, count in zip(leaves, sums, counts, strict=True)
    )
