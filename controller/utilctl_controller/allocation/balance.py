"""Which host gives how much: one split among the many with the same totals, balanced and stable.

Every SEE asks every host for the same fraction of its usable demand there, and a contended host scales what it is asked
by one factor: ``x = demand * min(1, ask[see] * factor[host])``. Among all splits with these totals that is the one
closest to the demand (in relative entropy), so it is unique, moves little when the input moves little, and has
no needless zeros. `proportional`
finds it; where limits force a zero by accident, or totals were rounded, it may miss a few ticks, which are routed
exactly, by a maximum flow on what it leaves. In small networks asks and factors are found by alternating between SEEs
and hosts a bounded number of times, and what is still missing then is routed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from utilctl_controller.allocation.arcs import FloatArray, stable_order
from utilctl_controller.allocation.flow import LargeGraph, ResidualGraph
from utilctl_controller.allocation.model import AllocationError
from utilctl_controller.allocation.network import Network
from utilctl_controller.allocation.proportional import Blocks, split_blocks

_ROUNDS: Final = 40
"""Bound on the rounds. Arbitrary; most problems need 5 to 30, those with forced zeros never end by themselves."""

_ENOUGH: Final = 2.0**-44
"""An SEE's missing part of its total that counts as rounding (6e-14)."""

_ARRAY_ARCS: Final = 96
"""From this many arcs on, the rounds work on arrays, not lists. Estimated, not tuned."""

_ALONE_ARCS: Final = 10_000
"""From this many arcs on, a network is split on its own: in company it would wait for the others. Estimated."""


@dataclass(frozen=True, slots=True)
class Found:
    """Where the asks (by node of the instance) and factors (by host) are noted that a split was found with."""

    ask: FloatArray
    factor: FloatArray


def balanced_splits(parts: list[Network], found_with: Found | None = None) -> list[Any]:
    """For each of ``parts``, whose leaves' totals are final, the ticks for every arc. They all have some.

    Raises AllocationError if the totals cannot be met.
    """
    sizes = [len(part.arc_id) for part in parts]
    if sum(sizes) < _ARRAY_ARCS:
        return [_small(part) for part in parts]
    together = [part for part, size in zip(parts, sizes, strict=True) if size < _ALONE_ARCS]
    groups = [[part] for part, size in zip(parts, sizes, strict=True) if size >= _ALONE_ARCS]
    found: dict[int, FloatArray] = {}
    for group in [*groups, together] if together else groups:
        for part, amounts in zip(group, _proportional(group, found_with), strict=True):
            found[id(part)] = amounts
    return [found[id(part)] for part in parts]


def _proportional(parts: list[Network], found_with: Found | None) -> list[FloatArray]:
    """As balanced_splits, by arrays."""
    columns: list[list[Any]] = [[], [], [], [], [], []]
    ids: tuple[list[Any], list[Any]] = ([], [])
    nodes, hosts = 0, 0
    for number, part in enumerate(parts):
        leaf, host = np.asarray(part.arc_leaf), np.asarray(part.arc_host)
        with_arcs, open_hosts = np.unique(leaf), np.unique(host)
        for column, values in zip(columns, (
            nodes + np.searchsorted(with_arcs, leaf), hosts + np.searchsorted(open_hosts, host), part.arc_limit,
            np.asarray(part.lower)[with_arcs], np.asarray(part.capacity)[open_hosts], np.full(len(with_arcs), number),
        ), strict=True):  # fmt: skip
            column.append(values)
        ids[0].append(np.asarray(part.node)[with_arcs])
        ids[1].append(np.asarray(part.host)[open_hosts])
        nodes, hosts = nodes + len(with_arcs), hosts + len(open_hosts)
    leaf, host, limit, goal, room, block = (np.concatenate(column) for column in columns)
    order = stable_order(host, hosts)
    as_float = np.float64
    split = split_blocks(
        Blocks(
            leaf[order], host[order], limit[order].astype(as_float), goal.astype(as_float), room.astype(as_float), block
        )
    )
    if found_with is not None:
        found_with.ask[np.concatenate(ids[0])] = split.ask
        found_with.factor[np.concatenate(ids[1])] = split.factor
    amount = np.empty(len(order))
    amount[order] = split.amount
    ends = np.cumsum([len(part.arc_id) for part in parts])[:-1]
    result: list[FloatArray] = np.split(amount, ends)
    for number in split.missed:
        result[number] = np.asarray(_route_rest(parts[number], result[number]))
    return result


def _small(part: Network) -> list[float]:
    arcs = list(zip(part.arc_leaf, part.arc_host, part.arc_limit, strict=True))
    wanted = [0] * len(part.node)
    for leaf, _, limit in arcs:
        wanted[leaf] += limit
    goal = part.lower
    ask = [min(1.0, goal[leaf] / total) if total else 0.0 for leaf, total in enumerate(wanted)]
    factor = [1.0] * len(part.host)
    grant: list[float] = []
    for _ in range(_ROUNDS):
        rate = [ask[leaf] * factor[host] for leaf, host, _ in arcs]
        open_sum, full_sum, ask_sum = _sums(arcs, rate, 1, len(part.host), ask)
        for host, room in enumerate(part.capacity):
            if open_sum[host] + full_sum[host] > room or factor[host] < 1.0:
                base = open_sum[host] / factor[host] if factor[host] > 0.0 else 0.0
                tangent = (room - full_sum[host]) / base if base > 0.0 else 0.0
                floor = room / ask_sum[host] if ask_sum[host] > 0.0 else 1.0
                factor[host] = min(1.0, max(tangent, floor))
        rate = [ask[leaf] * factor[host] for leaf, host, _ in arcs]
        grant = [limit * value if value < 1.0 else limit for (_, _, limit), value in zip(arcs, rate, strict=True)]
        open_sum, full_sum, _ = _sums(arcs, rate, 0, len(part.node), ask)
        missing = False
        for leaf, total in enumerate(open_sum):
            got = total + full_sum[leaf]
            if abs(goal[leaf] - got) > _ENOUGH * goal[leaf] and wanted[leaf]:
                missing = True
                if total > 0.0:
                    ask[leaf] *= (goal[leaf] - full_sum[leaf]) / total
        if not missing:
            return grant
    return _route_rest_small(part, arcs, grant)


def _sums(
    arcs: list[tuple[int, int, int]], rate: list[float], end: int, size: int, ask: list[float]
) -> tuple[list[float], list[float], list[float]]:
    """By leaf (end 0) or host (end 1): what flows on arcs that are not full, on full ones, and what is asked."""
    open_sum, full_sum, ask_sum = [0.0] * size, [0.0] * size, [0.0] * size
    for arc, value in zip(arcs, rate, strict=True):
        if value < 1.0:
            open_sum[arc[end]] += arc[2] * value
        else:
            full_sum[arc[end]] += arc[2]
        ask_sum[arc[end]] += arc[2] * ask[arc[0]]
    return open_sum, full_sum, ask_sum


def _route_rest_small(part: Network, arcs: list[tuple[int, int, int]], grant: list[float]) -> list[float]:
    nodes, hosts = len(part.node), len(part.host)
    got, used = [0.0] * nodes, [0.0] * hosts
    for (leaf, _, _), amount in zip(arcs, grant, strict=True):
        got[leaf] += amount
    shrink = [min(1.0, part.lower[leaf] / amount) if amount else 0.0 for leaf, amount in enumerate(got)]
    start = [amount * shrink[leaf] for (leaf, _, _), amount in zip(arcs, grant, strict=True)]
    for (_, host, _), amount in zip(arcs, start, strict=True):
        used[host] += amount
    fit = [min(1.0, room / amount) if amount else 0.0 for room, amount in zip(part.capacity, used, strict=True)]
    moved = [int(amount * fit[host]) for (_, host, _), amount in zip(arcs, start, strict=True)]
    graph = ResidualGraph(nodes + hosts + 2)
    source, sink = nodes + hosts, nodes + hosts + 1
    missing, room = list(part.lower), list(part.capacity)
    ids: list[int] = []
    has_arcs = [False] * nodes
    for (leaf, host, limit), amount in zip(arcs, moved, strict=True):
        missing[leaf] -= amount
        room[host] -= amount
        has_arcs[leaf] = True
        ids.append(graph.add(leaf, nodes + host, limit - amount, amount))
    total = 0
    for leaf, amount in enumerate(missing):
        if has_arcs[leaf] and amount > 0:
            graph.add(source, leaf, amount)
            total += amount
    for host, amount in enumerate(room):
        graph.add(nodes + host, sink, max(0, amount))
    _require(total - graph.augment(source, sink), part)
    return [float(limit - graph.left[arc]) for (_, _, limit), arc in zip(arcs, ids, strict=True)]


def _route_rest(part: Network, grant: FloatArray) -> FloatArray | list[float]:
    if isinstance(part.arc_limit, np.ndarray):
        return _route_rest_large(part, grant)
    arcs = list(zip(part.arc_leaf, part.arc_host, part.arc_limit, strict=True))
    return _route_rest_small(part, arcs, grant.tolist())


def _route_rest_large(part: Network, grant: FloatArray) -> FloatArray:
    leaf, host, limit = (np.asarray(array) for array in (part.arc_leaf, part.arc_host, part.arc_limit))
    nodes, hosts = len(part.node), len(part.host)
    goal, room = np.asarray(part.lower, dtype=np.int64), np.asarray(part.capacity, dtype=np.int64)
    got = np.bincount(leaf, grant, nodes)
    shrink = np.minimum(1.0, np.divide(goal, got, out=np.zeros(nodes), where=got > 0.0))
    grant = grant * shrink[leaf]
    used = np.bincount(host, grant, hosts)
    fit = np.minimum(1.0, np.divide(room, used, out=np.zeros(hosts), where=used > 0.0))
    moved = (grant * fit[host]).astype(np.int64)
    sums = np.zeros(nodes, dtype=np.int64)
    np.add.at(sums, leaf, moved)
    missing = np.where(np.bincount(leaf, minlength=nodes) > 0, goal - sums, 0)
    taken = np.zeros(hosts, dtype=np.int64)
    np.add.at(taken, host, moved)
    short = np.flatnonzero(missing > 0)
    source, sink = nodes + hosts, nodes + hosts + 1
    tail = np.concatenate((leaf, nodes + np.arange(hosts), np.full(len(short), source)))
    head = np.concatenate((nodes + host, np.full(hosts, sink), short))
    forward = np.concatenate((limit - moved, np.maximum(0, room - taken), missing[short]))
    backward = np.concatenate((moved, taken, np.zeros(len(short), dtype=np.int64)))
    total = int(missing[short].sum())
    pushed, _ = LargeGraph(nodes + hosts + 2, tail, head).augment(forward, backward, source, sink, total)
    _require(total - pushed, part)
    result: FloatArray = (limit - forward[: len(leaf)]).astype(np.float64)
    return result


def _require(shortfall: int, part: Network) -> None:
    if shortfall > 4 * (len(part.node) + len(part.host)):  # more than rounding down can explain
        raise AllocationError(
            f"the fair totals cannot be placed on the hosts: {shortfall} ticks are left",
            hint="report this problem's input",
        )
