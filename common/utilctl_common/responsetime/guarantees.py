"""Response times where shares are guarantees: every workload may use what the others leave.

In a fixed priority order, with H the load ahead of workload k, Q the sum of load times service time ahead of it, and
V the wait of ``waiting``::

    R_k = s_k (1 + V(H)) + (Q + u_k s_k) (V(H + u_k) - V(H)) / u_k

On one core this is the preemptive-resume M/M/1 queue with classes (L. Kleinrock, Queueing Systems II, 3.4), with equal
service times s / ((1 - H) (1 - H - u_k)). On several cores it is exact for equal service times (the workloads up to k
are an M/M/m queue by themselves), and an approximation for unequal ones. In every case
``sum u_k R_k = sum u_k s_k (1 + V(U))`` whatever the order: what one gains another one loses.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from utilctl_common.responsetime.model import BeyondModelError, Node, Response, Transactions, response
from utilctl_common.responsetime.orders import Ahead, Array, ahead_of_siblings, nobody
from utilctl_common.responsetime.processor import Processor, fractions
from utilctl_common.responsetime.waiting import exponential_sum, waiting

_STEPS: Final = (0.2, 0.1, 0.05)
"""Steps of the integrals. The first one is mostly enough: 1e-12 in all that was compared with enumeration."""

CONSERVATION_TOLERANCE: Final = 1e-9
"""How exactly conservation must hold, relative, for a result to be given out."""


def guarantee_responses(nodes: Sequence[Node], processor: Processor) -> list[Response]:
    """Response times of all leaves below ``nodes``, which share ``processor`` and do not saturate it.

    Raises BeyondModelError for a load that is no transactions, or if conservation does not hold to 1e-9.
    """
    leaves = [leaf for node in nodes for leaf in node.leaves()]
    loads = [_scaled(leaf, processor.speed) for leaf in leaves]
    due = sum(_work(load) for load in loads) * (1 + _mean_wait(loads, processor))
    for step in _STEPS:
        times_s = _times_s(nodes, loads, processor, step)
        spent = sum(load.utilization_cores * time_s for load, time_s in zip(loads, times_s, strict=True))
        if abs(spent - due) <= CONSERVATION_TOLERANCE * due:
            return [
                response(leaf, time_s, load.utilization_cores * processor.speed)
                for leaf, load, time_s in zip(leaves, loads, times_s, strict=True)
            ]
    raise BeyondModelError("the response times cannot be computed exactly enough", hint="make shares less unequal")


def _mean_wait(loads: Sequence[Transactions], processor: Processor) -> float:
    return float(waiting(processor.cores, np.array([sum(load.utilization_cores for load in loads)]))[0])


@dataclass(frozen=True, slots=True)
class _Sum:
    """One part of V's sum of exponentials, and what is the same for the whole tree."""

    exponents: Array
    weights: Array
    speed: float
    step: float


def _times_s(nodes: Sequence[Node], loads: Sequence[Transactions], processor: Processor, step: float) -> list[float]:
    """Response times, by leaf."""
    wait = exponential_sum(processor.whole_cores, sum(load.utilization_cores for load in loads), step)
    parts = [_Sum(*wait.real, processor.speed, step)]
    frequencies, weights = wait.imaginary
    if len(frequencies):
        parts.append(_Sum(np.asarray(1j * frequencies, dtype=np.complex128), weights, processor.speed, step))
    times_s = [load.service_time_s for load in loads]
    for part in parts:
        everybody = _ahead_of_leaves(nodes, processor.cores * processor.speed, nobody(part.exponents), part)
        for leaf, ahead in enumerate(everybody):
            times_s[leaf] += _waited_s(loads[leaf], ahead, part)
    return times_s


def _waited_s(load: Transactions, ahead: Ahead, part: _Sum) -> float:
    """This part's contribution to R_k - s_k."""
    used, service_s = load.utilization_cores, load.service_time_s
    behind = np.exp(-part.exponents * used)
    gained = -np.expm1(-part.exponents * used) / used if used > 0 else part.exponents
    terms = service_s * behind * ahead.load + gained * (ahead.work + used * service_s * ahead.load)
    return float((part.weights * terms).sum().real)


def _ahead_of_leaves(nodes: Sequence[Node], cores: float, above: Ahead, part: _Sum) -> Iterator[Ahead]:
    """What is ahead of each leaf, on all levels together. ``cores`` are what ``nodes`` are guaranteed together."""
    loads = [[_scaled(leaf, part.speed) for leaf in node.leaves()] for node in nodes]
    rates = fractions(nodes, cores)
    siblings = ahead_of_siblings(
        np.array(rates),
        np.array([sum(load.utilization_cores for load in below) for below in loads]),
        np.array([sum(_work(load) for load in below) for below in loads]),
        part.exponents,
        part.step,
    )
    for node, rate, ahead in zip(nodes, rates, siblings, strict=True):
        here = ahead.below(above)
        if node.children:
            yield from _ahead_of_leaves(node.children, cores * rate, here, part)
        else:
            yield here


def _work(load: Transactions) -> float:
    return load.utilization_cores * load.service_time_s


def _scaled(leaf: Node, speed: float) -> Transactions:
    """The leaf's load on a core of that speed. Raises BeyondModelError for a batch."""
    if not isinstance(leaf.load, Transactions):
        raise BeyondModelError(
            f"{leaf.name}: batch: it never leaves the CPU, so transactions behind it would never end in this model",
            hint="predict batch workloads by themselves, give each a cap, or give its utilization instead",
        )
    return Transactions(leaf.load.utilization_cores / speed, leaf.load.service_time_s / speed)
