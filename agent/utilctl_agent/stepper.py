"""What the loop drives: something that is stepped and decides when next. ``engine.Engine`` pauses,
``weight_engine.WeightEngine`` weighs, ``mixed.MixedEngine`` does both.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from utilctl_agent.alps.model import CycleRecord, PrincipalSpec, Reading
from utilctl_agent.engine import Step
from utilctl_agent.holding import Faults
from utilctl_agent.host.port import Group


class Stepper(Protocol):
    """Controls a set of principals. Time is an argument."""

    @property
    def wakeups(self) -> int:
        """Steps so far."""
        ...

    @property
    def problems(self) -> Mapping[str, str]:
        """What keeps us from controlling a principal."""
        ...

    @property
    def stretch(self) -> float:
        """How many times longer than asked for cycles are, because switching takes so long."""
        ...

    @property
    def faults(self) -> Faults:
        """What went wrong with holding principals back, counted."""
        ...

    def put(self, spec: PrincipalSpec, now_ns: int, group: Group | None = None, *, observe: bool = False) -> None:
        """Add a principal with its group, change its spec, or exchange its group; see engine.Engine.put."""
        ...

    def remove(self, name: str, now_ns: int) -> None:
        """Stop controlling a principal and undo what was done to it. Unknown names are ignored."""
        ...

    def names(self) -> tuple[str, ...]:
        """The principals under control."""
        ...

    def group(self, name: str) -> Group:
        """The group of a principal. Raises KeyError."""
        ...

    def paused_ns(self, name: str, now_ns: int) -> int:
        """How long a principal has been paused, in total."""
        ...

    def switch(self, now_ns: int) -> int | None:
        """Carry out what was planned for this instant; returns when to wake next, or None: then ``step``."""
        ...

    def step(self, now_ns: int) -> Step:
        """Read, decide, act."""
        ...

    def settle(self) -> tuple[CycleRecord, ...]:
        """Account for everything done so far; returns the cycles that ended and were not yet reported."""
        ...

    def readings(self) -> Mapping[str, Reading]:
        """Progress of every principal since it came under control."""
        ...

    def close(self) -> None:
        """Undo everything and let go of it. Idempotent."""
        ...
