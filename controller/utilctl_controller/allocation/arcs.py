"""Who has demand where: the arcs of an instance as columns, made from the demand of every SEE by host.

Nearly all of the time goes into looking up and sorting hosts, which hardly ever change from one problem to the next. So
what was found for an SEE is kept with the names that it was found for, and used again for the same names.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from utilctl_common.errors import UsageError
from utilctl_controller.allocation.model import SeeClaim

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]

_SHORT: Final = 1 << 16
"""Numbers below this are sorted by radix, many times as fast."""


@dataclass(frozen=True, slots=True)
class Sites:
    """The hosts that one SEE's demand names: as named, and in the order of their ids, which ``order`` brings about.

    ``order`` is None where that is the order in which they are named.
    """

    named: tuple[str, ...]
    names: tuple[str, ...]
    hosts: IntArray
    order: IntArray | None


@dataclass(frozen=True, eq=False)
class Arcs:
    """Columns by arc, sorted by leaf, then host: ids, usable demand in ticks, and demand in cores as it was given.

    ``names`` are the hosts' names by leaf, in the order of the arcs. ``fleet`` and ``sites`` (by name of the SEE) are
    what the next problem can be compiled with.
    """

    leaf: IntArray
    host: IntArray
    demand: IntArray
    wanted: FloatArray
    names: Mapping[int, tuple[str, ...]]
    fleet: tuple[str, ...]
    sites: Mapping[str, Sites]

    def __len__(self) -> int:
        """How many there are."""
        return len(self.leaf)

    def starts(self, nodes: int) -> tuple[list[int], list[int]]:
        """Where every node's arcs begin (and, at last, end), and the sum of every node's usable demand."""
        counts = np.bincount(self.leaf, minlength=nodes)
        start = np.concatenate(([0], np.cumsum(counts)))
        sums = np.diff(np.concatenate(([0], np.cumsum(self.demand)))[start])  # right even if the running sum overflows
        return start.tolist(), sums.tolist()

    @cached_property
    def by_host(self) -> IntArray:
        """The arcs' ids sorted by host, then leaf."""
        return stable_order(self.host, len(self.fleet))


def stable_order(values: IntArray, size: int) -> IntArray:
    """The positions of ``values``, all below ``size``, in ascending order; equal ones as they come."""
    return np.argsort(values.astype(np.uint16) if size <= _SHORT else values, kind="stable")


def check_cores(cores: float, what: str) -> None:
    """Raise UsageError unless ``cores`` is a number of cores."""
    if not 0.0 <= cores < math.inf:  # also false for NaN
        raise UsageError(f"{what} is {cores}, not a number of cores", hint="use for example 0.5 or 2")


def compile_arcs(
    source: Sequence[SeeClaim | None], is_leaf: Sequence[bool], fleet: tuple[str, ...], capacity: Sequence[int],
    ticks_per_core: float, before: Arcs | None,
) -> Arcs:  # fmt: skip
    """The arcs of every leaf's claim. Raises UsageError for hosts not in ``fleet`` and for bad demand."""
    kept: Mapping[str, Sites] = {}
    if before is not None and (before.fleet is fleet or before.fleet == fleet):
        kept, fleet = before.sites, before.fleet
    index: dict[str, int] = {}
    sites: dict[str, Sites] = {}
    names: dict[int, tuple[str, ...]] = {}
    values: list[FloatArray] = []
    hosts: list[IntArray] = []
    counts = np.zeros(len(source), dtype=np.int64)
    for node, claim in enumerate(source):
        if claim is None or not claim.demand_cores:
            continue
        wanted = claim.demand_cores
        named = tuple(wanted)
        site = sites.get(claim.name) or kept.get(claim.name)
        if site is None or site.named != named:
            index = index or {name: position for position, name in enumerate(fleet)}
            site = _sites_of(claim, named, index)
        sites[claim.name] = site
        cores = np.fromiter(wanted.values(), np.float64, len(named))
        if not (cores.min() >= 0.0 and cores.max() < math.inf):
            for name in sorted(wanted):
                check_cores(wanted[name], f"demand of {claim.name} on host {name}")
        if not is_leaf[node]:
            continue
        if site.order is not None:
            cores = cores[site.order]
        here, names[node] = site.hosts, site.names
        if not cores.all():
            some = np.flatnonzero(cores)
            cores, here = cores[some], here[some]
            names[node] = tuple(site.names[position] for position in some.tolist())
        values.append(cores)
        hosts.append(here)
        counts[node] = len(cores)
    host = np.concatenate(hosts) if hosts else np.zeros(0, dtype=np.int64)
    cores = np.concatenate(values) if values else np.zeros(0)
    room = np.array(capacity, dtype=np.float64)
    demand = np.minimum(cores * ticks_per_core, room[host]).astype(np.int64)
    leaf = np.repeat(np.arange(len(source)), counts)
    arcs = Arcs(leaf, host, demand, cores, names, fleet, sites)
    if before is not None and np.array_equal(host, before.host) and "by_host" in before.__dict__:
        arcs.__dict__["by_host"] = before.by_host  # where arcs are the same, so is their order
    return arcs


def _sites_of(claim: SeeClaim, named: tuple[str, ...], index: Mapping[str, int]) -> Sites:
    try:
        hosts = np.array([index[name] for name in named], dtype=np.int64)
    except KeyError:
        unknown = min(name for name in named if name not in index)
        raise UsageError(
            f"demand of {claim.name} names host {unknown}, which is not listed", hint="add the host"
        ) from None
    if (hosts[1:] > hosts[:-1]).all():
        return Sites(named, named, hosts, None)
    order = np.argsort(hosts)
    return Sites(named, tuple(named[position] for position in order.tolist()), hosts[order], order)
