"""An allocation from the one before: its row of groups (`chain`) is a guess that is tried, and mended where wrong.

With totals by the row, one split of all groups at once (`proportional`) shows whether they can be met. Groups that
conflict are thrown together, groups whose totals cannot be met are taken by themselves, and the exact search for the
fair totals (`settle`) finds their row anew: on the few arcs that are theirs, not on the whole fleet. What comes out
has to pass the same verification as every allocation; whenever something does not fit, there is no result, and the
search begins from nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from utilctl_controller.allocation.arcs import FloatArray, IntArray, stable_order
from utilctl_controller.allocation.balance import balanced_splits
from utilctl_controller.allocation.chain import Bounds, Served, Totals, conflicts, divide, levels, serve
from utilctl_controller.allocation.instance import Instance
from utilctl_controller.allocation.network import LARGE_PART_ARCS, Network
from utilctl_controller.allocation.proportional import Blocks, Split, split_blocks
from utilctl_controller.allocation.settle import settle_top

_ROUNDS: Final = 16
"""How often a row is mended before the search begins from nothing. Arbitrary; a change of 1 % takes 2 to 5."""

_LARGE_ARCS: Final = 10_000
"""From this many arcs on a group counts as large. Estimated, not tuned."""

_STEPS: Final = 12
"""Newton steps for a group whose totals may be out of reach. From the last allocation's asks, 2 to 5 are usual."""


@dataclass(frozen=True)
class Start:
    """What an allocation leaves for the next one: the row of groups by node, asks by node and factors by host."""

    instance: Instance
    group: IntArray
    ask: FloatArray
    factor: FloatArray

    def fits(self, instance: Instance) -> bool:
        """Whether ``instance`` has the same SEEs and hosts."""
        then = self.instance
        return then.path == instance.path and then.parent == instance.parent and then.hosts == instance.hosts


def row_of(parts: Sequence[Network], nodes: int) -> IntArray:
    """The row of groups by node, of what `settle_top` returns for a whole fleet: the worst off are settled last."""
    group = np.full(nodes, len(parts), dtype=np.int64)
    for position, part in enumerate(reversed(parts)):
        group[part.node] = position
    return group


def warm_grants(instance: Instance, lower: Sequence[int], start: Start) -> tuple[FloatArray, Start] | None:
    """Ticks granted on every arc and what to start from next time; None where ``start`` does not lead to a result.

    For instances without a tree, with the SEEs and hosts of ``start``. ``lower`` are guarantees in ticks.
    """
    if not len(instance.arcs):
        return np.zeros(0), start
    bounds = Bounds(
        np.array(lower, dtype=np.int64),
        np.maximum(np.array(instance.upper, dtype=np.int64), np.array(lower, dtype=np.int64)),
        np.array(instance.share, dtype=np.float64),
    )
    capacity = np.array(instance.capacity, dtype=np.int64)
    group = start.group
    for _ in range(_ROUNDS):
        served = serve(instance.arcs, capacity, group)
        totals = divide(served, bounds)
        if totals.short.any():
            return None
        idle = np.flatnonzero(totals.idle)
        if len(idle) and (len(idle) > 1 or idle[0] != len(totals.idle) - 1):
            # Caps leave it more than it takes: it is held by nothing else, and where it takes it is open.
            group = _dense(np.where(totals.idle[group], len(totals.idle), group))
            continue
        wrong = conflicts(served, levels(served, totals, bounds, instance.ticks_per_core))
        if wrong:
            # With those between them: they may hold on to both.
            around = [set(range(first, second + 1)) for first, second in wrong]
            divided = _settled_again(served, bounds, capacity, around)
            if not np.array_equal(divided, group):
                group = divided
                continue
        granted = np.where(served.full, served.demand, 0).astype(np.float64)
        for large in (False, True):  # whether the large groups can be met is dear to find out
            placed = _placed(served, totals, start, large=large)
            if placed is None:
                return None
            start = placed.start(instance, start, group)
            divided = _settled_again(served, bounds, capacity, [{number} for number in placed.split.missed])
            if not np.array_equal(divided, group):
                group = divided
                break
            placed.grant(served, totals, granted)
        else:
            ticks = np.empty(len(granted))
            ticks[served.order] = granted
            return ticks, start
    return None


@dataclass(frozen=True)
class _Placed:
    """The split of the arcs that are neither full nor empty; ``arcs`` are their positions in ``Served.order``."""

    arcs: IntArray
    leaves: IntArray
    hosts: IntArray
    split: Split

    def grant(self, served: Served, totals: Totals, granted: FloatArray) -> None:
        """Write what its arcs get to ``granted``, ticks in the order of ``served``."""
        granted[self.arcs] = self.split.amount
        for number in self.split.missed:  # its totals can be met, but only with zeros that the split tends to for ever
            part = _Networks(served).of(number, totals.amount, totals.amount)
            (amounts,) = balanced_splits([part])
            granted[np.asarray(part.arc_id)] = amounts

    def start(self, instance: Instance, before: Start, group: IntArray) -> Start:
        """For the next allocation."""
        ask, factor = before.ask.copy(), before.factor.copy()
        ask[self.leaves], factor[self.hosts] = self.split.ask, self.split.factor
        return Start(instance, group, ask, factor)


def _placed(served: Served, totals: Totals, start: Start, *, large: bool) -> _Placed | None:
    """Place on the hosts what the large, or the small, marginal groups get there.

    None where it is more than there is for them.
    """
    turn = served.group[served.leaf]
    is_open = (served.marginal | (served.full & totals.idle[turn])) & (served.demand > 0)
    is_large = np.bincount(turn[is_open], minlength=len(served.total)) >= _LARGE_ARCS
    is_open &= is_large[turn] == large
    arcs = np.flatnonzero(is_open)
    leaf, host = served.leaf[arcs], served.host[arcs]
    limit = served.demand[arcs]
    goal = totals.amount - served.by_node(np.where(served.full & ~is_open, served.demand, 0))
    reach = np.bincount(leaf, np.minimum(limit, served.room[arcs]), len(goal))
    here = is_large[served.group] == large
    if (here & ((goal > reach + 1) | (goal < 0))).any():
        return None
    leaves, hosts = np.unique(leaf), np.unique(host)
    first = np.searchsorted(host, hosts)
    blocks = Blocks(
        np.searchsorted(leaves, leaf), np.searchsorted(hosts, host), limit.astype(np.float64),
        goal[leaves].astype(np.float64), served.room[arcs][first].astype(np.float64), served.group[leaves],
    )  # fmt: skip
    split = split_blocks(blocks, start.ask[leaves], start.factor[hosts], steps=_STEPS)
    return _Placed(arcs, leaves, hosts, split)


def _settled_again(served: Served, bounds: Bounds, capacity: IntArray, wrong: list[set[int]]) -> IntArray:
    """The row with each of these sets of groups thrown together and settled anew, in the place of its first one.

    Sets that overlap are one.
    """
    group = served.group
    if not wrong:
        return group
    place = np.arange(len(served.total))
    together = _joined(wrong)
    for numbers in together:
        place[list(numbers)] = min(numbers)
    merged = place[group]
    if any(len(numbers) > 1 for numbers in together):
        served = serve(served.arcs, capacity, merged)
    networks = _Networks(served)
    within = np.zeros(len(group), dtype=np.int64)
    for numbers in together:
        part = networks.of(min(numbers), bounds.lower, bounds.upper)
        settled = settle_top(part, bounds.weight.tolist(), lambda _: None)
        for position, piece in enumerate(reversed(settled)):
            within[piece.node] = position
    return _dense(merged * (int(within.max()) + 1) + within)


def _dense(keys: IntArray) -> IntArray:
    """Numbers without gaps in the order of ``keys``."""
    return np.unique(keys, return_inverse=True)[1].astype(np.int64)


def _joined(sets: list[set[int]]) -> list[set[int]]:
    """The unions of sets that overlap, directly or by others."""
    owner: dict[int, set[int]] = {}
    for numbers in sets:
        union = set(numbers)
        for number in numbers:
            union |= owner.get(number, set())
        for number in union:
            owner[number] = union
    return list({id(union): union for union in owner.values()}.values())


class _Networks:
    """What groups divide: their members, and what is left for them where they are marginal."""

    def __init__(self, served: Served) -> None:
        self._served = served
        arcs = np.flatnonzero(served.marginal)
        turn = served.group[served.leaf[arcs]]
        self._arcs = arcs[stable_order(turn, len(served.total))]
        self._ends = np.concatenate(([0], np.cumsum(np.bincount(turn, minlength=len(served.total)))))

    def of(self, number: int, lower: IntArray, upper: IntArray) -> Network:
        """That of group ``number``, with these bounds of whole totals, in ticks by node.

        Arcs are known by their positions in the order of what is served.
        """
        served = self._served
        nodes = np.flatnonzero(served.group == number)
        arcs = self._arcs[self._ends[number] : self._ends[number + 1]]
        sure = served.sure[nodes]
        low = np.maximum(0, lower[nodes] - sure)
        high = np.maximum(low, upper[nodes] - sure)
        leaf, host = np.searchsorted(nodes, served.leaf[arcs]), served.host[arcs]
        hosts = np.unique(host)
        room = served.room[arcs][np.searchsorted(host, hosts)]
        columns: tuple[Any, ...] = (arcs, leaf, np.searchsorted(hosts, host), served.demand[arcs])
        if len(arcs) < LARGE_PART_ARCS:
            columns = tuple(column.tolist() for column in columns)
        return Network(
            nodes.tolist(), [-1] * len(nodes), low.tolist(), high.tolist(), sure.tolist(), hosts.tolist(),
            room.tolist(), *columns,
        )  # fmt: skip
