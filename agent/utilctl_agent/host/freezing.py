"""What the freezers of both cgroup versions have in common: the pause, its note in the journal, and whose it is.

There is one switch a cgroup and no telling who moved it, so whose it is follows from what stands in it: frozen before
we asked is somebody else's, and stays; thawed after we froze it is somebody else's wish, too. Somebody who freezes
what we have frozen cannot be told apart.

A process freezes on its way back to user mode, so one that was ready must get a CPU first. Among hundreds on a full
host that takes longer than the group's pauses do: such a group is never seen frozen as a whole, and yet nobody in it
gets on. Only a member that nothing interrupts (state D) makes such a pause a failure.
"""

from __future__ import annotations

import abc
import contextlib
import os
import time
from pathlib import Path
from typing import ClassVar, Final, Literal

from utilctl_agent.host.cgroupfile import translated
from utilctl_agent.host.descriptors import keep
from utilctl_agent.host.port import (
    ForeignResumeError,
    Ledger,
    MechanismError,
    PendingPauseError,
    UnfinishedPauseError,
)
from utilctl_agent.host.procstat import read_state
from utilctl_common.errors import FailedError
from utilctl_common.quantities import NS_PER_S

FreezerState = Literal["thawed", "freezing", "frozen"]
PENDING_EVERY_NS: Final = NS_PER_S
"""How long the finding holds that a freezing group only waits for CPUs; until then its members are not looked at."""
MOST_THREADS: Final = 64
"""Threads looked at to find out, each time others. Arbitrary: 3 us each."""


class FreezableCgroup(abc.ABC):
    """Pauses one cgroup directory; a subclass names the switch and reads the CPU time.

    All files stay open; a read or write is one system call.
    """

    FROZEN: ClassVar[bytes]
    THAWED: ClassVar[bytes]
    THREADS: ClassVar[str]
    """The file that lists the threads."""
    UNINTERRUPTIBLE: ClassVar[bytes | None]
    """State, as in /proc/TID/stat, of a thread that nothing interrupts. None where frozen ones say the same: there one
    that is seen ready tells that the group waits for a CPU."""

    def __init__(self, path: Path, ledger: Ledger) -> None:
        self.path = path
        self._ledger = ledger
        self._slot: int | None = None
        self._inode = 0
        self._switch = -1
        self._frozen = False
        self._fds: list[int] = []
        self._pending_until_ns = 0
        self._looked_at = 0  # threads looked at so far: the next look begins with the one after them

    def _open(self, name: str, flags: int) -> int:
        fd = keep(os.open(self.path / name, flags | os.O_CLOEXEC))
        self._fds.append(fd)
        return fd

    def _enter(self, *, v1: bool = False) -> None:
        """Reserve the journal's slot; the last thing to do on opening."""
        self._inode = self.path.stat().st_ino
        self._slot = self._ledger.enter_cgroup(str(self.path), self._inode, v1=v1)

    @abc.abstractmethod
    def _refuse_foreign(self) -> None:
        """Raise ForeignStopError if somebody else has frozen this cgroup. Raises OSError."""

    @abc.abstractmethod
    def _state(self) -> FreezerState:
        """How far the freezing has got. Raises OSError."""

    def pause(self) -> None:
        """See host.port.Group."""
        if self._frozen or self._slot is None:
            return
        try:
            self._refuse_foreign()
            self._ledger.begin(self._slot, time.monotonic_ns())
            os.pwrite(self._switch, self.FROZEN, 0)
        except OSError as error:
            self._ledger.end(self._slot)
            raise translated(self.path, error) from None
        self._frozen = True

    def resume(self) -> None:
        """See host.port.Group."""
        if not self._frozen or self._slot is None:
            return
        try:
            os.pwrite(self._switch, self.THAWED, 0)
        except OSError as error:
            if self._exists():
                raise MechanismError(
                    f"cgroup {self.path} cannot be thawed: {error.strerror}", hint="run utilctl thaw --all"
                ) from None
            # Removed meanwhile: nothing is left to resume.
        self._forget_pause()

    def _exists(self) -> bool:
        """Whether the cgroup is there; what cannot be known counts as there, for then its pause stays noted."""
        try:
            return self.path.stat().st_ino == self._inode
        except FileNotFoundError:
            return False
        except OSError:
            return True

    def check(self) -> None:
        """See host.port.Group."""
        if not self._frozen:
            return
        try:
            state = self._state()
        except OSError as error:
            raise translated(self.path, error) from None
        if state == "thawed":
            self._forget_pause()
            raise ForeignResumeError(
                f"cgroup {self.path} was thawed by somebody else", hint="only one program should write its freezer"
            )
        if state == "freezing":
            if self._waits_for_cpus():
                raise PendingPauseError(f"processes of cgroup {self.path} have not got a CPU yet to freeze on")
            raise UnfinishedPauseError(
                f"cgroup {self.path} does not freeze: one of its processes cannot be interrupted",
                hint="look for state D in ps",
            )

    def _waits_for_cpus(self) -> bool:
        """Whether it is only for want of a CPU that not everybody is frozen yet; looks at a part of a large group."""
        now_ns = time.monotonic_ns()
        if now_ns < self._pending_until_ns:
            return True
        try:
            threads = (self.path / self.THREADS).read_bytes().split()
        except OSError:
            return False
        waits = self.UNINTERRUPTIBLE is not None
        for index in range(self._looked_at, self._looked_at + min(MOST_THREADS, len(threads))):
            found = read_state(int(threads[index % len(threads)]))
            if found is None:
                continue
            if found[0] == self.UNINTERRUPTIBLE:
                self._looked_at = index  # the next look sees it first
                return False
            waits = waits or found[0] == b"R"
        self._looked_at += MOST_THREADS
        if waits:
            self._pending_until_ns = now_ns + PENDING_EVERY_NS
        return waits

    def _forget_pause(self) -> None:
        self._frozen = False
        if self._slot is not None:
            self._ledger.end(self._slot)

    def close(self) -> None:
        """See host.port.Group. What cannot be resumed stays in the journal, for the guard to undo."""
        with contextlib.suppress(FailedError):
            self.resume()
        self._close_files()
        if self._slot is not None and not self._frozen:
            self._ledger.leave(self._slot)
        self._slot = None

    def _close_files(self) -> None:
        while self._fds:
            os.close(self._fds.pop())
        self._switch = -1  # the number may be another file's by now
