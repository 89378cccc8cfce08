"""Groups that are lists of processes, paused by SIGSTOP and resumed by SIGCONT through pidfds.

Works without privilege for one's own processes. CPU time comes from each process's CPU clock (all its threads);
waiting time from /proc/PID/schedstat, which knows the main thread only, so it is offered for groups of one
single-threaded process and otherwise the instantaneous state is used (the paper's wait channel).
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Iterable
from itertools import cycle, islice
from typing import Final

from utilctl_agent.alps.model import Reading
from utilctl_agent.host.port import (
    ForeignResumeError,
    ForeignStopError,
    GroupGoneError,
    Ledger,
    MechanismError,
    UnfinishedPauseError,
)
from utilctl_agent.host.process import ControlledProcess
from utilctl_agent.host.procstat import ProcessId
from utilctl_agent.safety.journal import JournalError
from utilctl_common.errors import FailedError
from utilctl_common.quantities import NS_PER_S

MOST_AT_ONCE: Final = 128
"""Members taken in or let go in one call: some milliseconds of work. What is more waits for the next call, so that a
storm of forks does not keep the loop from its other principals.
"""

NEWBORN_TICKS: Final = os.sysconf("SC_CLK_TCK")
"""A process that joins within this time of its start, and started under our eyes, counts from its start: what it used
until we knew of it is its group's. A second, in clock ticks: far more than it takes to learn of a process.
"""

CHECKED_AT_ONCE: Final = 16
"""Members looked at in one check: half a millisecond. The next check goes on with those behind them."""

BLOCKED_STATES: Final = (b"S", b"D", b"I", b"T", b"t", b"Z", b"X")


class ProcessGroup:
    """A changing set of processes. Implements host.port.Group."""

    def __init__(self, processes: Iterable[ProcessId], ledger: Ledger, *, keep_empty: bool = False) -> None:
        """Open every process. Raises GroupGoneError if none of them is alive.

        keep_empty: an empty group is a group with nothing to do instead of one that is gone.
        """
        self._ledger = ledger
        self._members: dict[ProcessId, ControlledProcess] = {}
        self._past_ns = 0  # CPU time of members that left, so that the total never steps back
        self._paused = False
        self._keep_empty = keep_empty
        self._check_at = 0
        self._seen_ns: dict[ProcessId, int] = {}
        self._joining: dict[ProcessId, None] = {}  # in their order
        self._leaving: dict[ProcessId, None] = {}
        self._refused: dict[ProcessId, None] = {}
        self._since_ticks = _now_ticks()
        self.tells_state = False
        """Whether readings have the state beside the waiting time, where that is known: for a core that needs both."""
        self.refusal = ""
        """Why some process that should be a member is not, although it lives; empty if there is none."""
        self.update(processes)
        if self._ended():
            raise GroupGoneError("none of the processes is alive")

    @property
    def mechanism(self) -> str:
        """See host.port.Group."""
        return "signal"

    @property
    def processes(self) -> frozenset[ProcessId]:
        """The members that were alive when last looked at."""
        return frozenset(self._members)

    @property
    def behind(self) -> bool:
        """Whether members wait to be taken in or let go: then ``catch_up`` should be called soon."""
        return bool(self._joining or self._leaving)

    def update(self, processes: Iterable[ProcessId]) -> None:
        """Make the group consist of ``processes``: leavers are resumed, joiners are paused if the group is.

        What is more than MOST_AT_ONCE is left to ``catch_up``.
        """
        wanted = frozenset(processes)
        self._joining = {p: None for p in self._joining if p in wanted}
        self._leaving = {p: None for p in self._leaving if p not in wanted}
        self._refused.clear()
        self.refusal = ""
        self.amend(
            sorted(wanted - self._members.keys(), key=lambda p: p.pid), [p for p in self._members if p not in wanted]
        )

    def amend(self, joined: Iterable[ProcessId], left: Iterable[ProcessId]) -> None:
        """Let processes join and leave, as ``update`` does. Either may be said twice, or of the wrong process."""
        for process in left:
            self._joining.pop(process, None)
            self._refused.pop(process, None)
            if process in self._members:
                self._leaving[process] = None
        for process in joined:
            self._leaving.pop(process, None)
            if process not in self._members:
                self._joining[process] = None
        self.catch_up()

    def catch_up(self) -> bool:
        """Take in and let go at most MOST_AT_ONCE of those that wait; True if more do."""
        leaving = list(islice(self._leaving, MOST_AT_ONCE))
        for process in leaving:
            del self._leaving[process]
            if process in self._members:
                self._drop(process)
        for process in list(islice(self._joining, MOST_AT_ONCE - len(leaving))):
            del self._joining[process]
            self._join(process)
        return self.behind

    def retry(self) -> bool:
        """Let some of those join who were refused, if there is room by now; True as ``catch_up``."""
        for process in list(islice(self._refused, MOST_AT_ONCE)):
            del self._refused[process]
            self._joining[process] = None
        behind = self.catch_up()
        if not self._refused:
            self.refusal = ""
        return behind

    def _join(self, process: ProcessId) -> None:
        try:
            member = ControlledProcess(process, self._ledger)
        except ProcessLookupError:
            return  # it has ended
        except JournalError as error:
            self._refuse(process, str(error))
            return
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.EINVAL):
                self._refuse(process, f"process {process.pid} cannot be watched: {error.strerror}")
            return
        start_ns = 0
        if not self._counts_from_birth(process):
            try:
                # Only what it consumes from now on counts as the group's.
                start_ns = member.cpu_ns()
            except OSError:
                member.close()
                return
        self._members[process] = member
        self._past_ns -= start_ns
        self._seen_ns[process] = start_ns
        if self._paused:
            with contextlib.suppress(OSError):
                member.stop()

    def _counts_from_birth(self, process: ProcessId) -> bool:
        """Whether what it has used before it joined is the group's."""
        return self._since_ticks <= process.start_ticks >= _now_ticks() - NEWBORN_TICKS

    def _refuse(self, process: ProcessId, why: str) -> None:
        self._refused[process] = None
        self.refusal = why

    def _ended(self) -> bool:
        return not self._members and not self._joining and not self._keep_empty

    def read(self, *, observe: bool = True) -> Reading:
        """See host.port.Group. CPU time counts from each member's joining, or birth if that was just before."""
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
        if self._ended():
            raise GroupGoneError("all its processes have ended")
        return total_ns

    def _with_waiting(self, cpu_ns: int) -> Reading:
        try:
            if len(self._members) == 1:
                (only,) = self._members.values()
                wait_ns = only.wait_ns()
                if wait_ns is not None:
                    blocked = only.state() in BLOCKED_STATES if self.tells_state else None
                    return Reading(cpu_ns, wait_ns, blocked)
            blocked = all(member.state() in BLOCKED_STATES for member in self._members.values())
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
        if self._ended():
            raise GroupGoneError("all its processes have ended")

    def check(self) -> None:
        """See host.port.Group. Looks at CHECKED_AT_ONCE members, the next time at the next ones."""
        if not self._paused:
            return
        members = list(self._members.items())
        first = self._check_at % len(members) if members else 0
        self._check_at = first + CHECKED_AT_ONCE
        found: FailedError | None = None
        for process, member in islice(cycle(members), first, first + min(CHECKED_AT_ONCE, len(members))):
            try:
                member.check()
            except OSError:
                self._drop(process)
            except (ForeignStopError, UnfinishedPauseError) as error:
                found = found or error
            except ForeignResumeError as error:
                found = error
        if found is not None:
            raise found

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
        self._joining.clear()
        self._leaving.clear()
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


def _now_ticks() -> int:
    """Now, as start times of processes are told: clock ticks since boot."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK") // NS_PER_S
