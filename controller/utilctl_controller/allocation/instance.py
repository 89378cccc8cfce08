"""An AllocationProblem checked and compiled: a tree of nodes, arcs from leaves to hosts, amounts in integer ticks.

A tick is a power of two of a core, as small as the fleet's size allows (2**-51 for one core, about 2**-34 for
100,000 cores), so that every sum stays below 2**52: exact as integer and as float. Inputs are rounded down to ticks.

Nodes are sorted by path, hosts and arcs by name, so that nothing depends on the order of the input. A listed parent
with demand of its own gets an extra child for it, with share 1: the share of processes nobody classified further.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

from utilctl_common.errors import UsageError
from utilctl_controller.allocation.arcs import Arcs, check_cores, compile_arcs
from utilctl_controller.allocation.model import AllocationMode, AllocationProblem, SeeClaim

OWN_DEMAND_SHARE: Final = 1.0
"""Share of a parent's own demand among its children; the default share of an SEE that is not listed."""

_TICK_BITS: Final = 52
_MAX_FLEET_CORES: Final = 2.0**40
_MODES: Final = ("fleet", "fleet-with-floor", "host")
_INFINITY: Final = math.inf


@dataclass(frozen=True)
class Instance:
    """The compiled problem. Node ids: parents before children. Amounts in ticks unless the name says otherwise.

    ``demand`` is what a node could use at most (of its subtree, every arc within its host's capacity), ``upper``
    the same within caps and the fleet's size, ``floor`` the policy floor limited to demand within caps. Leaves' arcs
    are contiguous: those of leaf ``i`` are ``arc_start[i]`` up to ``arc_start[i + 1]`` (empty for inner nodes).
    ``arc_leaf``, ``arc_host`` and ``arc_demand`` are the columns of ``arcs`` as lists, for those who look at few.
    """

    mode: AllocationMode
    ticks_per_core: float
    hosts: tuple[str, ...]
    capacity: list[int]
    path: list[str]
    parent: list[int]
    children: list[list[int]]
    depth: list[int]
    listed: list[bool]
    share: list[float]
    floor: list[int]
    cap: list[int | None]
    demand: list[int]
    upper: list[int]
    arc_start: list[int]
    arcs: Arcs = field(compare=False)

    @cached_property
    def arc_leaf(self) -> list[int]:
        """The leaf of every arc."""
        result: list[int] = self.arcs.leaf.tolist()
        return result

    @cached_property
    def arc_host(self) -> list[int]:
        """The host of every arc."""
        result: list[int] = self.arcs.host.tolist()
        return result

    @cached_property
    def arc_demand(self) -> list[int]:
        """The usable demand of every arc."""
        result: list[int] = self.arcs.demand.tolist()
        return result

    @property
    def levels(self) -> int:
        """Depth of the tree: 1 when no SEE has children."""
        return max(self.depth, default=0)


def compile_problem(problem: AllocationProblem, before: Instance | None = None) -> Instance:
    """Check and compile ``problem``. Raises UsageError naming the offending host or SEE and field.

    ``before``: of a problem much like this one, which makes it faster and changes nothing else.
    """
    if problem.mode not in _MODES:
        raise UsageError(f"unknown mode {problem.mode!r}", hint=f"use one of {', '.join(_MODES)}")
    host_cores = _checked_hosts(problem)
    total_cores = sum(host_cores.values())
    if total_cores >= _MAX_FLEET_CORES:
        raise UsageError(f"the hosts have {total_cores:g} cores together", hint="check their capacities")
    ticks_per_core = 2.0 ** min(_TICK_BITS, _TICK_BITS - math.frexp(total_cores)[1])
    capacity = [int(cores * ticks_per_core) for cores in host_cores.values()]
    claims = _checked_claims(problem)

    path, parent, children, depth = _tree(claims)
    fleet = sum(capacity)
    claim_of = [claims.get(name) for name in path]
    share = [claim.share if claim else 1.0 for claim in claim_of]
    floor = [int(claim.floor_cores * ticks_per_core) if claim else 0 for claim in claim_of]
    cap = [
        None if claim is None or claim.cap_cores is None else int(claim.cap_cores * ticks_per_core)
        for claim in claim_of
    ]
    listed = [claim is not None for claim in claim_of]
    source = list(claim_of)
    for node in range(len(path)):
        if children[node] and (claim := claim_of[node]) and any(claim.demand_cores.values()):
            children[node].append(len(parent))
            parent.append(node)
            depth.append(depth[node] + 1)
            source.append(claim)
    extra = len(parent) - len(path)
    path += [path[parent[node]] for node in range(len(path), len(parent))]
    children += [[] for _ in range(extra)]
    share += [OWN_DEMAND_SHARE] * extra
    floor += [0] * extra
    cap += [None] * extra
    listed += [False] * extra
    hosts = tuple(host_cores)
    arcs = compile_arcs(
        source, [not below for below in children], hosts, capacity, ticks_per_core, before.arcs if before else None
    )
    arc_start, demand = arcs.starts(len(parent))
    upper = list(demand)
    for node in range(len(parent) - 1, -1, -1):
        if children[node]:
            demand[node] = sum(demand[child] for child in children[node])
            upper[node] = sum(upper[child] for child in children[node])
        if (limit := cap[node]) is not None:
            upper[node] = min(upper[node], limit)
        floor[node] = min(floor[node], upper[node])
    upper = [min(most, fleet) for most in upper]
    return Instance(
        problem.mode, ticks_per_core, hosts, capacity, path, parent, children, depth, listed,
        share, floor, cap, demand, upper, arc_start, arcs,
    )  # fmt: skip


def _checked_hosts(problem: AllocationProblem) -> dict[str, float]:
    cores: dict[str, float] = {}
    for host in sorted(problem.hosts, key=lambda host: host.name):
        if not host.name:
            raise UsageError("a host has an empty name", hint="name every host")
        if host.name in cores:
            raise UsageError(f"host {host.name} is listed twice", hint="list every host once")
        check_cores(host.capacity_cores, f"capacity of host {host.name}")
        cores[host.name] = host.capacity_cores
    return cores


def _checked_claims(problem: AllocationProblem) -> dict[str, SeeClaim]:
    claims: dict[str, SeeClaim] = {}
    for see in problem.sees:
        if not all(see.name.split("/")):
            raise UsageError(
                f"service name {see.name!r} has an empty part", hint="write for example svc=web/class=gold"
            )
        if see.name in claims:
            raise UsageError(f"service {see.name} is listed twice", hint="list every service once")
        if not 0.0 < see.share < _INFINITY:
            raise UsageError(f"share {see.share} of {see.name} is not a positive number", hint="use for example 3")
        check_cores(see.floor_cores, f"floor of {see.name}")
        if see.cap_cores is not None:
            check_cores(see.cap_cores, f"cap of {see.name}")
            if see.floor_cores > see.cap_cores:
                raise UsageError(
                    f"floor {see.floor_cores:g} of {see.name} is above its cap {see.cap_cores:g}",
                    hint="lower the floor or raise the cap",
                )
        claims[see.name] = see
    return claims


def _tree(claims: dict[str, SeeClaim]) -> tuple[list[str], list[int], list[list[int]], list[int]]:
    """Every listed SEE and every ancestor, sorted by path: names, parents (-1: top), children, depths from 1."""
    parts = {tuple(name.split("/")) for name in claims}
    for name in tuple(parts):
        parts.update(name[:length] for length in range(1, len(name)))
    ordered = sorted(parts)
    index = {name: node for node, name in enumerate(ordered)}
    parent = [index[name[:-1]] if len(name) > 1 else -1 for name in ordered]
    children: list[list[int]] = [[] for _ in ordered]
    for node, above in enumerate(parent):
        if above >= 0:
            children[above].append(node)
    return ["/".join(name) for name in ordered], parent, children, [len(name) for name in ordered]
