"""Ports to the host: a clock, and groups of processes whose CPU time can be read and which can be paused.

Adapters for the real kernel stand beside this module, the simulated host in ``utilctl_agent.testing``; the same
contract tests run on all of them.
"""

from __future__ import annotations

from typing import Final, Protocol

from utilctl_agent.alps.model import Reading
from utilctl_common.errors import FailedError
from utilctl_common.quantities import NS_PER_MS

SETTLE_NS: Final = 20 * NS_PER_MS
"""Younger pauses may be unfinished: whoever is stopped must get onto a CPU once, and the kernel must come by."""


class GroupGoneError(FailedError):
    """The group's last process has ended, or its cgroup was removed."""


class ForeignStopError(FailedError):
    """The group was already stopped by somebody else. It is left as it is, and will not be resumed by us."""


class ForeignResumeError(FailedError):
    """Somebody else resumed what we had paused. It runs, as they want it to; the pause is not ours any more."""


class UnfinishedPauseError(FailedError):
    """Part of the group goes on or cannot be stopped, so far: a process in the kernel that nothing interrupts."""


class PendingPauseError(UnfinishedPauseError):
    """It is ready, and stops as soon as it gets a CPU to do so on: on a full host that takes a while. No fault."""


class MechanismError(FailedError):
    """The kernel refused to pause or resume the group (permission, read-only mount). It keeps running."""


class ForeignWeightError(FailedError):
    """Somebody else wrote the group's weight. It is theirs from now on: neither moved nor put back by us."""


class Clock(Protocol):
    """Monotonic time in nanoseconds."""

    def now_ns(self) -> int:
        """Never goes backwards."""
        ...


class Group(Protocol):
    """All processes of one principal on this host, under one mechanism."""

    @property
    def mechanism(self) -> str:
        """``freezer``, ``freezer-v1``, ``signal`` or ``weight``."""
        ...

    def read(self, *, observe: bool = True) -> Reading:
        """Progress now. Raises GroupGoneError.

        observe: also find out about waiting and blocking, which costs more; it may be unknown all the same.
        """
        ...

    def cpu_ns(self) -> int:
        """``read().cpu_ns`` at the least cost. Raises GroupGoneError."""
        ...

    def pause(self) -> None:
        """Stop every process of the group. Idempotent.

        Raises GroupGoneError, ForeignStopError, or MechanismError; after an error nothing is left paused by us.
        """
        ...

    def resume(self) -> None:
        """Let the group run again; undoes only our own pauses. Idempotent. Raises MechanismError."""
        ...

    def check(self) -> None:
        """See whether a pause in force still is as we made it; may look at a part of a large group only.

        Costs system calls that pausing and resuming do without, so it is for now and then. Raises ForeignResumeError,
        UnfinishedPauseError, ForeignStopError if somebody else has stopped what we hold (that part is theirs from now
        on, and stays stopped), GroupGoneError, or MechanismError.
        """
        ...

    def close(self) -> None:
        """Resume the group and release file descriptors. Idempotent, never raises."""
        ...


class Pressure(Protocol):
    """Whether anybody on this host waits for a CPU; ``host.pressure.HostPressure`` is one."""

    def contended(self, now_ns: int) -> bool:
        """Whether anybody did for a noticeable part of the time since the last call; True if that is not known."""
        ...


class Ledger(Protocol):
    """Where groups note their pauses before they make them; ``safety.journal.Journal`` is one."""

    def enter_process(self, pid: int, start_ticks: int) -> int:
        """Reserve a slot for a process."""
        ...

    def enter_cgroup(self, path: str, inode: int, *, v1: bool = False) -> int:
        """Reserve a slot for a cgroup; v1: it is one of the freezer hierarchy of version 1."""
        ...

    def enter_weight(self, path: str, inode: int, knob: str, found: int) -> int:
        """Reserve a slot for a cgroup's ``cpu.shares`` or ``cpu.weight`` and the value that was found in it."""
        ...

    def change(self, slot: int, before: int, value: int) -> None:
        """The slot's weight is about to be written: ``value``, over our own ``before``."""
        ...

    def begin(self, slot: int, now_ns: int) -> None:
        """The slot's subject is about to be paused."""
        ...

    def end(self, slot: int) -> None:
        """The slot's subject runs again."""
        ...

    def leave(self, slot: int) -> None:
        """Give the slot back."""
        ...
