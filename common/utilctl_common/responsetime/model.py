"""What the model is asked and what it answers: a tree of workloads on some cores, a response time for each leaf.

Units: cores (1.0 is one CPU all of the time) and seconds. Source of the vocabulary: E. Bolker and Y. Ding, "On the
performance impact of fair share scheduling", 2000.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Literal

from utilctl_common.errors import UsageError

Semantics = Literal["guarantee", "cap", "none"]
"""What a share means: a part that is there on contention, a part that is never exceeded, or nothing at all."""

MAX_CORES: Final = 4096
"""Most cores of a machine. Arbitrary; beyond any host of today."""

SATURATION_MARGIN: Final = 1e-9
"""Load this close to the capacity, as a part of it, counts as saturated: the response time is a million times the
service time there, and means nothing."""


class SaturatedError(UsageError):
    """The work is more than what the CPUs can do: queues grow for as long as this lasts."""


class BeyondModelError(UsageError):
    """The question is sound, and no formula that this model stands on answers it."""


@dataclass(frozen=True, slots=True)
class Transactions:
    """Jobs that come at random instants (Poisson) with random service times (exponential).

    ``utilization_cores`` is arrival rate times ``service_time_s``, the mean CPU time of a job on one core.
    """

    utilization_cores: float
    service_time_s: float


@dataclass(frozen=True, slots=True)
class Batch:
    """One process that always has work: the next job, of ``service_time_s`` CPU time, starts when one ends."""

    service_time_s: float


@dataclass(frozen=True, slots=True)
class Node:
    """A workload (with a ``load``) or a group of them (with ``children``), and what it gets relative to its siblings.

    ``reserved_cores``, where it is not None, is the part itself instead of a ``share`` of what reservations leave: a
    floor among guarantees, a cap among caps. ``semantics`` says how children share; None: as it is around the group.
    """

    name: str
    share: float
    reserved_cores: float | None = None
    load: Transactions | Batch | None = None
    semantics: Semantics | None = None
    children: tuple[Node, ...] = ()

    def leaves(self) -> Iterator[Node]:
        """The workloads of this subtree."""
        if not self.children:
            yield self
        for child in self.children:
            yield from child.leaves()

    @property
    def utilization_cores(self) -> float:
        """Sum over the transactions of this subtree."""
        return sum(leaf.load.utilization_cores for leaf in self.leaves() if isinstance(leaf.load, Transactions))


@dataclass(frozen=True, slots=True)
class Machine:
    """What shares ``cores`` how; ``nodes`` are the top level of the tree."""

    cores: float
    semantics: Semantics
    nodes: tuple[Node, ...]

    def leaves(self) -> tuple[Node, ...]:
        """The workloads, in the order of the tree."""
        return tuple(leaf for node in self.nodes for leaf in node.leaves())


@dataclass(frozen=True, slots=True)
class Response:
    """A workload's mean response time a transaction, and that over its service time. None: it grows without bound.

    ``cpu_cores``: its utilization, or for a batch what it gets.
    """

    name: str
    response_time_s: float | None
    slowdown: float | None
    cpu_cores: float


@dataclass(frozen=True, slots=True)
class Prediction:
    """The leaves in the order of the tree; their mean weighted by the CPU they use; what is worth saying besides."""

    workloads: tuple[Response, ...]
    mean_response_time_s: float | None
    notes: tuple[str, ...] = ()


def response(leaf: Node, response_time_s: float | None, cpu_cores: float) -> Response:
    """The answer for one leaf."""
    if leaf.load is None:
        raise AssertionError(f"{leaf.name} is no workload")
    slowdown = None if response_time_s is None else response_time_s / leaf.load.service_time_s
    return Response(leaf.name, response_time_s, slowdown, cpu_cores)


def mean_response_time_s(responses: Iterable[Response]) -> float | None:
    """Mean weighted by CPU used: the mean that shares cannot change. None if one has no bound or there is nothing."""
    times: list[float] = []
    weights: list[float] = []
    for workload in responses:
        if workload.response_time_s is None:
            return None
        times.append(workload.response_time_s)
        weights.append(workload.cpu_cores)
    total = sum(weights)
    if total > 0:
        return sum(time * weight for time, weight in zip(times, weights, strict=True)) / total
    return sum(times) / len(times) if times else None
