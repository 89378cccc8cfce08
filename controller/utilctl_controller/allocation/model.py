"""What the allocation works on and what it returns. Plain values; no I/O, clock or wire types."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from utilctl_common.errors import FailedError

AllocationMode = Literal["fleet", "fleet-with-floor", "host"]
"""``fleet``: weighted aggregate max-min over the whole fleet. ``fleet-with-floor``: the same, but no SEE gets less
than static per-host shares would give it. ``host``: every host on its own."""


class AllocationError(FailedError):
    """No allocation could be proven right, so none is returned; the targets in force stay as they are."""


@dataclass(frozen=True, slots=True)
class HostCapacity:
    """A host and the cores that SEEs may use on it: its cores minus unclaimed use."""

    name: str
    capacity_cores: float


@dataclass(frozen=True, slots=True)
class SeeClaim:
    """One SEE's claim: its policy figures and its demand by host, in cores (hosts not named: no demand).

    ``demand_cores`` of a parent is its own: that of processes that match the parent and none of its children.
    """

    name: str
    share: float
    floor_cores: float
    cap_cores: float | None
    demand_cores: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class AllocationProblem:
    """Hosts, SEEs and the mode. Children are named by path; a parent that is not listed has share 1 and no cap."""

    mode: AllocationMode
    hosts: tuple[HostCapacity, ...]
    sees: tuple[SeeClaim, ...]


@dataclass(frozen=True, slots=True)
class SeeAllocation:
    """What one SEE is granted, its children included. ``bottleneck`` says what keeps it from more, for people:
    ``demand``, ``cap``, ``floor``, ``capacity of host-a, host-b``, or ``cap of svc=web`` when an ancestor's cap binds.

    ``own_host_cores`` is the part for the SEE's own processes, as opposed to those of its children: equal to
    ``host_cores`` for an SEE without children. Hosts on which the grant is 0 are listed where there is demand.
    """

    name: str
    total_cores: float
    host_cores: Mapping[str, float]
    bottleneck: str
    own_host_cores: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Allocation:
    """The exact allocation: every SEE of the problem, sorted by name.

    ``min_max_ratio`` is min/max of total/share over the SEEs with unmet demand that no cap or floor binds; 1.0 when
    there are fewer than two. Shares compare siblings only, so with children it is the smallest such ratio among
    the groups of siblings. ``notes`` are sentences for people, for example about floors scaled down.
    """

    mode: AllocationMode
    sees: tuple[SeeAllocation, ...]
    min_max_ratio: float
    notes: tuple[str, ...]
