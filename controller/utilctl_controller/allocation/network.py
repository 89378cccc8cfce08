"""The flow network of a part of the fleet: tree nodes above, hosts below, lower and upper bounds on every tree node.

Cores flow from a source to the roots, down the tree to the leaves, over arcs (bounded by demand) to the hosts
(bounded by capacity). A *cut* is a set A of nodes and hosts; where it is tight, every feasible flow fills the arcs out
of A and leaves the arcs into A empty. So a tight cut splits a network into two that no longer influence each other:
what crosses is constant. Splitting keeps every later step small, and is how forced zeros in the result are found.

Arcs are numpy arrays in networks with many and plain lists in small ones, where numpy's overhead would dominate.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from utilctl_controller.allocation import flow
from utilctl_controller.allocation.instance import Instance

IntArray = NDArray[np.int64]
Arcs = list[int] | IntArray
FixArc = Callable[[Any], None]
"""Told the ids (a list or an array) of arcs that are full in every allocation with these totals."""

LARGE_ARCS: Final = 2_000
"""From this many arcs on, a fleet is worth arrays and scipy's compiled flow, whose import alone takes 0.2 s."""

LARGE_PART_ARCS: Final = 400
"""From this many arcs on, a part of such a fleet still is (measured: they break even between 200 and 700)."""


@dataclass(slots=True)
class Network:
    """A part of the fleet. Local ids; parents come before their children. Amounts in ticks, still to be granted.

    ``node[i]`` is the instance's id of local node ``i``; ``parent[i]`` is -1 where the source feeds it;
    ``granted[i]`` is the constant part of its total that tight cuts have already fixed, so that its total is
    ``granted[i]`` plus what flows here. ``host[j]`` is the instance's host id. ``arc_id`` counts the instance's arcs.
    """

    node: list[int]
    parent: list[int]
    lower: list[int]
    upper: list[int]
    granted: list[int]
    host: list[int]
    capacity: list[int]
    arc_id: Arcs
    arc_leaf: Arcs
    arc_host: Arcs
    arc_limit: Arcs

    def children(self) -> list[list[int]]:
        """Children of every local node."""
        result: list[list[int]] = [[] for _ in self.node]
        for node, above in enumerate(self.parent):
            if above >= 0:
                result[above].append(node)
        return result

    def reach(self) -> int:
        """An upper bound on all that can flow: hosts filled as far as the demand on them goes."""
        if isinstance(self.arc_limit, np.ndarray):
            wanted = np.zeros(len(self.host))
            np.add.at(wanted, self.arc_host, self.arc_limit.astype(np.float64))
            hosts = int(np.minimum(wanted, np.asarray(self.capacity, dtype=np.float64)).sum())
        else:
            sums = [0] * len(self.host)
            for host, limit in zip(self.arc_host, self.arc_limit, strict=True):
                sums[host] += limit
            hosts = sum(map(min, sums, self.capacity))
        roots = sum(high for high, above in zip(self.upper, self.parent, strict=True) if above < 0)
        return min(hosts, roots)

    def bounds(self, lower: Sequence[int]) -> tuple[list[int], list[int]]:
        """``lower`` and the upper bounds made consistent along the tree (a parent carries its children's bounds).

        A lower bound may still exceed the upper bound of the same node where the children's floors exceed a cap.
        """
        low, high = list(lower), list(self.upper)
        low_below, high_below = [0] * len(low), [0] * len(low)
        inner = [False] * len(low)
        for node in range(len(low) - 1, -1, -1):
            if inner[node]:
                high[node] = min(high[node], high_below[node])
                low[node] = max(min(low[node], high[node]), low_below[node])
            above = self.parent[node]
            if above >= 0:
                inner[above] = True
                low_below[above] += low[node]
                high_below[above] += high[node]
        return low, high

    def min_cut(self, low: list[int], high: list[int]) -> flow.Cut | None:
        """None if all of ``low`` can be granted at once within ``high``, else a tightest cut that forbids it."""
        supply = list(low)
        room = [0] * len(low)
        for node, above in enumerate(self.parent):
            if above >= 0:
                supply[above] -= low[node]
                room[node] = high[node] - low[node]
        search: Callable[..., flow.Cut | None] = flow.small_min_cut
        if isinstance(self.arc_limit, np.ndarray):
            search = flow.large_min_cut
        return search(self.parent, supply, room, self.capacity, self.arc_leaf, self.arc_host, self.arc_limit)

    def split(
        self, cut: flow.Cut, certain: tuple[Sequence[int], Sequence[int]], fix_arc: FixArc, *, fix_roots: bool
    ) -> tuple[Network, Network]:
        """The networks inside and outside a tight ``cut``. Calls ``fix_arc`` with the ids of arcs that are full.

        ``certain`` are lower and upper bounds, consistent along the tree. A node that the cut separates from its
        parent gets what is certain to flow to it: its lower bound if it is inside and its parent is not, its upper
        bound in the other case. Roots inside get their lower bounds too if ``fix_roots``: then the cut is tight for
        these bounds, not for totals still to be found.
        """
        in_node, in_host = cut.nodes, cut.hosts
        low, high = list(self.lower), list(self.upper)
        leaving, room = self._fill_crossing(cut, fix_arc)
        for node in range(len(low) - 1, -1, -1):  # children first: deduct what became constant below
            above = self.parent[node]
            crosses = in_node[node] != in_node[above] if above >= 0 else fix_roots and in_node[node]
            if crosses:
                low[node] = high[node] = certain[0][node] if in_node[node] else certain[1][node]
            if above >= 0:
                leaving[above] += low[node] if crosses else leaving[node]
            low[node] = max(0, low[node] - leaving[node])
            high[node] = max(0, high[node] - leaving[node])
        parts: list[Network] = []
        for inside in (True, False):
            nodes = [node for node in range(len(low)) if in_node[node] == inside]
            hosts = [host for host in range(len(room)) if in_host[host] == inside]
            new_node = {node: position for position, node in enumerate(nodes)}
            new_host = {host: position for position, host in enumerate(hosts)}
            parts.append(
                Network(
                    [self.node[node] for node in nodes],
                    [new_node.get(self.parent[node], -1) for node in nodes],
                    [low[node] for node in nodes],
                    [high[node] for node in nodes],
                    [self.granted[node] + leaving[node] for node in nodes],
                    [self.host[host] for host in hosts],
                    [room[host] for host in hosts],
                    *self._arcs_within(cut, inside, new_node, new_host),
                )
            )
        return parts[0], parts[1]

    def _fill_crossing(self, cut: flow.Cut, fix_arc: FixArc) -> tuple[list[int], list[int]]:
        """Fill the arcs that leave the cut: what each node gains by it, and what room the hosts have left."""
        leaving = [0] * len(self.node)
        room = list(self.capacity)
        if isinstance(self.arc_limit, np.ndarray):
            side_leaf, side_host = np.asarray(cut.nodes), np.asarray(cut.hosts, dtype=bool)
            full = np.flatnonzero(side_leaf[self.arc_leaf] & ~side_host[self.arc_host])
            fix_arc(np.asarray(self.arc_id)[full])
            leaves, hosts, limits = (np.asarray(array)[full].tolist() for array in self._ends())
            arcs = list(zip(leaves, hosts, limits, strict=True))
        else:
            crossing = [
                (arc, leaf, host, limit)
                for arc, leaf, host, limit in zip(self.arc_id, *self._ends(), strict=True)
                if cut.nodes[leaf] and not cut.hosts[host]
            ]
            fix_arc([arc for arc, _, _, _ in crossing])
            arcs = [(leaf, host, limit) for _, leaf, host, limit in crossing]
        for leaf, host, limit in arcs:
            leaving[leaf] += limit
            room[host] -= limit
        return leaving, [max(0, left) for left in room]

    def _ends(self) -> tuple[Arcs, Arcs, Arcs]:
        return self.arc_leaf, self.arc_host, self.arc_limit

    def _arcs_within(
        self, cut: flow.Cut, inside: bool, new_node: dict[int, int], new_host: dict[int, int]
    ) -> tuple[Arcs, Arcs, Arcs, Arcs]:
        if isinstance(self.arc_limit, np.ndarray):
            side_leaf, side_host = np.asarray(cut.nodes), np.asarray(cut.hosts, dtype=bool)
            keep = np.flatnonzero((side_leaf[self.arc_leaf] == inside) & (side_host[self.arc_host] == inside))
            leaf_map, host_map = np.full(len(self.node), -1), np.full(len(self.host), -1)
            leaf_map[list(new_node)] = list(new_node.values())
            host_map[list(new_host)] = list(new_host.values())
            arrays = (
                np.asarray(self.arc_id)[keep],
                leaf_map[np.asarray(self.arc_leaf)[keep]],
                host_map[np.asarray(self.arc_host)[keep]],
                self.arc_limit[keep],
            )
            if len(keep) >= LARGE_PART_ARCS:
                return arrays
            ids, leaves, hosts, limits = (array.tolist() for array in arrays)
            return ids, leaves, hosts, limits
        kept = [
            (arc, new_node[leaf], new_host[host], limit)
            for arc, leaf, host, limit in zip(self.arc_id, *self._ends(), strict=True)
            if cut.nodes[leaf] == inside and cut.hosts[host] == inside
        ]
        return [a for a, _, _, _ in kept], [s for _, s, _, _ in kept], [h for _, _, h, _ in kept], [
            limit for _, _, _, limit in kept
        ]  # fmt: skip


def whole_fleet(instance: Instance, lower: list[int]) -> Network:
    """The network of the whole instance with these lower bounds on the tree nodes."""
    arcs: tuple[Arcs, Arcs, Arcs, Arcs]
    if len(instance.arcs) >= LARGE_ARCS:
        arcs = (np.arange(len(instance.arcs)), instance.arcs.leaf, instance.arcs.host, instance.arcs.demand)
    else:
        arcs = (list(range(len(instance.arcs))), instance.arc_leaf, instance.arc_host, instance.arc_demand)
    return Network(
        list(range(len(instance.parent))), instance.parent, list(lower), list(instance.upper),
        [0] * len(instance.parent), list(range(len(instance.hosts))), list(instance.capacity), *arcs,
    )  # fmt: skip
