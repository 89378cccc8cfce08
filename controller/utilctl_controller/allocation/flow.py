"""Maximum flow on a network of tree nodes and hosts, and the cut that proves it maximal. Integers throughout, exact.

Two implementations of the same function: Dinic's algorithm in plain Python for small networks, and scipy's compiled
Dinic for large ones. scipy's capacities are 32 bits wide and ours 52, so the large one scales: it solves with
capacities in coarse units, then again on what is left over in ever finer units. Rounding down leaves at most one unit
an arc unused, which bounds what later rounds have to move, so that no round overflows and the last one is exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

_SAFE_BITS: Final = 30
"""Capacities of one round stay below 2**30: scipy adds the capacities of an arc and its reverse in 32 bits."""

_MOST_UNITS: Final = 2**_SAFE_BITS - 1


@dataclass(frozen=True, slots=True)
class Cut:
    """A minimum cut: the nodes and hosts on the supply's side (the smallest such set), and the supply that is stuck."""

    nodes: list[bool]
    hosts: list[bool]
    shortfall: int


def small_min_cut(
    parent: Sequence[int], supply: Sequence[int], room: Sequence[int], capacity: Sequence[int],
    arc_leaf: Sequence[int], arc_host: Sequence[int], arc_limit: Sequence[int],
) -> Cut | None:  # fmt: skip
    """None if all ``supply`` (by node, ticks) can flow to the hosts, else a minimum cut.

    ``room`` bounds the flow from a node's parent to it, ``capacity`` the flow into a host.
    """
    nodes, hosts = len(parent), len(capacity)
    graph = ResidualGraph(nodes + hosts + 2)
    source, sink = nodes + hosts, nodes + hosts + 1
    wanted = 0
    for node, amount in enumerate(supply):
        if amount > 0:
            graph.add(source, node, amount)
            wanted += amount
        above = parent[node]
        if above >= 0 and room[node] > 0:
            graph.add(above, node, room[node])
    for leaf, host, limit in zip(arc_leaf, arc_host, arc_limit, strict=True):
        graph.add(leaf, nodes + host, limit)
    for host, amount in enumerate(capacity):
        if amount > 0:
            graph.add(nodes + host, sink, amount)
    shortfall = wanted - graph.augment(source, sink)
    if shortfall == 0:
        return None
    reached = [level >= 0 for level in graph.levels_from(source, None)]
    return Cut(reached[:nodes], reached[nodes : nodes + hosts], shortfall)


class ResidualGraph:
    """Dinic's algorithm on residual capacities. Arc ``a`` and ``a ^ 1`` are each other's reverse."""

    __slots__ = ("arcs_of", "left", "target")

    def __init__(self, size: int) -> None:
        self.arcs_of: list[list[int]] = [[] for _ in range(size)]
        self.target: list[int] = []
        self.left: list[int] = []

    def add(self, tail: int, head: int, forward: int, backward: int = 0) -> int:
        """Add an arc with these residual capacities; returns its id."""
        arc = len(self.target)
        self.arcs_of[tail].append(arc)
        self.arcs_of[head].append(arc + 1)
        self.target += (head, tail)
        self.left += (forward, backward)
        return arc

    def levels_from(self, source: int, sink: int | None) -> list[int]:
        """Distance of every vertex from ``source`` over arcs with room (-1: unreachable); may stop at ``sink``."""
        target, left, arcs_of = self.target, self.left, self.arcs_of
        level = [-1] * len(arcs_of)
        level[source] = 0
        frontier = [source]
        for vertex in frontier:
            depth = level[vertex] + 1
            for arc in arcs_of[vertex]:
                if left[arc] and level[target[arc]] < 0:
                    level[target[arc]] = depth
                    frontier.append(target[arc])
            if sink is not None and level[sink] >= 0:
                break
        return level

    def augment(self, source: int, sink: int) -> int:
        """Push as much as possible from ``source`` to ``sink``; returns how much that was."""
        target, left, arcs_of = self.target, self.left, self.arcs_of
        pushed = 0
        while (level := self.levels_from(source, sink))[sink] >= 0:
            next_arc = [0] * len(arcs_of)
            path: list[int] = []
            vertex = source
            while True:
                if vertex == sink:
                    amount = min([left[arc] for arc in path])
                    pushed += amount
                    first_full = len(path)
                    for position in range(len(path) - 1, -1, -1):
                        arc = path[position]
                        left[arc] -= amount
                        left[arc ^ 1] += amount
                        if not left[arc]:
                            first_full = position
                    vertex = target[path[first_full] ^ 1]
                    del path[first_full:]
                    continue
                out = arcs_of[vertex]
                position, end = next_arc[vertex], len(out)
                deeper = level[vertex] + 1
                while position < end and not (left[out[position]] and level[target[out[position]]] == deeper):
                    position += 1
                next_arc[vertex] = position
                if position < end:
                    path.append(out[position])
                    vertex = target[out[position]]
                elif path:
                    vertex = target[path.pop() ^ 1]
                    next_arc[vertex] += 1
                else:
                    break
        return pushed


def large_min_cut(
    parent: Sequence[int], supply: Sequence[int], room: Sequence[int], capacity: Sequence[int],
    arc_leaf: Any, arc_host: Any, arc_limit: Any,  # noqa: ANN401 - int64 arrays
) -> Cut | None:  # fmt: skip
    """As small_min_cut, for many arcs."""
    nodes, hosts = len(parent), len(capacity)
    source, sink = nodes + hosts, nodes + hosts + 1
    above = np.asarray(parent, dtype=np.int64)
    supplies, rooms = np.asarray(supply, dtype=np.int64), np.asarray(room, dtype=np.int64)
    fed = np.flatnonzero(supplies > 0)
    inner = np.flatnonzero((above >= 0) & (rooms > 0))
    tail = np.concatenate((arc_leaf, nodes + np.arange(hosts), np.full(len(fed), source), above[inner]))
    head = np.concatenate((nodes + arc_host, np.full(hosts, sink), fed, inner))
    limit = np.concatenate((arc_limit, np.asarray(capacity, dtype=np.int64), supplies[fed], rooms[inner]))
    graph = LargeGraph(nodes + hosts + 2, tail, head)
    wanted = int(supplies[fed].sum())
    pushed, reached = graph.augment(limit, np.zeros_like(limit), source, sink, wanted)
    shortfall = wanted - pushed
    if shortfall == 0:
        return None
    sides = reached.tolist()
    return Cut(sides[:nodes], sides[nodes : nodes + hosts], shortfall)


class LargeGraph:
    """Arcs in both directions as one sparse matrix, for exact flows with capacities beyond 32 bits."""

    __slots__ = ("_columns", "_first", "_position", "_size")

    def __init__(self, size: int, tail: NDArray[np.int64], head: NDArray[np.int64]) -> None:
        both_tail, both_head = np.concatenate((tail, head)), np.concatenate((head, tail))
        order = np.argsort(both_tail * size + both_head)
        self._size = size
        self._columns = both_head[order].astype(np.int32)
        self._first = np.zeros(size + 1, dtype=np.int32)
        np.cumsum(np.bincount(both_tail, minlength=size), out=self._first[1:])
        self._position = np.empty(len(order), dtype=np.int64)
        self._position[order] = np.arange(len(order))

    def augment(
        self, forward: NDArray[np.int64], backward: NDArray[np.int64], source: int, sink: int, most: int
    ) -> tuple[int, NDArray[np.bool_]]:
        """Push as much as possible; ``forward`` and ``backward`` are the residual capacities and are updated.

        ``most`` bounds from above what can be pushed. Returns the amount and which vertices ``source`` still reaches.
        """
        # Imported here: it takes 0.2 s, and small fleets never need it.
        from scipy.sparse import csr_array  # type: ignore[import-untyped]  # publishes no types
        from scipy.sparse.csgraph import (  # type: ignore[import-untyped]  # publishes no types
            breadth_first_order,
            maximum_flow,
        )

        arcs = len(forward)
        ahead, back = self._position[:arcs], self._position[arcs:]
        shape = (self._size, self._size)
        shift = max(0, most.bit_length() - _SAFE_BITS)
        step = max(1, _SAFE_BITS - (2 * arcs).bit_length())
        pushed = 0
        while True:
            units = np.empty(2 * arcs, dtype=np.int32)
            units[ahead] = np.minimum(forward >> shift, _MOST_UNITS)
            units[back] = np.minimum(backward >> shift, _MOST_UNITS)
            result = maximum_flow(csr_array((units, self._columns, self._first), shape=shape), source, sink)
            moved = result.flow.data[ahead].astype(np.int64) << shift
            forward -= moved
            backward += moved
            pushed += int(result.flow_value) << shift
            if shift == 0:
                break
            shift = max(0, shift - step)
        residual = np.empty(2 * arcs, dtype=np.int32)
        residual[ahead] = forward > 0
        residual[back] = backward > 0
        matrix = csr_array((residual, self._columns, self._first), shape=shape, copy=True)
        matrix.eliminate_zeros()
        reached = np.zeros(self._size, dtype=bool)
        reached[breadth_first_order(matrix, source, return_predecessors=False)] = True
        return pushed, reached
