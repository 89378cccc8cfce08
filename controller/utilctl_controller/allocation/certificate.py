"""The proof that an allocation is max-min fair: nobody short can gain unless somebody no better off loses.

Built from the residual graph of the allocation: an edge from leaf to host where the leaf could take more there, from
host to leaf where it could give some up, from host to the pool of idle cores where there are some, and along the tree
both ways within caps and guarantees. A node can gain exactly if, coming from its parent, one can walk back to its
parent. Fairness forbids that walk to pass (backwards, as a loss) through anybody whose level is no higher. The check
closes those edges, lowest level first, and asks whether the node and its parent are still strongly connected.

Knows nothing of how the allocation was found; works on the floats that were returned.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from utilctl_controller.allocation.arcs import FloatArray, IntArray
from utilctl_controller.allocation.components import best_in_reach, components, contracted
from utilctl_controller.allocation.instance import Instance

BoolArray = NDArray[np.bool_]

TOLERANCE: Final = 1e-9
"""Cores, and relative to the larger amount, that count as rounding."""


def allowance(*amounts: float) -> float:
    """The difference in cores between two amounts that counts as rounding."""
    return TOLERANCE * max(1.0, *amounts)


@dataclass(frozen=True, slots=True)
class Contest:
    """One question of fairness among tree nodes. Lists are by node, in cores.

    ``short`` are the nodes that want more. A node's level is ``total / weight``, infinite without weight.
    ``compares[n]`` says whether n's loss has to be justified by its level. Nobody may lose more than what exceeds
    ``protected``. ``movable[n]`` is False where the total is settled and may not change at all.
    """

    short: list[int]
    weight: list[float]
    compares: list[bool]
    protected: list[float]
    movable: list[bool]
    at_top: bool = False
    """The nodes that compare are all the top-level ones."""


@dataclass(frozen=True)
class Residual:
    """Where the amounts of an allocation can move. Vertices: nodes, hosts, idle pool, source.

    By arc, ``more`` says whether the leaf could take more there and ``less`` whether it could give some up; by host,
    ``idle`` whether cores are free and ``busy`` whether some are used. The edges do not depend on the contest.
    """

    instance: Instance
    totals: list[float]
    upper: list[float]
    more: BoolArray
    less: BoolArray
    idle: BoolArray
    busy: BoolArray

    @cached_property
    def edges(self) -> tuple[list[int], list[int]]:
        """Tails and heads of all edges but those along the tree."""
        nodes, arcs = len(self.totals), self.instance.arcs
        pool = self.source - 1
        idle, busy = np.flatnonzero(self.idle), np.flatnonzero(self.busy)
        leaf, host = arcs.leaf, arcs.host
        tail = np.concatenate((leaf[self.more], nodes + host[self.less], nodes + idle, np.full(len(busy), pool)))
        head = np.concatenate((nodes + host[self.more], leaf[self.less], np.full(len(idle), pool), nodes + busy))
        return [pool, *tail.tolist()], [pool + 1, *head.tolist()]

    @property
    def source(self) -> int:
        """The vertex above the roots of the tree; the parent of top-level nodes."""
        return len(self.totals) + len(self.instance.hosts) + 1

    def with_tree(self, can_gain: list[bool], can_lose: list[bool], from_depth: int) -> tuple[list[int], list[int]]:
        """All edges: those of arcs, and along the tree to nodes deeper than ``from_depth`` where amounts can move."""
        tail, head = map(list, self.edges)
        for node, depth in enumerate(self.instance.depth):
            if depth > from_depth:
                if can_gain[node]:
                    tail.append(self.above(node))
                    head.append(node)
                if can_lose[node]:
                    tail.append(node)
                    head.append(self.above(node))
        return tail, head

    def above(self, node: int) -> int:
        """The vertex of the node's parent."""
        parent = self.instance.parent[node]
        return parent if parent >= 0 else self.source


def residual_of(instance: Instance, granted: FloatArray, totals: list[float], upper: list[float]) -> Residual:
    """The residual graph of an allocation that grants these cores on every arc."""
    unit = instance.ticks_per_core
    usable = instance.arcs.demand / unit
    margin = TOLERANCE * np.maximum(1.0, usable)
    more, less = granted < usable - margin, granted > margin
    capacity = np.array(instance.capacity, dtype=np.float64) / unit
    used = np.bincount(instance.arcs.host, granted, len(capacity))
    margin = TOLERANCE * np.maximum(1.0, capacity)
    return Residual(instance, totals, upper, more, less, used < capacity - margin, used > margin)


def unfair(residual: Residual, contest: Contest) -> list[int]:
    """The ``short`` nodes that could gain with only better-off nodes losing. Empty: proven fair."""
    totals = residual.totals
    can_lose = [
        movable and total > allowance(total) + protected
        for total, protected, movable in zip(totals, contest.protected, contest.movable, strict=True)
    ]
    can_gain = [
        movable and total < most - allowance(most)
        for total, most, movable in zip(totals, residual.upper, contest.movable, strict=True)
    ]
    if contest.at_top:
        return _unfair_at_top(residual, contest, can_gain, can_lose)
    low_level, high_level = _levels(residual, contest)
    pending = {node for node in contest.short if can_gain[node]}
    if not pending:
        return []
    # Only losses of nodes that compare are ever closed: whatever is connected without them is contracted once.
    closable = [node for node, compares in enumerate(contest.compares) if compares and can_lose[node]]
    lasting = [lose and not compares for lose, compares in zip(can_lose, contest.compares, strict=True)]
    vertex, size, tail, head = contracted(residual.source + 1, *residual.with_tree(can_gain, lasting, 0))
    upper = [vertex[residual.above(node)] for node in range(len(totals))]
    guilty: list[int] = []
    while pending:
        losers = [vertex[node] for node in closable]
        label = components(size, tail + losers, head + [upper[node] for node in closable])
        pending = {node for node in pending if label[vertex[node]] == label[upper[node]]}
        lowest: dict[int, float] = {}
        for node in pending:
            group = label[vertex[node]]
            lowest[group] = min(lowest.get(group, high_level[node]), high_level[node])
        kept = [node for node in closable if low_level[node] > lowest.get(label[vertex[node]], -1.0)]
        changed = {label[vertex[node]] for node in set(closable).difference(kept)}
        closable = kept
        proven = {
            node
            for node in pending
            if (group := label[vertex[node]]) not in changed and high_level[node] <= lowest[group]
        }
        guilty += sorted(proven)
        pending -= proven
    return guilty


def _unfair_at_top(residual: Residual, contest: Contest, can_gain: list[bool], can_lose: list[bool]) -> list[int]:
    """At the top level all have one parent, so any walk ends at the first loser: compare with the best one in reach."""
    low_level, high_level = _levels(residual, contest)
    best = [-1.0] * (residual.source + 1)
    for node, compares in enumerate(contest.compares):
        if compares and can_lose[node]:
            best[node] = low_level[node]
    best[residual.source - 1] = math.inf  # idle cores are free for all
    reached: Sequence[float]
    if residual.instance.levels <= 1:
        reached = _best_without_tree(residual, best).tolist()
    else:
        reached = best_in_reach(best, *residual.with_tree(can_gain, can_lose, 1))
    return [node for node in contest.short if can_gain[node] and reached[node] > high_level[node]]


def _best_without_tree(residual: Residual, value: Sequence[float]) -> FloatArray:
    """As best_in_reach for the SEEs of a flat fleet, going from SEEs to hosts and back."""
    arcs, nodes = residual.instance.arcs, len(residual.totals)
    best = np.array(value[:nodes])
    if not len(arcs):
        return best
    order = arcs.by_host
    host_first, leaf_first = _starts(arcs.host[order]), _starts(arcs.leaf)
    hosts, leaves = arcs.host[order][host_first], arcs.leaf[leaf_first]
    leaf_of, gives = arcs.leaf[order], residual.less[order]
    at_host = np.full(len(residual.instance.hosts), -1.0)
    at_host[residual.idle] = math.inf
    while True:
        offered = np.maximum.reduceat(np.where(gives, best[leaf_of], -1.0), host_first)
        at_host[hosts] = np.maximum(at_host[hosts], offered)
        found = np.maximum.reduceat(np.where(residual.more, at_host[arcs.host], -1.0), leaf_first)
        improved = np.maximum(best[leaves], found)
        if (improved == best[leaves]).all():
            return best
        best[leaves] = improved


def _starts(values: IntArray) -> IntArray:
    """Where the runs of equal ``values`` begin."""
    return np.flatnonzero(np.diff(values, prepend=-1))


def _levels(residual: Residual, contest: Contest) -> tuple[list[float], list[float]]:
    """Every node's level, once with its total rounded down by the tolerance and once up."""
    low, high = list[float](), list[float]()
    for total, weight in zip(residual.totals, contest.weight, strict=True):
        margin = allowance(total)
        low.append((total - margin) / weight if weight > 0.0 else float("inf"))
        high.append((total + margin) / weight if weight > 0.0 else float("inf"))
    return low, high
