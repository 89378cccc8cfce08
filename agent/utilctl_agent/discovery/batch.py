"""What happened to processes between two looks, as values. Pure.

A batch says which processes to look at, never what they are now: that is read from /proc afterwards. So the order of
events matters little, and a late or doubled one does no harm.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from utilctl_agent.discovery.facts import ProcessKey


@dataclass(slots=True)
class EventBatch:
    """Events of one stretch of time, by pid, coalesced.

    ``parents``: who forked whom, in the order of the forks. ``executed``: who runs another program now.
    ``changed``: whose user or name changed. ``exited``: whose last event was their exit. ``lost``: the kernel dropped
    events, so anything may have happened besides. ``first_ns``: time of the first event (CLOCK_MONOTONIC).
    """

    parents: dict[int, int] = field(default_factory=dict)
    executed: set[int] = field(default_factory=set)
    changed: set[int] = field(default_factory=set)
    exited: set[int] = field(default_factory=set)
    lost: bool = False
    first_ns: int | None = None

    def __bool__(self) -> bool:
        return bool(self.parents or self.executed or self.changed or self.exited or self.lost)

    def forked(self, parent: int, child: int) -> None:
        """``child`` was forked; whatever an earlier process with its pid did is over."""
        self.parents.pop(child, None)  # a reused pid moves to the end: the order is that of the forks
        self.parents[child] = parent
        self.exited.discard(child)

    def ended(self, pid: int) -> None:
        """The process, or at least its first thread, has ended."""
        self.exited.add(pid)
        self.executed.discard(pid)
        self.changed.discard(pid)


class EventSource(Protocol):
    """Tells what happened to processes, all of them, in order."""

    def take(self) -> EventBatch:
        """Everything since the last call. Does not block."""
        ...

    def fileno(self) -> int:
        """Readable while something waits to be taken."""
        ...

    def close(self) -> None:
        """Stop listening. Idempotent."""
        ...


@dataclass(frozen=True, slots=True)
class Changes:
    """How the process table differs from before: keys of processes that came, whose facts differ, and that went."""

    added: tuple[ProcessKey, ...] = ()
    changed: tuple[ProcessKey, ...] = ()
    gone: tuple[ProcessKey, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.added or self.changed or self.gone)
