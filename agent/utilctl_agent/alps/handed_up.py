"""CPU time of processes that have ended, found again where the kernel hands it up: in their parents. Pure.

A process that is waited for hands what it has used, and what was handed to it, up to who waits (``cutime`` and
``cstime`` of /proc/PID/stat). That is the only trace of a child that came and went between two looks. Of a child that
was known while it lived a part is counted already, and must not be counted again once its parent has it.

So what known processes had when they ended goes into a *pool*; what is handed up is taken out of the pool first, and
only the rest is news. It does not matter who hands to whom: a parent that ends hands up all that it was handed, and an
orphan's time shows at whoever adopted it. What stays in the pool was handed to nobody (the parent ignores SIGCHLD, or
nobody of ours adopted the orphan): it was counted when it was used, and is forgotten after a while.

The kernel tells this time in clock ticks, rounded down, but adds it up exactly: it is late by up to two ticks a
process, and never lost. Hence the slack that stays in the pool for good.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import Final, Generic, TypeVar

K = TypeVar("K", bound=Hashable)
"""What tells processes apart."""

LATE_TICKS: Final = 2
"""User and system time are rounded down each for itself."""


class HandedUp(Generic[K]):
    """The account. tick_ns: the unit in which handed-up time is told."""

    def __init__(self, tick_ns: int) -> None:
        self._slack_ns = LATE_TICKS * tick_ns
        self._handed_ns: dict[K, int] = {}
        self._old_ns = 0  # of the pool, what was there at the last look
        self._new_ns = 0  # of the pool, what came since

    def begin(self, process: K, handed_ns: int) -> None:
        """From now on ``process`` is followed; what was handed to it so far (``handed_ns``) is not news."""
        self._handed_ns[process] = handed_ns

    def handed_ns(self, process: K) -> int:
        """What was handed to ``process`` when it was last looked at."""
        return self._handed_ns[process]

    def look(self, handed_ns: Mapping[K, int], ended_ns: Iterable[tuple[K, int]]) -> int:
        """Returns the CPU time that was handed up since the last look and counted by nobody, in nanoseconds.

        handed_ns: what was handed to each process, read *before* the processes' own clocks. ended_ns: who was found to
        be gone, and its own CPU time when last seen, all of it, also from before it was followed.
        """
        news_ns = 0
        for process, total_ns in handed_ns.items():
            news_ns += max(0, total_ns - self._handed_ns[process])
            self._handed_ns[process] = max(total_ns, self._handed_ns[process])
        for process, own_ns in ended_ns:
            self._new_ns += own_ns + self._handed_ns.pop(process)
        from_old_ns = min(self._old_ns, news_ns)
        from_new_ns = min(self._new_ns, news_ns - from_old_ns)
        # One that ended after its parent was read is handed up by the next look; what is still here then never will be.
        left_ns = min(self._old_ns - from_old_ns, self._slack_ns * max(1, len(self._handed_ns)))
        self._old_ns = left_ns + self._new_ns - from_new_ns
        self._new_ns = 0
        return news_ns - from_old_ns - from_new_ns
