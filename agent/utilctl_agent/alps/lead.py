"""How much longer than its allowance a turn takes: the loop itself needs the CPU, and its wake-ups come late."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

MOST_NS: Final = 500_000
"""On one core; on several the work of a switch is done on each. More than this is not the loop's doing."""
SETTLING: Final = 16
"""Many processes get on a CPU one by one to stop there, long after the loop has told them to: by measurement, what the
loop takes to switch a thousand, 2.5 ms, is a sixteenth of what it takes them."""
GAIN: Final = 0.25
STEP_NS: Final = 10_000
"""The lead follows no single turn further than this: now and then the host takes a lot, and then not again."""
STEPS: Final = 100
"""Or a part in so many of the most that it can be, where that is more."""
AIM_NS: Final = 70_000
"""Turns that end in a decision are aimed to end this much late: ending early costs another wake-up, and a constant
delay costs no accuracy, because an overrun is a debt in the next cycle."""


@dataclass(slots=True)
class Lead:
    """Learned from what turns leave unused. ``decided_ns`` is that of turns that begin with a decision, which takes
    the loop longer than the switch with which a planned one begins (``planned_ns``). 0: nothing is known yet.
    """

    cores: int
    most_ns: int = field(init=False)
    decided_ns: int = 0
    planned_ns: int = 0

    def __post_init__(self) -> None:
        self.most_ns = MOST_NS * self.cores

    def switching_takes(self, took_ns: int) -> None:
        """So long on average."""
        self.most_ns = max(MOST_NS * self.cores, SETTLING * took_ns)

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
        step_ns = max(STEP_NS, self.most_ns // STEPS)
        return lead_ns + max(-step_ns, min(step_ns, round(GAIN * (sample_ns - lead_ns))))
