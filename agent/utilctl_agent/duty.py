"""How much of its CPU the loop may take in the long run, whatever it is asked to control. Pure; time is an argument.

The loop runs before all ordinary work. Were it to be woken as often as hundreds of services with tiny allowances
suggest, it would leave them nothing to use, find that they have used nothing, and wake again: a busy loop that starves
the host and controls nobody. A bucket of CPU time that fills at a fixed pace lets it work densely for a while, for a
new fleet or a burst of changes, and bounds what it takes over seconds.
"""

from __future__ import annotations

from typing import Final

from utilctl_common.quantities import NS_PER_MS

MOST: Final = 0.25
"""Part of one CPU that decisions may take in the long run. Far above what any group that is under control costs."""
BURST_NS: Final = 50 * NS_PER_MS
"""CPU time that decisions may take without a rest."""
LONGEST_REST_NS: Final = 100 * NS_PER_MS
"""However much was taken: nobody should stay paused much longer than was decided."""


class Duty:
    """What the loop may still take."""

    def __init__(self) -> None:
        self._left_ns = float(BURST_NS)
        self._seen_ns: int | None = None

    def rest_ns(self, now_ns: int, taken_ns: int) -> int:
        """How long to rest after work that took ``taken_ns`` of CPU time and ended at ``now_ns``; mostly 0."""
        elapsed_ns = 0 if self._seen_ns is None else now_ns - self._seen_ns
        self._seen_ns = now_ns
        self._left_ns = min(float(BURST_NS), self._left_ns + MOST * elapsed_ns) - taken_ns
        if self._left_ns >= 0:
            return 0
        return min(LONGEST_REST_NS, round(-self._left_ns / MOST))
