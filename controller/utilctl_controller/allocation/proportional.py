"""Which host gives how much, exactly: the split of `balance`, of many arcs at once and to the last digit.

Wanted are an *ask* for every SEE and a *factor* of at most 1 for every host, so that ``x = limit * min(1, ask *
factor)`` adds up to every SEE's total and to no more than every host's room, with factor 1 where room is left. That is
the split closest to the demand (in relative entropy) among all with these totals. Its dual is convex and smooth in the
logarithms of the asks once every host's best factor is put in, so Newton's method finds it: every step solves a linear
system by conjugate gradients, with the hosts eliminated, and is shortened where it overshoots. Alternating between SEEs
and hosts, the usual way, takes thousands of rounds to the same point, as some SEEs are nearly out of reach of others.

Networks that do not touch each other are *blocks* of one problem. They advance in step, each with its own step lengths,
and are dropped when they are done. The result is a property of the problem alone, but for rounding: neither the start
nor the company of other blocks moves it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from utilctl_controller.allocation.arcs import FloatArray, IntArray

BoolArray = NDArray[np.bool_]

_STEPS: Final = 100
"""Bound on Newton steps. Arbitrary; most problems take 5 to 15, those whose limits nearly force a zero up to 40."""

_GRADIENT_STEPS: Final = 200
"""Bound on conjugate-gradient steps within one Newton step. Arbitrary; 5 to 20 are usual."""

_FACTOR_STEPS: Final = 60
"""Bound on the steps to a host's factor, which end by themselves after as many as it has SEEs; 2 to 4 are usual."""

_LONGEST_STEP: Final = 2.0
"""Most that one step changes the logarithm of an ask: what is right nearby is wrong further off."""

_HALVINGS: Final = 20
"""How often a step that leads too far is halved, at most."""

_DONE: Final = 2.0**-46
"""Missing part of a total that counts as rounding (1.4e-14), besides one tick."""

_STALLED: Final = 1e-11
"""Missing part of a total that is accepted when it no longer gets smaller."""

_MOST_ASK: Final = 1e3
"""Largest ask to start from: larger ones mean the same and take steps to come back from."""

_COMPILED_ARCS: Final = 2_000
"""From this many arcs on, scipy's compiled products are worth their import of 0.2 s."""


@dataclass(frozen=True, slots=True)
class Blocks:
    """What is to be split. Arcs are sorted by host; every host and every SEE has some. Amounts in ticks.

    ``limit`` is by arc, ``goal`` and ``block`` by SEE, ``room`` by host. No arc joins two blocks.
    """

    leaf: IntArray
    host: IntArray
    limit: FloatArray
    goal: FloatArray
    room: FloatArray
    block: IntArray


@dataclass(frozen=True, slots=True)
class Split:
    """``amount`` by arc, in ticks. ``ask`` and ``factor`` are where to start from when little has changed.

    ``missed`` are the numbers of blocks whose totals cannot be met, or not within the bounded number of steps.
    """

    amount: FloatArray
    ask: FloatArray
    factor: FloatArray
    missed: list[int]


def split_blocks(
    blocks: Blocks, ask: FloatArray | None = None, factor: FloatArray | None = None, *, steps: int = _STEPS
) -> Split:
    """The split of ``blocks``, found from the given asks and factors if there are any (zeros: unknown)."""
    wanted = np.bincount(blocks.leaf, blocks.limit, len(blocks.goal))
    usual = np.minimum(1.0, np.divide(blocks.goal, wanted, out=np.zeros(len(wanted)), where=wanted > 0.0))
    asks = usual if ask is None else np.where(ask > 0.0, np.minimum(ask, _MOST_ASK), usual)
    asks = np.where(blocks.goal > 0.0, asks, 0.0)
    factors = np.ones(len(blocks.room)) if factor is None else np.where(factor > 0.0, factor, 1.0)
    found = Split(np.zeros(len(blocks.leaf)), asks.copy(), factors.copy(), [])
    if not len(blocks.leaf):
        return found
    part = _Part(blocks, np.arange(len(blocks.leaf)), np.arange(len(asks)), np.arange(len(factors)), asks, factors)
    part.refresh(0.0)
    least = np.full(len(part.shortfall()[1]), np.inf)
    for _ in range(steps):
        error, reached = part.shortfall()
        settled = reached | ((error < _STALLED) & (error > 0.5 * least))
        least = np.minimum(least, error)
        if settled.any():
            part.store(found)
            keep = np.flatnonzero(~settled)
            if not len(keep):
                return found
            part, least = part.without(settled), least[keep]
            error = error[keep]
        part.step(error)
    part.store(found)
    found.missed.extend(part.numbers.tolist())
    return found


class _Part:
    """The blocks that are not done yet. Local ids; ``arcs``, ``leaves``, ``hosts`` and ``numbers`` are the original."""

    def __init__(
        self, blocks: Blocks, arcs: IntArray, leaves: IntArray, hosts: IntArray, ask: FloatArray, factor: FloatArray
    ) -> None:
        """The ids are those of what is kept, ascending; ``blocks`` has the original numbers."""
        self._blocks = blocks
        self._arcs, self._leaves, self._hosts = arcs, leaves, hosts
        self._leaf, self._host = _renumbered(blocks.leaf[arcs], leaves), _renumbered(blocks.host[arcs], hosts)
        self._limit, self._goal, self._room = blocks.limit[arcs], blocks.goal[leaves], blocks.room[hosts]
        self.numbers: IntArray = np.unique(blocks.block[leaves])
        self._block = _renumbered(blocks.block[leaves], self.numbers)
        self._ask, self._factor = ask, factor
        self._first = np.searchsorted(self._host, np.arange(len(hosts)))
        self._slack = self._by_host(self._limit) <= self._room
        self._asked = self._amount = self._limit  # set by refresh
        self._missing = self._goal

    def _by_host(self, values: FloatArray) -> FloatArray:
        sums: FloatArray = np.add.reduceat(values, self._first)
        return sums

    def _by_leaf(self, values: FloatArray) -> FloatArray:
        sums: FloatArray = np.bincount(self._leaf, values, len(self._goal)).astype(np.float64, copy=False)
        return sums

    def _by_block(self, values: FloatArray) -> FloatArray:
        sums: FloatArray = np.bincount(self._block, values, len(self.numbers)).astype(np.float64, copy=False)
        return sums

    def refresh(self, precision: float) -> None:
        """Work out every host's factor and every amount for the asks as they are."""
        self._asked = self._limit * self._ask[self._leaf]
        total = self._by_host(self._asked)
        floor = np.divide(self._room, total, out=np.ones(len(total)), where=total > self._room)
        factor = self._factor
        for _ in range(_FACTOR_STEPS):
            # Use as a function of the factor is concave: from below, tangents never overshoot.
            is_open = self._asked * factor[self._host] < self._limit
            base = self._by_host(np.where(is_open, self._asked, 0.0))
            full = self._by_host(np.where(is_open, 0.0, self._limit))
            tangent = np.divide(self._room - full, base, out=np.zeros(len(base)), where=base > 0.0)
            before = factor
            factor = np.where(self._slack, 1.0, np.minimum(1.0, np.maximum(tangent, floor)))
            if (np.abs(factor - before) <= precision * factor).all():
                break
        self._factor = factor
        self._amount = np.minimum(self._asked * factor[self._host], self._limit)
        self._missing = self._goal - self._by_leaf(self._amount)

    def shortfall(self) -> tuple[FloatArray, BoolArray]:
        """By block, the largest missing part of a total, and whether all are met."""
        missing = np.abs(self._missing)
        error, unmet = np.zeros(len(self.numbers)), np.zeros(len(self.numbers))
        np.maximum.at(error, self._block, missing / np.maximum(1.0, self._goal))
        np.maximum.at(unmet, self._block, missing - _DONE * self._goal)
        return error, unmet <= 1.0

    def step(self, error: FloatArray) -> None:
        """One Newton step of every block; ``error`` is by block."""
        direction = np.clip(self._direction(np.clip(error, 1e-10, 0.1)), -_LONGEST_STEP, _LONGEST_STEP)
        slope = self._by_block(self._missing * direction)
        length = np.ones(len(self.numbers))
        start = self._ask
        precision = min(1e-6, float(error.max()) ** 2)
        for _ in range(_HALVINGS):
            self._ask = start * np.exp(length[self._block] * direction)
            self.refresh(precision)
            # The derivative along the step falls towards 0; beyond that the step was too long.
            beyond = (self._by_block(self._missing * direction) < -0.9 * slope) & (slope > 0.0)
            if not beyond.any():
                return
            length[beyond] *= 0.5

    def _direction(self, precision: FloatArray) -> FloatArray:
        """The Newton direction of the asks' logarithms, by conjugate gradients to ``precision`` (by block)."""
        is_open = np.where(self._amount < self._limit, self._amount, 0.0)
        held = np.where(self._factor < 1.0, self._by_host(is_open), 0.0)
        inverse = np.divide(1.0, held, out=np.zeros(len(held)), where=held > 0.0)
        own = self._by_leaf(is_open) + 1e-10 * self._goal + 1e-3
        shared = self._by_leaf(is_open * is_open * inverse[self._host])
        scale = np.maximum(own - shared, 1e-9 * self._goal + 1e-3)
        product = self._coupling(is_open, inverse)
        result = np.zeros(len(own))
        rest = self._missing.copy()
        # Factors are not worked out to the last digit: their next tangent step is part of what the asks have to meet.
        left = np.where(held > 0.0, self._room - self._by_host(self._amount), 0.0)
        rest -= self._by_leaf(is_open * (left * inverse)[self._host])
        scaled = rest / scale
        direction = scaled.copy()
        size = self._by_block(rest * scaled)
        enough = size * precision * precision
        for _ in range(_GRADIENT_STEPS):
            image = own * direction - product(direction)
            curvature = self._by_block(direction * image)
            going = (size > enough) & (curvature > 0.0)
            if not going.any():
                break
            length = np.divide(size, curvature, out=np.zeros(len(size)), where=going)[self._block]
            result += length * direction
            rest -= length * image
            scaled = rest / scale
            before, size = size, np.where(going, self._by_block(rest * scaled), 0.0)
            ratio = np.divide(size, before, out=np.zeros(len(size)), where=before > 0.0)
            direction = scaled + ratio[self._block] * direction
        return result

    def _coupling(self, is_open: FloatArray, inverse: FloatArray) -> Any:  # noqa: ANN401 - a function of an array
        """What a change of asks gives back because hosts are full."""
        if len(is_open) < _COMPILED_ARCS:
            return lambda change: self._by_leaf(
                is_open * (inverse * self._by_host(is_open * change[self._leaf]))[self._host]
            )
        from scipy.sparse import csr_array  # type: ignore[import-untyped]  # publishes no types

        first = np.append(self._first, len(is_open))
        matrix = csr_array((is_open, self._leaf, first), shape=(len(self._room), len(self._goal)))
        back = matrix.T
        return lambda change: back @ (inverse * (matrix @ change))

    def store(self, found: Split) -> None:
        """Write down where the blocks are."""
        found.amount[self._arcs] = self._amount
        found.ask[self._leaves] = self._ask
        found.factor[self._hosts] = self._factor

    def without(self, settled: BoolArray) -> _Part:
        """The other blocks."""
        leaf_goes = settled[self._block]
        arc_goes = leaf_goes[self._leaf]
        host_goes = arc_goes[self._first]
        rest = _Part(
            self._blocks, self._arcs[~arc_goes], self._leaves[~leaf_goes], self._hosts[~host_goes],
            self._ask[~leaf_goes], self._factor[~host_goes],
        )  # fmt: skip
        rest._asked, rest._amount = self._asked[~arc_goes], self._amount[~arc_goes]
        rest._missing = self._missing[~leaf_goes]
        return rest


def _renumbered(values: IntArray, kept: IntArray) -> IntArray:
    """``values`` by their position in ``kept``, which is ascending and has them all."""
    if len(kept) and kept[-1] == len(kept) - 1:
        return values
    position = np.empty(int(kept[-1]) + 1 if len(kept) else 0, dtype=np.int64)
    position[kept] = np.arange(len(kept))
    return position[values]
