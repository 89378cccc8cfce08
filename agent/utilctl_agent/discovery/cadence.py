"""When to look at processes, so that it is soon where that is cheap and bounded where it is not. Pure.

Three kinds of looks, each with its own pace: after events, some tens of milliseconds after the first one, so that
those that come together cost together; glances, where there are no events, the faster the more comes and goes; and
scans, the safety net under both. None may take more than its part of one CPU, whatever happens on the host.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from utilctl_common.quantities import NS_PER_MS, NS_PER_S

GATHER_NS: Final = 20 * NS_PER_MS
"""From one look after events to the next, at least. A new process mostly executes its program within that time."""

REVISIT_NS: Final = 300 * NS_PER_MS
"""From a look that found new programs to another one at the same processes: service managers move them to their cgroup
before or right after that, of which no event tells."""

GLANCE_FIRST_NS: Final = 100 * NS_PER_MS
"""Time between glances while processes come and go; doubled after each glance that finds nothing new."""

GLANCE_LAST_NS: Final = NS_PER_S

LOOK_PART: Final = 0.08
"""Part of one CPU that looks after events, or glances, may take. Arbitrary: a storm costs more to others than to us."""

SCAN_PART: Final = 0.02
"""Part of one CPU that scans may take."""

SCAN_LAST_NS: Final = 10 * NS_PER_S
"""Longest time between two scans, however much they cost and however little they find."""


@dataclass(slots=True)
class Cadence:
    """When the next look is due; instants are those of CLOCK_MONOTONIC. ``scan_ns``: shortest time between scans."""

    scan_ns: int
    events: bool
    next_look_ns: int = 0
    """With events: when those that wait may be taken. Without: when to glance."""
    next_scan_ns: int = 0
    revisit_ns: int | None = None
    """With events: when to look again at those that have executed a program lately, if there are any."""
    _glance_ns: int = GLANCE_FIRST_NS
    _last_cost_ns: int = 0
    _still_ns: int = 0  # time between scans while they find nothing new

    def scanned(
        self, now_ns: int, cost_ns: int, *, behind: bool = False, changed: bool = True, young: bool = False
    ) -> None:
        """A scan has ended that took ``cost_ns`` of CPU time.

        behind: events were lost, so the next is urgent. changed: it found something new; where events tell of nearly
        everything, scans that find nothing become rarer. young: see ``revisit_ns``.
        """
        # The first scan reads everything and costs ten times what the others do: it says nothing about the next.
        fair_ns = int(min(cost_ns, self._last_cost_ns) / SCAN_PART)
        self._last_cost_ns = cost_ns
        self._still_ns = self.scan_ns if changed or behind or not self.events else min(SCAN_LAST_NS, 2 * self._still_ns)
        wait_ns = fair_ns if behind else max(self.scan_ns, self._still_ns, fair_ns)
        self.next_scan_ns = now_ns + min(SCAN_LAST_NS, wait_ns)
        self.next_look_ns = max(self.next_look_ns, now_ns + self._look_ns())
        self._plan_revisit(now_ns, young=young)

    def _plan_revisit(self, now_ns: int, *, young: bool) -> None:
        if young and self.events and self.revisit_ns is None:
            self.revisit_ns = now_ns + REVISIT_NS

    @property
    def next_ns(self) -> int:
        """When to look at the latest, also if no event comes."""
        return self.next_scan_ns if self.revisit_ns is None else min(self.next_scan_ns, self.revisit_ns)

    def looked(self, now_ns: int, cost_ns: int, *, changed: bool, young: bool = False) -> None:
        """A look after events, or a glance, has ended. changed: it found something new. young: see ``revisit_ns``."""
        if self.revisit_ns is not None and now_ns >= self.revisit_ns:
            self.revisit_ns = None
        self._plan_revisit(now_ns, young=young)
        if not self.events:
            longest_ns = min(GLANCE_LAST_NS, max(GLANCE_FIRST_NS, self.scan_ns))
            self._glance_ns = GLANCE_FIRST_NS if changed else min(longest_ns, 2 * self._glance_ns)
        self.next_look_ns = now_ns + max(self._look_ns(), int(cost_ns / LOOK_PART))

    def _look_ns(self) -> int:
        return GATHER_NS if self.events else self._glance_ns
