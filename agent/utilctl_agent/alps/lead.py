"""How much longer than its allowance a turn takes: the loop itself needs the CPU, and its wake-ups come late."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

MOST_NS: Final = 500_000
"""On one core; on several the work of a switch is done on each. More than this is not the loop's doing."""
GAIN: Final = 0.25
STEP_NS: Final = 10_000
"""The lead follows no single turn further than this: now and then the host takes a lot, and then not again."""
AIM_NS: Final = 70_000
"""Turns that end in a decision are aimed to end this much late: ending early costs another wake-up, and a constant
delay costs no accuracy, because an overrun is a debt in the next cycle."""


@dataclass(slots=True)
class Lead:
    """Learned from what turns leave unused. ``decided_ns`` is that of turns that begin with a decision, which takes
    the loop longer than the switch with which a planned one begins (``planned_ns``). 0: nothing is known yet.
    """

    most_ns: int
    decided_ns: int = 0
    planned_ns: int = 0

    def learn(self, unused_ns: int, *, planned: bool) -> None:
        """A turn ran undisturbed but for ``unused_ns`` of its time."""
        if planned:
            self.planned_ns = self._approach(self.planned_ns, unused_ns)
        else:
            self.decided_ns = self._approach(self.decided_ns, unused_ns)

    def _approach(self, lead_ns: int, sample_ns: int) -> int:
        sample_ns = min(max(0, sample_ns), self.most_ns)
        if lead_ns == 0:
            return sample_ns
        return lead_ns + max(-STEP_NS, min(STEP_NS, round(GAIN * (sample_ns - lead_ns))))
