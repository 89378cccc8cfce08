"""What the allocation works on and what it returns. Plain values; no I/O, clock or wire types."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

AllocationMode = Literal["fleet", "fleet-with-floor", "host"]
"""``fleet``: weighted aggregate max-min over the whole fleet. ``fleet-with-floor``: the same, but no SEE gets less
than static per-host shares would give it. ``host``: every host on its own."""


@dataclass(frozen=True, slots=True)
class HostCapacity:
    """A host and the cores that SEEs may use on it: its cores minus unclaimed use."""

    name: str
    capacity_cores: float


@dataclass(frozen=True, slots=True)
class SeeClaim:
    """One SEE's claim: its policy figures and its demand by host, in cores (hosts not named: no demand)."""

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
    """What one SEE is granted. ``bottleneck`` says what keeps it from more, for people:
    ``demand``, ``cap``, ``floor``, or ``capacity of host-a, host-b``."""

    name: str
    total_cores: float
    host_cores: Mapping[str, float]
    bottleneck: str


@dataclass(frozen=True, slots=True)
class Allocation:
    """The exact allocation: every SEE, sorted by name.

    ``min_max_ratio`` is min/max of total/share over the SEEs with unmet demand that no cap or floor binds; 1.0 when
    there are fewer than two. ``notes`` are sentences for people, for example about floors scaled down.
    """

    mode: AllocationMode
    sees: tuple[SeeAllocation, ...]
    min_max_ratio: float
    notes: tuple[str, ...]
