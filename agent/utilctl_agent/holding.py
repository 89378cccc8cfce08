"""Do pauses hold? Whom to look at, and who is let run for a while because pausing it does not work. Pure: time is an
argument.

A pause can fail to hold in two ways. Somebody else resumes the group: fighting over it would cost both sides and help
nobody. Or it does not take effect, because a process sits in the kernel where nothing interrupts it. Either way the
group gets a *leave*: it runs and is measured only, and is taken back later. Each further leave is twice as long as the
one before, up to LONGEST_LEAVE_NS; a group that held for as long as its last leave begins anew.

Looking costs a system call or a few, so it is done in the slow path alone, of a few groups at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from heapq import nsmallest
from typing import Final, NamedTuple

from utilctl_agent.host.port import SETTLE_NS, ForeignResumeError, PendingPauseError, UnfinishedPauseError
from utilctl_common.errors import FailedError
from utilctl_common.quantities import NS_PER_MS, NS_PER_S

LOOK_EVERY_NS: Final = 100 * NS_PER_MS
MOST_LOOKS: Final = 8
"""How many looks there are in LOOK_EVERY_NS. Arbitrary, both: at 2 us a cgroup, less than 0.02 % of a CPU."""
OVERDUE_NS: Final = 5 * NS_PER_S
"""Who was not looked at for this long although it was paused now and then is looked at before its next turn."""
UNFINISHED_NS: Final = 250 * NS_PER_MS
"""Unfinished at every look for this long: it is not the usual wait for a disk. Arbitrary, well below ``max_pause``."""
FIRST_LEAVE_NS: Final = NS_PER_S
LONGEST_LEAVE_NS: Final = 60 * NS_PER_S


class Faults(NamedTuple):
    """What went wrong with holding groups back, counted since the start.

    foreign_writes: somebody else resumed what we had paused, or wrote a weight of ours. foreign_stops: a group was
    found stopped by somebody else. unfinished_pauses: pauses that did not take effect and were undone.
    """

    foreign_writes: int = 0
    foreign_stops: int = 0
    unfinished_pauses: int = 0


@dataclass(slots=True)
class _Leave:
    until_ns: int
    length_ns: int


@dataclass(slots=True)
class HoldWatch:
    """Whom to look at and whom to let run, by name. The caller looks, pauses and resumes."""

    faults: Faults = field(default_factory=Faults)
    _looked_ns: dict[str, int] = field(default_factory=dict)  # when last; of those that have ever been due for it
    _period_ends_ns: int = 0
    _looks_left: int = 0
    _unfinished_since_ns: dict[str, int] = field(default_factory=dict)
    _leaves: dict[str, _Leave] = field(default_factory=dict)  # in force and past
    _on_leave: dict[str, None] = field(default_factory=dict)

    def due(self, paused_since_ns: Mapping[str, int], now_ns: int) -> list[str]:
        """Whom of the paused ones to look at now: those that were not for longest.

        None twice within LOOK_EVERY_NS, nor more than MOST_LOOKS together.
        """
        if now_ns >= self._period_ends_ns:
            self._period_ends_ns, self._looks_left = now_ns + LOOK_EVERY_NS, MOST_LOOKS
        if not self._looks_left:
            return []
        looked_ns = self._looked_ns
        waiting = [name for name in paused_since_ns if now_ns - looked_ns.get(name, -LOOK_EVERY_NS) >= LOOK_EVERY_NS]
        names = nsmallest(self._looks_left, waiting, key=lambda name: looked_ns.get(name, 0))
        self._looks_left -= len(names)
        looked_ns.update(dict.fromkeys(names, now_ns))
        return names

    def overdue(self, names: Iterable[str], now_ns: int) -> str | None:
        """The first of ``names`` that was not looked at for OVERDUE_NS, or never. Once: then it is not for a while.

        Only few can be missed: where decisions always find the same one running.
        """
        for name in names:
            if now_ns - self._looked_ns.setdefault(name, now_ns) >= OVERDUE_NS:
                self._looked_ns[name] = now_ns - LOOK_EVERY_NS
                return name
        return None

    def found(self, name: str, trouble: FailedError | None, age_ns: int, now_ns: int) -> bool:
        """What a look at a pause of ``age_ns`` has shown; True if the group shall be let run: ``leave`` begins."""
        if isinstance(trouble, ForeignResumeError):
            self._count(foreign_writes=1)
            return self._leave(name, now_ns)
        if isinstance(trouble, PendingPauseError):
            return False
        if isinstance(trouble, UnfinishedPauseError):
            if age_ns < SETTLE_NS:
                return False
            if now_ns - self._unfinished_since_ns.setdefault(name, now_ns) < UNFINISHED_NS:
                return False
            self._count(unfinished_pauses=1)
            return self._leave(name, now_ns)
        self._unfinished_since_ns.pop(name, None)
        leave = self._leaves.get(name)
        if trouble is None and leave is not None and now_ns - leave.until_ns >= leave.length_ns:
            del self._leaves[name]
        return False

    def foreign_stop(self) -> None:
        """A group was found stopped by somebody else."""
        self._count(foreign_stops=1)

    def _count(self, foreign_writes: int = 0, foreign_stops: int = 0, unfinished_pauses: int = 0) -> None:
        writes, stops, unfinished = self.faults
        self.faults = Faults(writes + foreign_writes, stops + foreign_stops, unfinished + unfinished_pauses)

    def _leave(self, name: str, now_ns: int) -> bool:
        last = self._leaves.get(name)
        length_ns = FIRST_LEAVE_NS if last is None else min(2 * last.length_ns, LONGEST_LEAVE_NS)
        self._leaves[name] = _Leave(now_ns + length_ns, length_ns)
        self._on_leave[name] = None
        self._unfinished_since_ns.pop(name, None)
        return True

    @property
    def suspicious(self) -> bool:
        """Whether some pause was found unfinished and is to be looked at again soon: not the time for long plans."""
        return bool(self._unfinished_since_ns)

    def on_leave(self, name: str) -> bool:
        """Whether it is let run now."""
        return name in self._on_leave

    def doubts(self, name: str) -> bool:
        """Whether it is on leave, or has not yet held for as long as its last leave was."""
        return name in self._leaves

    def back(self, now_ns: int) -> list[str]:
        """Whose leave has ended; from now on they are not on leave."""
        ended = [name for name in self._on_leave if now_ns >= self._leaves[name].until_ns]
        for name in ended:
            del self._on_leave[name]
        return ended

    def next_wake_ns(self, now_ns: int) -> int | None:
        """When to come back at the latest: a leave ends, or a pause is still to be found finished or not."""
        instants_ns = [self._leaves[name].until_ns for name in self._on_leave]
        instants_ns += [
            max(since_ns + UNFINISHED_NS, now_ns + LOOK_EVERY_NS) for since_ns in self._unfinished_since_ns.values()
        ]
        return min(instants_ns, default=None)

    def forget(self, name: str) -> None:
        """It is not under control any more."""
        self._looked_ns.pop(name, None)
        self._unfinished_since_ns.pop(name, None)
        self._leaves.pop(name, None)
        self._on_leave.pop(name, None)
