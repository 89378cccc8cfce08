"""Longer cycles for groups that take long to switch. Pure.

Pausing and resuming costs the kernel some microseconds a process. For hundreds of them that adds up to milliseconds a
switch, and no care of the loop makes it less; fewer switches do. So the cycle of such groups is lengthened until
switching takes no more than ``MOST`` of one CPU, or everybody has one turn a round, whichever comes first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from utilctl_agent.alps.model import Switch
from utilctl_agent.alps.rounds import ROUND_NS

LONG_NS: Final = 100_000
"""Switches that take less on average are left alone: it is the quantum that asks for so many. Some dozens of
processes take as long; a single one takes 10 to 30 us."""
MOST: Final = 0.005
"""Part of one CPU that switching may take."""
DEAD_BAND: Final = 0.2
"""Smaller changes are not worth a cycle of another length."""


class Stretch:
    """By how much the cycle is longer than was asked for: ``factor``, at least 1."""

    def __init__(self, cores: int) -> None:
        self.factor = 1.0
        self._longest_ns = ROUND_NS * cores

    def learn(self, switches: Sequence[Switch], allotted_ns: int) -> bool:
        """From the switches of a plan and the length of the cycles then, in CPU time; True if ``factor`` changes."""
        if len(switches) < 2 or allotted_ns <= 0:
            return False
        span_ns = switches[-1].now_ns - switches[0].now_ns
        mean_ns = sum(switch.took_ns for switch in switches) / len(switches)
        wanted = 1.0
        if mean_ns >= LONG_NS and span_ns > 0:
            wanted = self.factor * mean_ns * (len(switches) - 1) / span_ns / MOST
        elif self.factor == 1.0:
            return False
        longest = self.factor * self._longest_ns / allotted_ns
        wanted = max(1.0, min(wanted, longest))
        if abs(wanted - self.factor) < DEAD_BAND * self.factor:
            return False
        self.factor = wanted
        return True
