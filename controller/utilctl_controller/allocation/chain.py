"""Totals from a guess of who is worse off than whom, for fleets without a tree; and what is wrong with the guess.

The exact method ends with *groups* of SEEs in a row, from the worst off to the best off, each tight: what a group and
those before it get together is all that their hosts can give them. The other way round, a row of groups gives the
totals without any search. On every host the groups are served in turn until its cores are used up; arcs served in full
and arcs not served are so in every fair allocation, and the *marginal* group shares what is left. A group's total is
what it is served on all hosts, and its members divide that by their weights, within their bounds.

Such totals are right if within every group they can be met, and if nobody could gain from a better-off one that is
served before it. The first is for others to check; the second is seen on the hosts (`conflicts`). When little has
changed since the last allocation, its row is a good guess, and the few groups that conflict are found anew.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from utilctl_controller.allocation.arcs import Arcs, FloatArray, IntArray, stable_order
from utilctl_controller.allocation.levels import Riser, fill

BoolArray = NDArray[np.bool_]

_ROUNDING: Final = 1e-10
"""Cores, and relative to a total, by which levels may be out of order: a tenth of what the certificate lets pass."""


@dataclass(frozen=True)
class Bounds:
    """What SEEs are to get at least and at most, in ticks, and their weights; by node."""

    lower: IntArray
    upper: IntArray
    weight: FloatArray


@dataclass(frozen=True)
class Served:
    """What a row of groups gets on every host. ``order`` are the arcs sorted by host, then by group.

    ``full`` and ``marginal`` are by position in that order; the other arcs get nothing. ``room`` is what the groups
    before leave of the host, ``total`` what a group is served in all. In ticks.
    """

    arcs: Arcs
    group: IntArray
    order: IntArray
    full: BoolArray
    marginal: BoolArray
    room: IntArray
    total: IntArray

    @cached_property
    def leaf(self) -> IntArray:
        """The arcs' leaves, in order."""
        return self.arcs.leaf[self.order]

    @cached_property
    def host(self) -> IntArray:
        """The arcs' hosts, in order."""
        return self.arcs.host[self.order]

    @cached_property
    def demand(self) -> IntArray:
        """The arcs' usable demand, in order."""
        return self.arcs.demand[self.order]

    @cached_property
    def sure(self) -> IntArray:
        """By node, what arcs served in full give it."""
        return self.by_node(np.where(self.full, self.demand, 0))

    def by_node(self, amounts: IntArray) -> IntArray:
        """Sums of ``amounts``, which are in order, by node. Exact: they stay below 2**53."""
        return np.bincount(self.leaf, amounts, len(self.group)).astype(np.int64)


def serve(arcs: Arcs, capacity: IntArray, group: IntArray) -> Served:
    """Serve the groups in turn; ``group`` is by node: 0 comes first. ``capacity`` is by host, in ticks."""
    nodes, hosts = len(group), len(capacity)
    row = np.argsort(group, kind="stable")
    counts = np.bincount(arcs.leaf, minlength=nodes)
    starts = np.cumsum(counts) - counts
    counts_in_row = counts[row]
    shift = starts[row] - (np.cumsum(counts_in_row) - counts_in_row)
    by_row = np.repeat(shift, counts_in_row) + np.arange(len(arcs))
    order = by_row[stable_order(arcs.host[by_row], hosts)]
    host, demand, turn = arcs.host[order], arcs.demand[order], group[arcs.leaf[order]]
    ends = np.cumsum(demand)
    new_host = np.diff(host, prepend=-1) != 0
    first = np.flatnonzero(new_host | (np.diff(turn, prepend=-1) != 0))  # of every group on every host
    last = np.append(first[1:], len(order)) - 1
    here = host[first]
    before_host = np.zeros(hosts, dtype=np.int64)
    before_host[host[new_host]] = ends[new_host] - demand[new_host]
    before = ends[first] - demand[first] - before_host[here]
    after = ends[last] - before_host[here]
    limit = capacity[here]
    full, marginal = after <= limit, (before < limit) & (limit < after)
    served = np.minimum(after, limit) - np.minimum(before, limit)
    groups = int(group.max()) + 1 if nodes else 0
    sizes = last - first + 1
    return Served(
        arcs, group, order, np.repeat(full, sizes), np.repeat(marginal, sizes), np.repeat(limit - before, sizes),
        np.bincount(turn[first], served, groups).astype(np.int64),
    )  # fmt: skip


@dataclass(frozen=True)
class Totals:
    """What a row of groups gives everybody, in ticks by node. ``idle`` are groups that all they want does not fill.

    ``short`` are groups whose lower bounds are more than what is there: the row cannot be right.
    """

    amount: IntArray
    idle: BoolArray
    short: BoolArray


def divide(served: Served, bounds: Bounds) -> Totals:
    """Divide what every group is served among its members."""
    group, total = served.group, served.total
    share = np.where(served.marginal, np.minimum(served.demand, served.room), 0)
    low = np.maximum(bounds.lower, served.sure)
    high = np.maximum(low, np.minimum(bounds.upper, served.sure + served.by_node(share)))
    groups = len(total)
    most, least = _by_group(group, high, groups), _by_group(group, low, groups)
    amount = np.where((most <= total)[group], high, low)
    members = np.bincount(group, minlength=groups)
    alone = (members == 1)[group] & (most > total)[group]
    amount[alone] = np.clip(total[group], low, high)[alone]
    contested = np.flatnonzero((members > 1) & (most > total))
    for number, nodes in _members(group, contested).items():
        risers = [
            Riser(node, weight, 0, at_least, at_most)
            for node, weight, at_least, at_most in zip(
                nodes.tolist(), bounds.weight[nodes].tolist(), low[nodes].tolist(), high[nodes].tolist(), strict=True
            )
        ]
        divided = fill(risers, int(total[number]))[1]
        amount[list(divided)] = list(divided.values())
    return Totals(amount, most < total, least > total + members)


@dataclass(frozen=True)
class Levels:
    """Of the members of every group: the highest level among those that could lose, the lowest among those that could
    gain; each by as much in their favour as counts as rounding."""

    best: FloatArray
    worst: FloatArray


def levels(served: Served, totals: Totals, bounds: Bounds, unit: float) -> Levels:
    """The levels of every group; ``unit`` is a core in ticks."""
    group, groups = served.group, len(served.total)
    margin = _ROUNDING * np.maximum(unit, totals.amount)
    best, worst = np.full(groups, -math.inf), np.full(groups, math.inf)
    loses = totals.amount > bounds.lower + margin
    gains = totals.amount < bounds.upper - margin
    np.maximum.at(best, group[loses], ((totals.amount - margin) / bounds.weight)[loses])
    np.minimum.at(worst, group[gains], ((totals.amount + margin) / bounds.weight)[gains])
    return Levels(best, worst)


def conflicts(served: Served, of: Levels) -> list[tuple[int, int]]:
    """Pairs of groups of which the first is served before the second on some host although it is better off.

    Some are in truth none: the better-off group gives on that host by others of its members, or could take nothing
    there.
    """
    turn, groups = served.group[served.leaf], len(served.total)
    first = np.flatnonzero((np.diff(served.host, prepend=-1) != 0) | (np.diff(turn, prepend=-1) != 0))
    host, here = served.host[first], turn[first]
    gives, held = (served.full | served.marginal)[first], ~served.full[first]
    best, worst = np.where(gives, of.best[here], -math.inf), np.where(held, of.worst[here], math.inf)
    found: set[int] = set()
    for distance in range(1, len(first)):
        nearby = host[distance:] == host[:-distance]
        if not nearby.any():
            break
        wrong = np.flatnonzero(nearby & (best[:-distance] > worst[distance:]))
        found.update((here[wrong] * groups + here[wrong + distance]).tolist())
    return [divmod(pair, groups) for pair in sorted(found)]


def _by_group(group: IntArray, amounts: IntArray, groups: int) -> IntArray:
    return np.bincount(group, amounts, groups).astype(np.int64)


def _members(group: IntArray, wanted: IntArray) -> dict[int, IntArray]:
    """The nodes of each of the ``wanted`` groups."""
    row = np.argsort(group, kind="stable")
    edges = np.searchsorted(group[row], np.stack((wanted, wanted + 1)))
    return {number: row[first:last] for number, first, last in zip(wanted.tolist(), *edges.tolist(), strict=True)}
