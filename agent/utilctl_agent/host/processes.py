"""Groups that are lists of processes, paused by SIGSTOP and resumed by SIGCONT through pidfds.

Works without privilege for one's own processes. CPU time comes from each process's CPU clock (all its threads);
waiting time from /proc/PID/schedstat, which knows the main thread only, so it is offered for groups of one
single-threaded process and otherwise the instantaneous state is used (the paper's wait channel).
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import time
from collections.abc import Iterable
from typing import Final

from utilctl_agent.alps.model import Reading
from utilctl_agent.host.port import ForeignStopError, GroupGoneError, Ledger, MechanismError
from utilctl_agent.host.procstat import ProcessId, parse_stat
from utilctl_agent.safety.journal import JournalError

_STOPPED_STATES: Final = (b"T", b"t")
_BLOCKED_STATES: Final = (b"S", b"D", b"I", b"T", b"t", b"Z", b"X")


class _Member:
    """One process of a group, with everything open that the loop needs."""

    def __init__(self, process: ProcessId, ledger: Ledger) -> None:
        self.process = process
        self._ledger = ledger
        self._slot: int | None = None
        self.pidfd = os.pidfd_open(process.pid)
        self._stat = -1
        self._schedstat = -1
        try:
            self._stat = os.open(f"/proc/{process.pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
            state, start_ticks, self.threads, _ = parse_stat(os.pread(self._stat, 1024, 0))
            # The pidfd and /proc/PID may name different processes; the start time settles it.
            if start_ticks != process.start_ticks or state in (b"Z", b"X"):
                raise ProcessLookupError(errno.ESRCH, "process ended")
            with contextlib.suppress(OSError):
                self._schedstat = os.open(f"/proc/{process.pid}/schedstat", os.O_RDONLY | os.O_CLOEXEC)
            self._slot = ledger.enter_process(process.pid, process.start_ticks)
        except OSError:
            self.close()
            raise
        self._clock = (~process.pid << 3) | 2
        self.paused = False

    def cpu_ns(self) -> int:
        """CPU time of all threads. Raises OSError once the process has ended."""
        return time.clock_gettime_ns(self._clock)

    def wait_ns(self) -> int | None:
        """Time the only thread was ready and not running; None if it cannot be told."""
        if self._schedstat < 0 or self.threads != 1:
            return None
        return int(os.pread(self._schedstat, 96, 0).split()[1])

    def state(self) -> bytes:
        """State letter of the main thread; updates ``threads``. Raises OSError once the process has ended."""
        letter, _, self.threads, _ = parse_stat(os.pread(self._stat, 1024, 0))
        return letter

    def stop(self) -> None:
        """SIGSTOP, unless somebody else stopped it before: then it is not ours to resume."""
        if self.paused or self._slot is None or self.state() in _STOPPED_STATES:
            return
        self._ledger.begin(self._slot, time.monotonic_ns())
        try:
            signal.pidfd_send_signal(self.pidfd, signal.SIGSTOP)
        except OSError:
            self._ledger.end(self._slot)
            raise
        self.paused = True

    def cont(self) -> None:
        """SIGCONT, if we stopped it."""
        if self.paused and self._slot is not None:
            try:
                signal.pidfd_send_signal(self.pidfd, signal.SIGCONT)
            except ProcessLookupError:
                self._forget_pause()
                raise
            self._forget_pause()

    def _forget_pause(self) -> None:
        self.paused = False
        if self._slot is not None:
            self._ledger.end(self._slot)

    def close(self) -> None:
        """Release the descriptors, and the slot unless a pause is still in force, for the guard to undo."""
        if self._slot is not None and not self.paused:
            self._ledger.leave(self._slot)
            self._slot = None
        for fd in (self.pidfd, self._stat, self._schedstat):
            if fd >= 0:
                os.close(fd)


class ProcessGroup:
    """A changing set of processes. Implements host.port.Group."""

    def __init__(self, processes: Iterable[ProcessId], ledger: Ledger, *, keep_empty: bool = False) -> None:
        """Open every process. Raises GroupGoneError if none of them is alive.

        keep_empty: an empty group is a group with nothing to do instead of one that is gone.
        """
        self._ledger = ledger
        self._members: dict[ProcessId, _Member] = {}
        self._past_ns = 0  # CPU time of members that left, so that the total never steps back
        self._paused = False
        self._keep_empty = keep_empty
        self._seen_ns: dict[ProcessId, int] = {}
        self.update(processes)
        if not self._members and not keep_empty:
            raise GroupGoneError("none of the processes is alive")

    @property
    def mechanism(self) -> str:
        """See host.port.Group."""
        return "signal"

    @property
    def processes(self) -> frozenset[ProcessId]:
        """The members that were alive when last looked at."""
        return frozenset(self._members)

    def update(self, processes: Iterable[ProcessId]) -> None:
        """Make the group consist of ``processes``: leavers are resumed, joiners are paused if the group is."""
        wanted = frozenset(processes)
        for process in [p for p in self._members if p not in wanted]:
            self._drop(process)
        for process in sorted(wanted - self._members.keys(), key=lambda p: p.pid):
            try:
                member = _Member(process, self._ledger)
            except (OSError, JournalError):
                continue
            self._members[process] = member
            # Only what it consumes from now on counts as the group's.
            start_ns = member.cpu_ns()
            self._past_ns -= start_ns
            self._seen_ns[process] = start_ns
            if self._paused:
                with contextlib.suppress(OSError):
                    member.stop()

    def read(self, *, observe: bool = True) -> Reading:
        """See host.port.Group. CPU time counts from each member's joining."""
        cpu_ns = self.cpu_ns()
        return self._with_waiting(cpu_ns) if observe else Reading(cpu_ns)

    def cpu_ns(self) -> int:
        """See host.port.Group."""
        total_ns = self._past_ns
        gone: list[ProcessId] = []
        for process, member in self._members.items():
            try:
                cpu_ns = member.cpu_ns()
            except OSError:
                gone.append(process)
                total_ns += self._seen_ns[process]
                continue
            self._seen_ns[process] = cpu_ns
            total_ns += cpu_ns
        for process in gone:
            self._drop(process)
        if not self._members and not self._keep_empty:
            raise GroupGoneError("all its processes have ended")
        return total_ns

    def _with_waiting(self, cpu_ns: int) -> Reading:
        try:
            if len(self._members) == 1:
                (only,) = self._members.values()
                wait_ns = only.wait_ns()
                if wait_ns is not None:
                    return Reading(cpu_ns, wait_ns)
            blocked = all(member.state() in _BLOCKED_STATES for member in self._members.values())
        except OSError:
            return Reading(cpu_ns, None, blocked=True)
        return Reading(cpu_ns, None, blocked)

    def pause(self) -> None:
        """See host.port.Group."""
        if self._paused:
            return
        stopped, foreign = 0, 0
        for process, member in list(self._members.items()):
            try:
                member.stop()
                stopped += member.paused
                foreign += not member.paused
            except ProcessLookupError:
                self._drop(process)
            except OSError as error:
                self._paused = True
                self.resume()
                raise MechanismError(
                    f"process {process.pid} cannot be stopped: {error.strerror}",
                    hint="run the agent as its user or as root",
                ) from None
        if foreign and not stopped:
            raise ForeignStopError("all its processes were stopped by somebody else", hint="they are left stopped")
        self._paused = True
        if not self._members and not self._keep_empty:
            raise GroupGoneError("all its processes have ended")

    def resume(self) -> None:
        """See host.port.Group."""
        self._paused = False
        refusal: OSError | None = None
        for process, member in list(self._members.items()):
            try:
                member.cont()
            except ProcessLookupError:
                self._drop(process)
            except OSError as error:
                refusal = error
        if refusal is not None:
            raise MechanismError(f"a process cannot be resumed: {refusal.strerror}", hint="run utilctl thaw --all")

    def close(self) -> None:
        """See host.port.Group."""
        with contextlib.suppress(MechanismError):
            self.resume()
        for process in list(self._members):
            self._drop(process)

    def _drop(self, process: ProcessId) -> None:
        member = self._members.pop(process)
        with contextlib.suppress(OSError):
            member.cont()
        try:
            self._past_ns += member.cpu_ns()
        except OSError:
            self._past_ns += self._seen_ns[process]
        self._seen_ns.pop(process, None)
        member.close()
