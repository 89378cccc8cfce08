"""A guard with its scheduler loop, started by a program that runs workloads of its own, and how to talk to the loop."""

from __future__ import annotations

import contextlib
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Final

from utilctl_agent.channel import Channel, Message
from utilctl_agent.host.alarm import Alarm
from utilctl_agent.host.procstat import ProcessId
from utilctl_agent.orders import LoopSettings
from utilctl_agent.safety.deputy import Deputy
from utilctl_agent.safety.journal import Journal, JournalError, journal_path
from utilctl_agent.safety.thaw import default_run_dir, ensure_run_dir, open_process
from utilctl_common.errors import FailedError

START_TIMEOUT_S: Final = 20.0


class GuardedLoop:
    """Starts the guard when it is made. ``stack`` ends it; ``deputy`` outlives it, and is to be closed last."""

    def __init__(
        self, journal_name: str, max_pause_ns: int, stack: contextlib.ExitStack, deputy: contextlib.ExitStack
    ) -> None:
        """Raises FailedError."""
        self._journal_name = journal_name
        self._deputy = deputy
        self.run_dir = default_run_dir()
        ours, theirs = socket.socketpair()
        stack.callback(ours.close)
        try:
            ensure_run_dir(self.run_dir)
        except OSError as error:
            raise FailedError(f"{self.run_dir} cannot be used: {error.strerror or error}") from None
        try:
            self._alarm = Alarm()
        except OSError as error:
            raise FailedError(f"the guard's timer cannot be made: {error}") from None
        deputy.callback(self._alarm.close)
        fds = (theirs.fileno(), self._alarm.fileno())
        arguments = [self.run_dir, journal_name, *map(str, fds), str(max_pause_ns)]
        self.guard = subprocess.Popen(
            [sys.executable, "-m", "utilctl_agent.safety.guard", *arguments],
            pass_fds=fds,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        theirs.close()
        stack.callback(_stop_guard, self.guard)
        self.channel = Channel(ours)

    def configure(self, settings: LoopSettings) -> ProcessId:
        """Tell the loop its settings, and have a deputy for the guard before anybody can be paused; returns the loop.

        There may be no forks after this but those of workloads. Raises FailedError.
        """
        self.channel.send({"op": "settings", "settings": settings.to_json()})
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            for message in messages(self.channel, 0.5):
                if message["op"] == "ready":
                    loop = ProcessId(int(message["pid"]), int(message["start_ticks"]))
                    self._appoint(loop)
                    return loop
        raise FailedError("the scheduler loop did not start in time")

    def _appoint(self, loop: ProcessId) -> None:
        try:
            journal = Journal.open(journal_path(self.run_dir, self._journal_name, self.guard.pid))
            self._deputy.callback(journal.close)
            loop_fd = open_process(loop.pid, loop.start_ticks)
        except (OSError, JournalError) as error:
            raise FailedError(f"the scheduler loop ended as it started: {error}") from None
        self._deputy.callback(Deputy(journal, self._alarm.fileno(), loop_fd).close)


def messages(channel: Channel, wait_s: float | None, others: Sequence[int] = ()) -> list[Message]:
    """What the loop says within ``wait_s``, or until one of ``others`` is readable. Raises ChannelClosedError."""
    channel.flush()
    readable, _, _ = select.select([channel.fileno(), *others], [], [], wait_s)
    return channel.receive() if channel.fileno() in readable else []


def cpu_ns(pid: int) -> int:
    """CPU time of a process, all its threads; 0 if it is gone."""
    try:
        return time.clock_gettime_ns((~pid << 3) | 2)
    except OSError:
        return 0


def _stop_guard(guard: subprocess.Popen[bytes]) -> None:
    if guard.poll() is None:
        guard.send_signal(signal.SIGTERM)
        guard.send_signal(signal.SIGCONT)  # somebody may have stopped it
        try:
            guard.wait(timeout=5)
        except subprocess.TimeoutExpired:
            guard.kill()
            guard.wait()
