"""Damping of demand: it rises at once and falls after a few reports.

A service that pauses for a moment should not lose its entitlement and fight to get it back: what is used is
the largest of the last three reports. That keeps exact values (no tail of ever smaller ones that would cause
one push after another), and three reports are short beside the lease. A service without processes has no
demand at all.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from typing import Final

WINDOW_REPORTS: Final = 3
"""Reports over which the largest demand counts. Arbitrary: two would follow every dip, more would lend
late."""

DEMAND_DIGITS: Final = 4
"""Demand and capacity are rounded to this many decimals of a core: noise below 0.1 ms of CPU a second is
none."""


class DemandWindow:
    """Damped demand of the SEEs on one host, in cores."""

    __slots__ = ("_cores", "_reports")

    def __init__(self) -> None:
        self._reports: deque[Mapping[str, float]] = deque(maxlen=WINDOW_REPORTS)
        self._cores: Mapping[str, float] | None = None  # worked out since the newest report

    def add(self, report: Iterable[tuple[str, float, int]]) -> None:
        """Take in one report: (SEE, demand in cores, processes) for each SEE that it names."""
        self._reports.append({see: cores for see, cores, processes in report if processes > 0})
        self._cores = None

    def repeat(self) -> None:
        """Take in the newest report once more."""
        if self._reports:
            self._reports.append(self._reports[-1])
            self._cores = None

    def cores(self) -> Mapping[str, float]:
        """Demand by SEE: only SEEs of the newest report that have processes and want more than nothing."""
        if self._cores is None:
            self._cores = self._damped()
        return self._cores

    def _damped(self) -> dict[str, float]:
        if not self._reports:
            return {}
        damped: dict[str, float] = {}
        for see in self._reports[-1]:
            largest = round(max(report.get(see, 0.0) for report in self._reports), DEMAND_DIGITS)
            if largest > 0:
                damped[see] = largest
        return damped

    def clear(self) -> None:
        """Forget everything: another agent speaks for the host now."""
        self._reports.clear()
        self._cores = None
