"""Levels: an SEE's total divided by its weight, and what everybody gets when all rise to a common level."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Riser:
    """A node whose level rises: it gets ``max(low, min(high, weight * level - granted))`` ticks here."""

    node: int
    weight: float
    granted: int
    low: int
    high: int

    def amount_at(self, level: float) -> int:
        """Ticks at ``level``, rounded down."""
        reached = self.weight * level - self.granted
        return self.high if reached >= self.high else max(self.low, int(reached))


def fill(risers: Sequence[Riser], amount: int) -> tuple[float, dict[int, int]]:
    """Divide ``amount`` among ``risers``: the level reached and every node's ticks, which add up to ``amount``.

    They add up to less where everybody reaches its upper bound (the level is then infinite), to more where the lower
    bounds alone exceed ``amount``. Ticks lost to rounding go to the first risers, one each.
    """
    level = level_for(risers, amount)
    amounts = {riser.node: riser.amount_at(level) for riser in risers}
    left = amount - sum(amounts.values())
    if left > 0 and level < math.inf:
        rising = [
            riser
            for riser in risers
            if amounts[riser.node] < riser.high and riser.weight * level - riser.granted >= riser.low - 1
        ]
        each, rest = divmod(left, len(rising)) if rising else (0, 0)
        for position, riser in enumerate(rising):
            amounts[riser.node] = min(riser.high, amounts[riser.node] + each + (position < rest))
    return level, amounts


def level_for(risers: Sequence[Riser], amount: int) -> float:
    """The largest level at which ``risers`` together get no more than ``amount``; infinity if they never get more.

    They may get more than ``amount`` at any level when their lower bounds alone exceed it; the level is then 0.
    """
    events: list[tuple[float, float]] = []
    total = 0.0
    for riser in risers:
        total += riser.low
        start = (riser.low + riser.granted) / riser.weight
        end = (riser.high + riser.granted) / riser.weight
        if end > start:
            events.append((start, riser.weight))
            events.append((end, -riser.weight))
    events.sort()
    slope, at, level = 0.0, 0.0, math.inf
    for position, change in events:
        if slope > 0.0 and total + slope * (position - at) > amount:
            level = at + max(0.0, amount - total) / slope
            break
        total += slope * (position - at)
        at = position
        slope += change
    if level == math.inf:
        if sum(riser.amount_at(level) for riser in risers) <= amount:
            return level
        level = at
    # Floats may be off by an ulp or two; integer amounts decide.
    step = 2.0**-53
    while level > 0.0 and sum(riser.amount_at(level) for riser in risers) > amount:
        level *= 1.0 - step
        step *= 2.0
        if step >= 1.0:
            return 0.0
    return level
