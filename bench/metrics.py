"""The figures that experiments report, computed from CPU times alone; shared with no code of utilctl."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Spread:
    """Median and range of repeated runs."""

    median: float
    low: float
    high: float

    def as_dict(self) -> dict[str, float]:
        """JSON form."""
        return {"median": self.median, "min": self.low, "max": self.high}


def spread(values: Sequence[float]) -> Spread:
    """Median, minimum and maximum. Raises statistics.StatisticsError for no values."""
    return Spread(statistics.median(values), min(values), max(values))


def rms_relative_error_pct(cpu_ns: Sequence[float], shares: Sequence[float]) -> float:
    """RMS over principals of (actual - ideal) / ideal in one cycle, percent (ALPS paper, section 3.1).

    Ideal is the part of what all of them consumed together that is due by share. 0 if nobody consumed anything.
    """
    total = sum(cpu_ns)
    if total <= 0:
        return 0.0
    share_sum = sum(shares)
    squares = [(actual / (total * share / share_sum) - 1) ** 2 for actual, share in zip(cpu_ns, shares, strict=True)]
    return 100 * math.sqrt(sum(squares) / len(squares))


def mean_error_pct(cycles: Sequence[Sequence[float]], shares: Sequence[float]) -> float | None:
    """The paper's figure for a run: mean over cycles of the RMS relative error. None without cycles."""
    if not cycles:
        return None
    return statistics.fmean(rms_relative_error_pct(cycle, shares) for cycle in cycles)


def worst_deviation_pct(cpu_ns: Sequence[float], shares: Sequence[float]) -> float:
    """How far the principal that is furthest off is from its share of a whole run, percent of that share."""
    total, share_sum = sum(cpu_ns), sum(shares)
    if total <= 0:
        return 0.0
    return max(100 * abs(cpu / (total * share / share_sum) - 1) for cpu, share in zip(cpu_ns, shares, strict=True))


def sums(cycles: Sequence[Sequence[int]]) -> list[int]:
    """Totals by principal."""
    return [sum(column) for column in zip(*cycles, strict=True)]


def rounded(value: float | None, digits: int = 4) -> float | None:
    """For JSON: no more digits than mean something."""
    return None if value is None else round(value, digits)
