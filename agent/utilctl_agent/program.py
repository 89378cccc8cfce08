"""A program that the sandbox runs: started directly, or below a reaper that adopts its orphans (``host.reaper``)."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Final

from utilctl_agent.host import reaper
from utilctl_agent.host.procstat import ProcessId, identify
from utilctl_agent.host.spawning import uninterrupted
from utilctl_common.errors import FailedError, UsageError

END_GRACE_S: Final = 2.0
"""How long a program has to end by itself before it is killed."""
START_S: Final = 20.0
KILLED: Final = -int(signal.SIGKILL)


class Program:
    """Runs from ``go`` to ``end``. Made in the main thread."""

    def __init__(self, command: Sequence[str], *, adopt: bool, enter: Callable[[], None] | None = None) -> None:
        """adopt: have a reaper; without one it runs at once. enter: called in the first process before all else.

        Raises UsageError if there is no such program, FailedError.
        """
        self.reaper: ProcessId | None = None
        """Who adopts its orphans, if anybody does."""
        self._status: int | None = None
        self._cpu_ns: int | None = None
        self._told = self._go = -1
        self._name = command[0]
        self._text = b""
        self._process = self._spawn(list(command), adopt=adopt, enter=enter)
        self._ended = os.pidfd_open(self._process.pid)
        self.pid = self._process.pid
        if not adopt:
            return
        self.reaper = identify(self._process.pid)
        try:
            self.pid = int(self._line()[1])
        except BaseException:
            self._process.kill()
            self._process.wait()
            self.close()
            raise

    def _spawn(self, command: list[str], *, adopt: bool, enter: Callable[[], None] | None) -> subprocess.Popen[bytes]:
        argv = command
        inherited: tuple[int, ...] = ()
        if adopt:
            self._told, tell = os.pipe2(os.O_CLOEXEC)
            go, self._go = os.pipe2(os.O_CLOEXEC)
            argv = [sys.executable, "-I", "-S", reaper.__file__, str(tell), str(go), *command]
            inherited = (tell, go)
        try:
            with uninterrupted() as let_through:

                def prepare() -> None:
                    if enter is not None:
                        enter()
                    let_through()

                return subprocess.Popen(argv, preexec_fn=prepare, pass_fds=inherited)  # noqa: PLW1509 - no threads yet
        except FileNotFoundError:
            raise _missing(command[0]) from None
        except OSError as error:
            raise UsageError(f"{command[0]!r} cannot be started: {error.strerror}") from None
        except subprocess.SubprocessError:
            raise FailedError(f"{command[0]!r} cannot be put into its cgroup", hint="use --mode signal") from None
        finally:
            for fd in inherited:
                os.close(fd)

    def go(self) -> None:
        """Let it begin, once it is under control. Raises UsageError if there is no such program, FailedError."""
        if self._go < 0:
            return
        with contextlib.suppress(BrokenPipeError):
            os.write(self._go, b"g")
        os.close(self._go)
        self._go = -1
        word, *number = self._line()
        if word == b"runs":
            return
        if int(number[0]) == errno.ENOENT:
            raise _missing(self._name)
        raise UsageError(f"{self._name!r} cannot be started: {os.strerror(int(number[0]))}")

    def _line(self) -> list[bytes]:
        """The next line that the reaper says. Raises FailedError if it says nothing."""
        deadline = time.monotonic() + START_S
        while b"\n" not in self._text:
            readable, _, _ = select.select([self._told], [], [], max(0.0, deadline - time.monotonic()))
            more = os.read(self._told, 256) if readable else b""
            if not more:
                raise FailedError("the program could not be started", hint="is Python's library readable?")
            self._text += more
        line, _, self._text = self._text.partition(b"\n")
        return line.split()

    def _last_line(self) -> list[bytes]:
        line = self._line()
        while line[0] != b"ended":
            line = self._line()
        return line

    @property
    def cpu_ns(self) -> int | None:
        """CPU time of the program and of all below it that were waited for, exactly; None unless it has ended below a
        reaper."""
        return self._cpu_ns

    def wait(self, timeout_s: float | None = None) -> int | None:
        """The exit status (negative: minus the signal), or None if it still runs after ``timeout_s``."""
        if self._status is not None:
            return self._status
        readable, _, _ = select.select(
            [self._ended], [], [], timeout_s
        )  # to wait for a child with a timeout is to poll
        if not readable:
            return None
        status = self._process.wait()
        if self._told >= 0:
            try:
                _, told, cpu_ns = self._last_line()
            except (FailedError, ValueError):
                status = KILLED  # the reaper was, and how the program ends nobody knows
            else:
                status, self._cpu_ns = os.waitstatus_to_exitcode(int(told)), int(cpu_ns)
        self._status = status
        return status

    def end(self) -> None:
        """End it if it still runs, or keep it from beginning. Idempotent."""
        if self._go >= 0:
            os.close(self._go)
            self._go = -1
        if self.wait(0) is not None:
            return
        pidfd = self._open()
        if pidfd < 0:  # it ends just now
            self.wait(END_GRACE_S)
            return
        try:
            signal.pidfd_send_signal(pidfd, signal.SIGTERM)
            if self.wait(END_GRACE_S) is None:
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        except ProcessLookupError:
            pass
        finally:
            os.close(pidfd)
        if self.wait(END_GRACE_S) is None:
            self._process.kill()
            self._process.wait()

    def _open(self) -> int:
        """A pidfd of the program; below a reaper the pid is its own until that has told of its end."""
        with contextlib.suppress(OSError):
            return os.pidfd_open(self.pid)
        return -1

    def close(self) -> None:
        """Release descriptors. Idempotent."""
        for fd in (self._told, self._go, self._ended):
            if fd >= 0:
                os.close(fd)
        self._told = self._go = self._ended = -1


def _missing(name: str) -> UsageError:
    return UsageError(f"there is no program {name!r}", hint="give its path, or check PATH")
