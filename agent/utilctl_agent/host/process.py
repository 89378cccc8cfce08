"""One process, stopped by SIGSTOP and resumed by SIGCONT through a pidfd.

The kernel keeps one flag for all who stop a process, and SIGCONT clears it whoever sent SIGSTOP. So a process that is
stopped already is not stopped again, and not resumed by us. Who is stopped while we hold it is told apart only if it is
seen before our next SIGCONT: the second SIGSTOP stays pending (``check``). A tracer's hold is separate: SIGCONT does
not end it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import time
from typing import Final

from utilctl_agent.host.descriptors import keep
from utilctl_agent.host.port import (
    SETTLE_NS,
    ForeignResumeError,
    ForeignStopError,
    Ledger,
    PendingPauseError,
    UnfinishedPauseError,
)
from utilctl_agent.host.procstat import (
    STATUS_BYTES,
    ProcessId,
    has_ended,
    parse_handed_up_ns,
    parse_stat,
    parse_status,
    thread_states,
)
from utilctl_agent.host.waiting import WaitCounter, parse_schedstat
from utilctl_agent.safety.journal import JournalError

SAMPLED_THREADS: Final = 8
"""Threads that are looked at where the main thread says nothing about the process. Arbitrary: 3 us each."""

_STOPPED_STATES: Final = {b"T", b"t"}
_ENDED_STATES: Final = {b"Z", b"X", b"x"}
_TELLING_STATES: Final = (b"T", b"t", b"R", b"S", b"D", b"I")
"""Of several threads the first of these is taken as the state of the process: a signal stops all or nobody."""
_SIGSTOP_BIT: Final = 1 << (signal.SIGSTOP - 1)


class ControlledProcess:
    """A process with everything open that it takes to read, stop and resume it."""

    def __init__(self, process: ProcessId, ledger: Ledger) -> None:
        self.process = process
        self._ledger = ledger
        self._slot: int | None = None
        self.paused = False
        self._since_ns = 0
        self._waiting: WaitCounter | None = None
        self._waited_ns = 0
        self.pidfd = keep(os.pidfd_open(process.pid))
        self._stat = self._status = self._schedstat = self._children = -1
        try:
            self._status = keep(os.open(f"/proc/{process.pid}/status", os.O_RDONLY | os.O_CLOEXEC))
            state, start_ticks, self.threads, _ = parse_stat(self._read_stat())
            self._close_stat()
            # The pidfd and /proc/PID may name different processes; the start time settles it.
            if start_ticks != process.start_ticks or has_ended(state, self.threads):
                raise ProcessLookupError(errno.ESRCH, "process ended")
            self._slot = ledger.enter_process(process.pid, process.start_ticks)
        except (OSError, JournalError):
            self.close()
            raise
        self._clock = (~process.pid << 3) | 2

    def cpu_ns(self) -> int:
        """CPU time of all threads. Raises OSError once the process has ended."""
        return time.clock_gettime_ns(self._clock)

    def glance(self) -> tuple[bytes, int]:
        """State letter of the main thread, and ``handed_up_ns``, at one go. Raises OSError once it is gone."""
        content = self._read_stat()
        letter, _, self.threads, _ = parse_stat(content)
        return letter, parse_handed_up_ns(content)

    def has_children(self) -> bool:
        """Whether its main thread has any. Raises OSError once it is gone."""
        if self._children < 0:
            pid = self.process.pid
            self._children = keep(os.open(f"/proc/{pid}/task/{pid}/children", os.O_RDONLY | os.O_CLOEXEC))
        return bool(os.pread(self._children, 16, 0))

    def handed_up_ns(self) -> int:
        """CPU time of descendants that were waited for, by clock ticks. Raises OSError once it has ended, too."""
        return parse_handed_up_ns(self._read_stat())

    def _read_stat(self) -> bytes:
        """Kept open: those who ask for what was handed up do so at every look."""
        if self._stat < 0:
            self._stat = keep(os.open(f"/proc/{self.process.pid}/stat", os.O_RDONLY | os.O_CLOEXEC))
            os.pread(self._status, 1, 0)  # it has not ended, so what was opened by pid is its own
        return os.pread(self._stat, 1024, 0)

    def _close_stat(self) -> None:
        os.close(self._stat)
        self._stat = -1

    def wait_ns(self, letter: bytes | None = None) -> int | None:
        """Time the only thread was ready and not running, up to now; None if it cannot be told. Raises OSError.

        letter: its state, if it was looked at just now.
        """
        if self.threads != 1:
            return None
        if self._schedstat < 0:  # opened when first asked for: groups of many never ask, and descriptors are few
            with contextlib.suppress(OSError):
                self._schedstat = os.open(f"/proc/{self.process.pid}/schedstat", os.O_RDONLY | os.O_CLOEXEC)
            if self._schedstat < 0:
                return None
        self._look(ready=(letter or self.state()) == b"R")
        return self._waited_ns

    def _look(self, *, ready: bool) -> None:
        counters, now_ns = parse_schedstat(os.pread(self._schedstat, 96, 0)), time.monotonic_ns()
        if self._waiting is None:
            self._waiting = WaitCounter(counters, now_ns)
        self._waited_ns += self._waiting.waited_ns(counters, now_ns, ready=ready)

    def state(self) -> bytes:
        """State letter of the main thread, or, once that has exited, of those that live on; updates ``threads``.

        Raises OSError once the process has ended.
        """
        letter, self.threads = parse_status(os.pread(self._status, STATUS_BYTES, 0))
        if letter == b"Z" and self.threads > 1:
            states = thread_states(self.process.pid, SAMPLED_THREADS)
            return next((other for other in _TELLING_STATES if other in states), letter)
        return letter

    def stop(self) -> None:
        """SIGSTOP, unless somebody else stopped it before: then it is not ours to resume."""
        if self.paused or self._slot is None or self.state() in _STOPPED_STATES:
            return
        self._since_ns = time.monotonic_ns()
        self._ledger.begin(self._slot, self._since_ns)
        try:
            signal.pidfd_send_signal(self.pidfd, signal.SIGSTOP)
        except OSError:
            self._ledger.end(self._slot)
            raise
        self.paused = True

    def cont(self) -> None:
        """SIGCONT, if we stopped it. Raises ProcessLookupError if it has ended; after another error it is stopped."""
        if not self.paused:
            return
        try:
            signal.pidfd_send_signal(self.pidfd, signal.SIGCONT)
        except ProcessLookupError as error:
            if not self.ended():
                raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN)) from error
            self._forget_pause()
            raise
        self._forget_pause()
        if self._waiting is not None:
            # That it was stopped is no waiting, and on its way to a stop it had a CPU: a look now keeps both out.
            with contextlib.suppress(OSError):
                self._look(ready=False)

    def ended(self) -> bool:
        """Whether it is known to have ended."""
        try:
            self.state()
        except ProcessLookupError:
            return True
        except OSError:
            return False
        return False

    def check(self) -> None:
        """Raise if a stop of ours is not as we left it; see host.port.Group.check. OSError once it has ended."""
        if not self.paused:
            return
        pid = self.process.pid
        # In this order: once it is seen stopped, what is pending is not the SIGSTOP that has stopped it.
        states = thread_states(pid, SAMPLED_THREADS) - _ENDED_STATES
        pending = _stop_pending(pid)
        self.state()  # what was read by pid is that of this process: it has not ended
        if not states:
            return
        if states <= _STOPPED_STATES:
            if pending:
                # A stopped process keeps a second SIGSTOP for later. Our SIGCONT would cancel it.
                self._forget_pause()
                raise ForeignStopError(f"process {pid} was stopped by somebody else", hint="it is left stopped")
            return
        young = time.monotonic_ns() - self._since_ns < SETTLE_NS
        if pending or young or not states.isdisjoint(_STOPPED_STATES):
            if b"R" in states:
                raise PendingPauseError(f"process {pid} has not got a CPU yet to stop on")
            raise UnfinishedPauseError(
                f"process {pid} does not stop: it cannot be interrupted", hint="look for state D in ps -L"
            )
        # Even so it may be about to stop: between taking the signal and stopping it can lose its CPU.
        self.cont()
        raise ForeignResumeError(
            f"process {pid} was resumed by somebody else", hint="only one program should send it SIGCONT"
        )

    def _forget_pause(self) -> None:
        self.paused = False
        if self._slot is not None:
            self._ledger.end(self._slot)

    def close(self) -> None:
        """Release the descriptors, and the slot unless a pause is still in force, for the guard to undo."""
        if self._slot is not None and not self.paused:
            self._ledger.leave(self._slot)
            self._slot = None
        for fd in (self.pidfd, self._stat, self._status, self._schedstat, self._children):
            if fd >= 0:
                os.close(fd)


def _stop_pending(pid: int) -> bool:
    """Whether a SIGSTOP waits to be delivered, by /proc/PID/status. Raises OSError once the process has ended."""
    fd = os.open(f"/proc/{pid}/status", os.O_RDONLY | os.O_CLOEXEC)
    try:
        status = os.read(fd, 4096)
    finally:
        os.close(fd)
    name = b"\nShdPnd:"
    mask = status[status.index(name) + len(name) :].split(None, 1)[0]
    return bool(int(mask, 16) & _SIGSTOP_BIT)
