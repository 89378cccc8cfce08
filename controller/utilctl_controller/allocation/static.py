"""Static per-host shares: every host divides its own cores, knowing nothing of the others.

This is mode ``host``, the guarantee of ``fleet-with-floor``, and what an agent falls back to without a controller.
A floor or cap is a figure for the fleet; without coordination the only fixed way to keep its sum is to split it over
the hosts in proportion to the SEE's usable demand there (demand, at most the host's capacity). So in this mode a cap is
never exceeded in total, but may bind on one host while another has room; a floor that exceeds what its host has is
scaled down there, all floors of that host (within one parent: of that parent's children) by the same factor.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from utilctl_controller.allocation.arcs import IntArray, stable_order
from utilctl_controller.allocation.instance import Instance

BoolArray = NDArray[np.bool_]

LARGE_ARCS: Final = 2_000
"""From this many arcs on, arrays are faster than lists. Estimated, not tuned."""
_MOST_COLUMNS: Final = 64
"""Most SEEs on a host that is divided together with others. Sums of so many amounts stay below 2**58."""


def per_host_bounds(instance: Instance) -> tuple[list[tuple[int, int] | None], list[tuple[int, int] | None]]:
    """Floor and cap of every node as fractions (numerator, denominator) of its usable demand; None: no bound."""
    floors: list[tuple[int, int] | None] = []
    caps: list[tuple[int, int] | None] = []
    for floor, cap, demand in zip(instance.floor, instance.cap, instance.demand, strict=True):
        floors.append((floor, demand) if floor else None)
        caps.append((cap, demand) if cap is not None and cap < demand else None)
    return floors, caps


def static_grants(instance: Instance) -> IntArray:
    """Ticks granted on every arc when each host divides its capacity by weighted max-min fairness on its own."""
    floors, caps = per_host_bounds(instance)
    grants = np.zeros(len(instance.arcs), dtype=np.int64)
    plain = is_plain(instance, floors, caps)
    left = np.ones(len(instance.hosts), dtype=bool)
    if plain and len(instance.arcs) >= LARGE_ARCS:
        left = ~_divide_many_hosts(instance, grants)
        if not left.any():
            return grants
    arcs_of: dict[int, list[int]] = {host: [] for host in np.flatnonzero(left).tolist()}
    for arc in np.flatnonzero(left[instance.arcs.host]).tolist():
        arcs_of[instance.arc_host[arc]].append(arc)
    for host, arcs in arcs_of.items():
        if plain:  # the common case by a shorter way to the same result
            shares = [instance.share[instance.arc_leaf[arc]] for arc in arcs]
            demands = [instance.arc_demand[arc] for arc in arcs]
            parts = divide(instance.capacity[host], [0] * len(arcs), demands, shares)
            for arc, amount in zip(arcs, parts, strict=True):
                grants[arc] = amount
        elif arcs:
            _divide_host(instance, instance.capacity[host], arcs, floors, caps, grants)
    return grants


def is_plain(instance: Instance, floors: Sequence[object], caps: Sequence[object]) -> bool:
    """Whether no SEE has children, a floor or a cap."""
    return instance.levels <= 1 and not any(floors) and not any(caps)


def _divide_many_hosts(instance: Instance, grants: IntArray) -> BoolArray:
    """``divide`` without lower bounds on all hosts at once: a row a host, its SEEs from the first filled to the last.

    Hosts with more SEEs than columns are left out; returns which are not.
    """
    arcs = instance.arcs
    counts = np.bincount(arcs.host, minlength=len(instance.hosts))
    fits = counts <= _MOST_COLUMNS
    weight = np.array(instance.share)[arcs.leaf]
    order = np.argsort(arcs.demand / weight, kind="stable")
    order = order[stable_order(arcs.host[order], len(counts))]
    if not fits.all():
        order = order[fits[arcs.host[order]]]
    if not len(order):
        return fits
    high, host = arcs.demand, arcs.host
    starts = np.concatenate(([0], np.cumsum(np.where(fits, counts, 0))))[:-1]
    row = host[order]
    column = np.arange(len(order)) - starts[row]
    shape = (len(instance.hosts), int(counts[fits].max()))
    highs, weights = np.zeros(shape, dtype=np.int64), np.zeros(shape)
    highs[row, column], weights[row, column] = high[order], weight[order]
    left = np.array(instance.capacity, dtype=np.int64)[:, None] - (np.cumsum(highs, axis=1) - highs)
    unfilled = np.cumsum(weights[:, ::-1], axis=1)[:, ::-1]
    stops = highs * unfilled > left * weights
    first = np.where(stops.any(axis=1), stops.argmax(axis=1), shape[1])
    at = np.minimum(first, shape[1] - 1)
    rows = np.arange(shape[0])
    level = np.divide(left[rows, at], unfilled[rows, at], out=np.zeros(shape[0]), where=unfilled[rows, at] > 0.0)
    risen = np.minimum(highs, (level[:, None] * weights).astype(np.int64))
    parts = np.where(np.arange(shape[1]) < first[:, None], highs, risen)
    grants[order] = parts[row, column]
    return fits


def _divide_host(
    instance: Instance,
    capacity: int,
    arcs: list[int],
    floors: list[tuple[int, int] | None],
    caps: list[tuple[int, int] | None],
    grants: IntArray,
) -> None:
    """Divide one host's ``capacity`` top down among its tree of SEEs."""
    demand = {instance.arc_leaf[arc]: instance.arc_demand[arc] for arc in arcs}
    members: dict[int, list[int]] = {}
    seen: set[int] = set()
    for leaf in demand:
        node = leaf
        while node >= 0:
            if node in seen:
                break
            seen.add(node)
            members.setdefault(instance.parent[node], []).append(node)
            node = instance.parent[node]
    low: dict[int, int] = {}
    high: dict[int, int] = {}
    for node in sorted(seen, reverse=True):
        below = sorted(members.get(node, ()))
        if below:
            demand[node] = sum(demand[child] for child in below)
            high[node], low[node] = sum(high[child] for child in below), sum(low[child] for child in below)
        else:
            high[node], low[node] = demand[node], 0
        if cap := caps[node]:
            high[node] = min(high[node], demand[node] * cap[0] // cap[1])
        if floor := floors[node]:
            low[node] = max(low[node], demand[node] * floor[0] // floor[1])
        low[node] = min(low[node], high[node])
    amount = {-1: capacity}
    for above in sorted(members):
        group = sorted(members[above])
        shares = [instance.share[node] for node in group]
        parts = divide(amount[above], [low[node] for node in group], [high[node] for node in group], shares)
        amount.update(zip(group, parts, strict=True))
    for arc in arcs:
        grants[arc] = amount[instance.arc_leaf[arc]]


def divide(amount: int, low: Sequence[int], high: Sequence[int], weight: Sequence[float]) -> list[int]:
    """Weighted max-min division of ``amount`` between bounds, in whole ticks rounded down.

    Lower bounds that exceed ``amount`` together are all scaled by the same factor.
    """
    if sum(high) <= amount:
        return list(high)
    floors = sum(low)
    if floors >= amount:
        return [bound * amount // floors for bound in low] if amount else [0] * len(low)
    rising = sorted(range(len(low)), key=lambda item: (high[item] / weight[item], item))
    parts = list(low)
    room = amount
    # Whoever the level of the others leaves below its floor stays at its floor, which lowers that level; so the first
    # pass finds only SEEs that belong there, and the passes end.
    while True:
        left, weights, filled = room, sum(weight[item] for item in rising), 0
        for item in rising:
            if high[item] * weights > left * weight[item]:
                break
            left -= high[item]
            weights -= weight[item]
            filled += 1
        level = left / weights if filled < len(rising) else math.inf
        held = {item for item in rising[filled:] if low[item] > level * weight[item]}
        if not held:
            break
        rising = [item for item in rising if item not in held]
        room -= sum(low[item] for item in held)
    for item in rising[:filled]:
        parts[item] = high[item]
    for item in rising[filled:]:
        parts[item] = min(high[item], max(low[item], int(level * weight[item])))
    return parts
