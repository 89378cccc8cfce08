"""When a report would only repeat the last one, and a word that nothing has changed is enough. Pure.

A host on which nobody does anything would otherwise spend most of its agent's CPU time on saying so, every second and
for every service.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from utilctl_agent.link.codec import HostReport
from utilctl_common.quantities import NS_PER_S

QUIET_CORES: Final = 0.005
"""A service that uses or wants less than this does nothing worth mentioning."""
NOTICE_CORES: Final = 0.1
"""A host whose CPUs are busier or idler by this than at the last report is reported again: less is the noise of its own
housekeeping, and little to divide."""
FULL_EVERY_NS: Final = 30 * NS_PER_S
"""Longest time between complete reports; totals are as old as this at most."""
PATIENCE: Final = 3
"""Quiet reports in a row before the next is left out: whoever damps demand has then seen the last of it."""
INTERVALS: Final = 2
"""Report intervals between two words of life; a controller worries after three."""


@dataclass(slots=True)
class Quiet:
    """Remembers the last complete report."""

    _streak: int = 0
    _full_ns: int = 0
    _busy_cores: float = 0.0
    _problems: tuple[str, ...] | None = None

    def reported(self, report: HostReport, busy_cores: float, now_ns: int) -> None:
        """A complete report was made; the host's CPUs were busy by ``busy_cores``."""
        problems = tuple(see.problem for see in report.sees)
        still = all(see.consumption_cores < QUIET_CORES and see.demand_cores < QUIET_CORES for see in report.sees)
        self._streak = self._streak + 1 if still and self._problems in (None, problems) else 0
        self._full_ns, self._busy_cores, self._problems = now_ns, busy_cores, problems

    def disturb(self) -> None:
        """Something has changed: the next reports are complete."""
        self._streak = 0

    @property
    def settled(self) -> bool:
        """Whether the last reports were all quiet."""
        return self._streak >= PATIENCE

    def repeats(self, busy_cores: float, now_ns: int) -> bool:
        """Whether a report now would say nothing new, as far as can be told by the host's busy CPUs."""
        if not self.settled or now_ns - self._full_ns >= FULL_EVERY_NS:
            return False
        return abs(busy_cores - self._busy_cores) < NOTICE_CORES
