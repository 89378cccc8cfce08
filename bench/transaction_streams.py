"""Streams of transactions, and what becomes of them on an ideal CPU. Pure: no clock, no processes.

A stream's arrivals and service times are random but seeded, so that every means of control serves the very same
transactions, and so do the ideals here:

- the *model on these arrivals*: the priority order is drawn by shares and stays; the mean over all orders, weighted
  by their probabilities. Over endless streams it is the formula of ``utilctl predict``. Over some thousand
  transactions both differ by luck, by tens of percent on a busy CPU; against the former, luck drops out.
- *fair sharing*: whoever wants CPU gets it at once, divided by shares, in infinitely fine slices.
- *capped*: each on a slower CPU of its own.

Within a workload transactions are served first come, first served. Times are nanoseconds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from utilctl_common.responsetime import Machine, Node, Transactions
from utilctl_common.responsetime.enumeration import orders

Z_95: Final = 1.96
"""Half-width of a 95 % interval in standard errors."""

Rates = Callable[[Sequence[int]], Sequence[float]]
"""Speed (1: a whole CPU) at which each workload is served, by who has transactions (ascending); its order is theirs."""


@dataclass(frozen=True, slots=True)
class Stream:
    """The transactions of one workload: when they come, ascending from 0, and how much CPU time each takes."""

    arrivals_ns: tuple[int, ...]
    services_ns: tuple[int, ...]


def poisson(seed: int, number: int, *, utilization: float, service_ns: float, run_ns: float) -> Stream:
    """Arrivals at random instants until ``run_ns``, exponential service times.

    ``number`` tells the workloads of one seed apart: each stream is the same whoever else is there.
    """
    gaps, services = (np.random.default_rng([seed, number, which]) for which in (0, 1))
    mean_gap_ns = service_ns / utilization
    # So many that, but for odds of one in 1e15, they reach beyond the end.
    most = run_ns / mean_gap_ns
    arrivals = np.cumsum(gaps.exponential(mean_gap_ns, int(most + 8 * math.sqrt(most) + 30)))
    count = int(np.searchsorted(arrivals, run_ns))
    times = services.exponential(service_ns, count)
    return Stream(tuple(arrivals[:count].astype(int).tolist()), tuple(np.maximum(1, times).astype(int).tolist()))


def backlog(seed: int, number: int, *, service_ns: float, count: int) -> Stream:
    """A batch workload: all its jobs are there from the beginning."""
    times = np.random.default_rng([seed, number, 1]).exponential(service_ns, count)
    return Stream((0,) * count, tuple(np.maximum(1, times).astype(int).tolist()))


def streams(machine: Machine, seed: int, run_ns: float) -> list[Stream]:
    """One for each of the machine's workloads, which must all be transactions."""
    found: list[Stream] = []
    for number, leaf in enumerate(machine.leaves()):
        assert isinstance(leaf.load, Transactions)
        used, service_ns = leaf.load.utilization_cores, leaf.load.service_time_s * 1e9
        found.append(poisson(seed, number, utilization=used, service_ns=service_ns, run_ns=run_ns))
    return found


def schedule(served: Sequence[Stream]) -> list[tuple[int, int, int]]:
    """All as they arrive: instant, place of the workload, service time. Those of a workload stay in order."""
    return sorted(
        (
            (arrival_ns, place, service_ns)
            for place, stream in enumerate(served)
            for arrival_ns, service_ns in zip(stream.arrivals_ns, stream.services_ns, strict=True)
        ),
        key=lambda transaction: transaction[:2],  # jobs that arrive at once must not be sorted by their length
    )


def replay(served: Sequence[Stream], rates: Rates) -> list[list[float]]:
    """When each transaction is done, by workload, if ``rates`` divides the CPU."""
    everyone = range(len(served))
    arrived, done = [0] * len(served), [0] * len(served)
    left_ns = [float(stream.services_ns[0]) if stream.services_ns else 0.0 for stream in served]
    ends: list[list[float]] = [[] for _ in served]
    now_ns = 0.0
    while True:
        busy = [w for w in everyone if done[w] < arrived[w]]
        speeds = rates(busy)
        ending_ns = [
            now_ns + left_ns[w] / speed if speed > 0 else math.inf for w, speed in zip(busy, speeds, strict=True)
        ]
        coming_ns = [served[w].arrivals_ns[arrived[w]] for w in everyone if arrived[w] < len(served[w].arrivals_ns)]
        next_end_ns, next_ns = min(ending_ns, default=math.inf), min(coming_ns, default=math.inf)
        if min(next_end_ns, next_ns) == math.inf:
            return ends
        then_ns = min(next_end_ns, next_ns)
        for workload, speed in zip(busy, speeds, strict=True):
            left_ns[workload] -= (then_ns - now_ns) * speed
        now_ns = then_ns
        if next_end_ns <= next_ns:
            workload = busy[ending_ns.index(next_end_ns)]
            ends[workload].append(now_ns)
            done[workload] += 1
            if done[workload] < len(served[workload].services_ns):
                left_ns[workload] = float(served[workload].services_ns[done[workload]])
        else:
            for w in everyone:
                while arrived[w] < len(served[w].arrivals_ns) and served[w].arrivals_ns[arrived[w]] <= now_ns:
                    arrived[w] += 1


def in_order(ahead: Sequence[int]) -> Rates:
    """The first of these workloads that has transactions gets the CPU."""
    rank = {workload: place for place, workload in enumerate(ahead)}

    def rates(busy: Sequence[int]) -> Sequence[float]:
        first = min(busy, key=lambda workload: rank[workload], default=None)
        return [1.0 if workload == first else 0.0 for workload in busy]

    return rates


def fairly(nodes: Sequence[Node]) -> Rates:
    """The CPU is divided by shares among siblings of whom somebody has transactions."""
    places = {leaf.name: place for place, leaf in enumerate(leaf for node in nodes for leaf in node.leaves())}

    def divide(siblings: Sequence[Node], part: float, wanting: set[int], given: dict[int, float]) -> None:
        present = [node for node in siblings if any(places[leaf.name] in wanting for leaf in node.leaves())]
        total = sum(node.share for node in present)
        for node in present:
            if node.children:
                divide(node.children, part * node.share / total, wanting, given)
            else:
                given[places[node.name]] = part * node.share / total

    def rates(busy: Sequence[int]) -> Sequence[float]:
        given: dict[int, float] = {}
        divide(nodes, 1.0, set(busy), given)
        return [given[workload] for workload in busy]

    return rates


def capped(parts: Sequence[float]) -> Rates:
    """Each has its part of the CPU and never more."""
    return lambda busy: [parts[workload] for workload in busy]


def alone(stream: Stream) -> list[int]:
    """When each transaction is done on a CPU that serves nobody else: Lindley's recursion, the oracle of ``replay``."""
    ends: list[int] = []
    free_ns = 0
    for arrival_ns, service_ns in zip(stream.arrivals_ns, stream.services_ns, strict=True):
        free_ns = max(free_ns, arrival_ns) + service_ns
        ends.append(free_ns)
    return ends


def responses_ns(stream: Stream, ends_ns: Sequence[float]) -> list[float]:
    """How long each transaction took, from its arrival."""
    return [end - arrival for end, arrival in zip(ends_ns, stream.arrivals_ns, strict=True)]


def present_ns(served: Sequence[Stream], ends_ns: Sequence[Sequence[float]]) -> float:
    """For how long there was any transaction that had arrived and was not done."""
    stays = sorted(
        stay
        for stream, ends in zip(served, ends_ns, strict=True)
        for stay in zip(stream.arrivals_ns, ends, strict=True)
    )
    total, until_ns = 0.0, 0.0
    for arrival_ns, end_ns in stays:
        if end_ns > until_ns:
            total += end_ns - max(arrival_ns, until_ns)
            until_ns = end_ns
    return total


def modelled_ns(machine: Machine, served: Sequence[Stream]) -> list[list[float]]:
    """Response times of these transactions in the model: the mean over priority orders that stay."""
    places = {leaf.name: place for place, leaf in enumerate(machine.leaves())}
    means = [[0.0] * len(stream.arrivals_ns) for stream in served]
    for probability, order in orders(machine.nodes):
        ends = replay(served, in_order([places[leaf.name] for leaf in order]))
        for mean, stream, done in zip(means, served, ends, strict=True):
            for index, response_ns in enumerate(responses_ns(stream, done)):
                mean[index] += probability * response_ns
    return means


def batch_sums(arrivals_ns: Sequence[int], values: Sequence[float], batch_ns: float, batches: int) -> list[float]:
    """Sums over the transactions that arrived in each stretch of time; what comes later counts for the last one."""
    sums = [0.0] * batches
    for arrival_ns, value in zip(arrivals_ns, values, strict=True):
        sums[min(batches - 1, int(arrival_ns / batch_ns))] += value
    return sums


def ratio(sums: Sequence[float], over: Sequence[float]) -> tuple[float, float]:
    """``sum(sums) / sum(over)`` and the half-width of its 95 % interval; by batches: neighbours are not independent.

    With counts as ``over`` it is a mean. The half-width is infinite for a single batch.
    """
    value = sum(sums) / sum(over)
    count = len(sums)
    if count < 2:
        return value, math.inf
    squares = math.fsum((top - value * bottom) ** 2 for top, bottom in zip(sums, over, strict=True))
    return value, Z_95 * math.sqrt(squares * count / (count - 1)) / sum(over)
