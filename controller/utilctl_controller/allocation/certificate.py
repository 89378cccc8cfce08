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
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from utilctl_controller.allocation.components import best_in_reach, components, contracted
from utilctl_controller.allocation.instance import Instance

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


@dataclass(frozen=True, slots=True)
class Residual:
    """The edges of the residual graph that do not depend on the contest. Vertices: nodes, hosts, idle pool, source."""

    instance: Instance
    totals: list[float]
    upper: list[float]
    tail: list[int] = field(default_factory=list)
    head: list[int] = field(default_factory=list)

    @property
    def source(self) -> int:
        """The vertex above the roots of the tree; the parent of top-level nodes."""
        return len(self.totals) + len(self.instance.hosts) + 1

    def with_tree(self, can_gain: list[bool], can_lose: list[bool], from_depth: int) -> tuple[list[int], list[int]]:
        """All edges: those of arcs, and along the tree to nodes deeper than ``from_depth`` where amounts can move."""
        tail, head = list(self.tail), list(self.head)
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


def residual_of(instance: Instance, granted: Sequence[float], totals: list[float], upper: list[float]) -> Residual:
    """The residual graph of an allocation that grants these cores on every arc."""
    nodes, unit = len(totals), instance.ticks_per_core
    pool = nodes + len(instance.hosts)
    leaf, host = np.array(instance.arc_leaf, dtype=np.int64), np.array(instance.arc_host, dtype=np.int64)
    usable = np.array(instance.arc_demand, dtype=np.float64) / unit
    amount = np.array(granted, dtype=np.float64)
    margin = TOLERANCE * np.maximum(1.0, usable)
    more, less = amount < usable - margin, amount > margin
    capacity = np.array(instance.capacity, dtype=np.float64) / unit
    used = np.bincount(host, amount, len(capacity))
    margin = TOLERANCE * np.maximum(1.0, capacity)
    idle, busy = np.flatnonzero(used < capacity - margin), np.flatnonzero(used > margin)
    tail = np.concatenate((leaf[more], nodes + host[less], nodes + idle, np.full(len(busy), pool)))
    head = np.concatenate((nodes + host[more], leaf[less], np.full(len(idle), pool), nodes + busy))
    return Residual(instance, totals, upper, [pool, *tail.tolist()], [pool + 1, *head.tolist()])


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
    tail, head = residual.with_tree(can_gain, can_lose, 1)
    reached = best_in_reach(best, tail, head)
    return [node for node in contest.short if can_gain[node] and reached[node] > high_level[node]]


def _levels(residual: Residual, contest: Contest) -> tuple[list[float], list[float]]:
    """Every node's level, once with its total rounded down by the tolerance and once up."""
    low, high = list[float](), list[float]()
    for total, weight in zip(residual.totals, contest.weight, strict=True):
        margin = allowance(total)
        low.append((total - margin) / weight if weight > 0.0 else float("inf"))
        high.append((total + margin) / weight if weight > 0.0 else float("inf"))
    return low, high
