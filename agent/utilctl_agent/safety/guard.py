"""The guard: the parent of loop and link, which undoes every pause when they cannot.

Tiny on purpose: it imports next to nothing, allocates next to nothing and does nothing but wait. It thaws what the
journal names when the loop dies, when its heartbeat is older than HANG_NS while pauses are in force (stopped, stuck,
swapped out: an alarm tells, which a living loop puts off), and when a pause outlasts its bound; then it starts loop and
link afresh. It is started by
``utilctl-agent`` and by ``utilctl alps``, never by hand.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time

from utilctl_agent.safety.journal import HANG_NS, Journal, journal_path
from utilctl_agent.safety.thaw import STOP_GRACE_NS, Thawed, ensure_run_dir, overrule, thaw_journal, thaw_run_dir
from utilctl_agent.safety.urgency import promote

LEAST_CHECK_NS = 20_000_000
RESTART_FIRST_NS = 100_000_000
RESTART_LAST_NS = 5_000_000_000
STABLE_NS = 10_000_000_000
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class _Child:
    """A child process and the pidfd that tells of its end."""

    def __init__(self, module: str, arguments: list[str]) -> None:
        argv = [sys.executable, "-m", module, *arguments]
        self.pid = os.posix_spawn(sys.executable, argv, os.environ)
        self.pidfd = os.pidfd_open(self.pid)
        self.status: int | None = None

    def reap(self) -> bool:
        """True once it has ended."""
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.status = os.waitstatus_to_exitcode(status)
        return self.status is not None

    def kill(self, number: int) -> None:
        """Send a signal if it is still there."""
        try:
            signal.pidfd_send_signal(self.pidfd, number)
        except ProcessLookupError:
            return

    def close(self) -> None:
        """Wait for a child that was killed, and forget it."""
        if self.status is None:
            _, status = os.waitpid(self.pid, 0)
            self.status = os.waitstatus_to_exitcode(status)
        os.close(self.pidfd)


class Guard:
    """Runs children until told to stop.

    control_fd: the control socket that the loop inherits (``utilctl alps``), or -1: the guard makes a socket pair
    and starts a link on its other end with ``link_arguments``. alarm_fd: a timer that a living loop puts off (module
    ``host.alarm``). max_pause_ns: the bound that the loop keeps.
    """

    def __init__(
        self, journal: Journal, control_fd: int, alarm_fd: int, link_arguments: list[str], max_pause_ns: int
    ) -> None:
        self._journal = journal
        self._control_fd = control_fd
        self._link_arguments = link_arguments
        self._overdue_ns = max_pause_ns + HANG_NS
        self._alarm_fd = alarm_fd
        self._children: list[_Child] = []
        self._stop = False
        self._started_ns = 0
        # Children hold the reading end; it reports the guard's death however it comes about.
        self._alive_read, self._alive_write = os.pipe2(os.O_CLOEXEC)
        self._wake_read, wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        for number in STOP_SIGNALS:
            signal.signal(number, self._on_signal)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)

    def _on_signal(self, _number: int, _frame: object) -> None:
        self._stop = True

    def _told_to_stop(self) -> bool:
        return self._stop  # set by a signal at any time

    def run(self) -> int:
        """Returns the exit status: 0 after a stop, else the loop's."""
        backoff_ns = RESTART_FIRST_NS
        while True:
            self._start()
            status = self._watch()
            self._end_children()
            if self._told_to_stop():
                return 0
            if self._control_fd >= 0:
                return status
            if time.monotonic_ns() - self._started_ns > STABLE_NS:
                backoff_ns = RESTART_FIRST_NS
            self._say(f"loop or link ended with status {status}; everything is resumed; restarting")
            self._sleep(backoff_ns)
            if self._told_to_stop():
                return 0
            backoff_ns = min(2 * backoff_ns, RESTART_LAST_NS)

    def _start(self) -> None:
        self._started_ns = time.monotonic_ns()
        self._journal.beat(self._started_ns)
        loop_fd, link_fd = self._control_fd, -1
        if self._control_fd < 0:
            import socket  # the guard of `utilctl alps` does without

            ours, theirs = socket.socketpair()
            loop_fd, link_fd = ours.detach(), theirs.detach()
        shared = (self._alive_read, self._alarm_fd)
        for fd in shared:
            os.set_inheritable(fd, True)
        self._children = [self._start_child("utilctl_agent.loop", loop_fd, [])]
        if link_fd >= 0:
            self._children.append(self._start_child("utilctl_agent.link", link_fd, self._link_arguments))
        for fd in shared:
            os.set_inheritable(fd, False)

    def _start_child(self, module: str, fd: int, arguments: list[str]) -> _Child:
        """Start one on its end of the socket pair. Nobody else may hold that: its closing tells of the child's end."""
        os.set_inheritable(fd, True)
        try:
            fds = [str(fd), str(self._alive_read), str(self._alarm_fd)]
            return _Child(module, [*fds, self._journal.path, *arguments])
        finally:
            os.close(fd)

    def _watch(self) -> int:
        """Wait until a child ends, hangs, or we are told to stop; returns the status of the child that ended."""
        with select.epoll() as epoll:
            for fd in (self._wake_read, *(child.pidfd for child in self._children)):
                epoll.register(fd, select.EPOLLIN)
            # Nobody reads the alarm, so that nobody takes it away from the deputy; each time it rings is an edge.
            epoll.register(self._alarm_fd, select.EPOLLIN | select.EPOLLET)
            return self._watch_by(epoll)

    def _watch_by(self, epoll: select.epoll) -> int:
        wait_ns = self._overdue_ns
        while not self._stop:
            ready = [fd for fd, _ in epoll.poll(wait_ns / 1e9)]
            if ready:
                for child in self._children:
                    if child.reap():
                        return child.status or 0
            now_ns = time.monotonic_ns()
            oldest_ns = self._journal.oldest_ns()
            if oldest_ns is None:
                wait_ns = self._overdue_ns
                continue
            # No pause that is in force now, or begins later, is over its bound any earlier than this.
            wait_ns = oldest_ns + self._overdue_ns - now_ns
            hang_ns = self._journal.heartbeat_ns() + HANG_NS - now_ns
            if wait_ns <= 0 or hang_ns <= 0:
                self._say("the loop hangs; everything is resumed")
                self._report(overrule(self._journal, self._children[0].pidfd))
                return 1
            # It rings for a time that was set before the last heartbeat.
            if self._alarm_fd in ready and hang_ns < wait_ns:
                wait_ns = max(LEAST_CHECK_NS, hang_ns)
        return 0

    def _end_children(self) -> None:
        """Stop what still runs; at the end nothing is paused."""
        for child in self._children:
            if not child.reap():
                child.kill(signal.SIGTERM)
        deadline_ns = time.monotonic_ns() + STOP_GRACE_NS
        loop = self._children[0]
        while not loop.reap() and time.monotonic_ns() < deadline_ns:
            time.sleep(0.002)
        if loop.status is None:
            loop.kill(signal.SIGKILL)
            loop.close()
        self._report(thaw_journal(self._journal))
        for child in self._children[1:]:
            while not child.reap() and time.monotonic_ns() < deadline_ns + 20 * STOP_GRACE_NS:
                time.sleep(0.005)
            child.kill(signal.SIGKILL)
            child.close()
        self._children = []

    def _sleep(self, duration_ns: int) -> None:
        select.select([self._wake_read], [], [], duration_ns / 1e9)

    @staticmethod
    def _report(thawed: Thawed) -> None:
        for failure in thawed.failures:
            Guard._say(failure)

    @staticmethod
    def _say(text: str) -> None:
        os.write(2, f"utilctl-guard: {text}\n".encode())


def main(argv: list[str]) -> int:
    """``python -m utilctl_agent.safety.guard RUN_DIR NAME CONTROL_FD ALARM_FD MAX_PAUSE_NS [LINK ARGUMENT ...]``."""
    run_dir, name, control_fd, alarm_fd, max_pause_ns = ensure_run_dir(argv[0]), argv[1], *map(int, argv[2:5])
    # Until there is somebody to obey it, a stop waits: it must not leave a journal behind.
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    # What an earlier agent left paused when all its processes were killed at once is undone before anything else.
    for failure in thaw_run_dir(run_dir, only_orphans=True).failures:
        os.write(2, f"utilctl-guard: {failure}\n".encode())
    try:
        journal = Journal.create(journal_path(run_dir, name, os.getpid()))
    except OSError as error:
        why = f"no journal can be made in {run_dir}: {error.strerror}; nothing is paused without one; make room there"
        os.write(2, f"utilctl-guard: {why}\n".encode())
        return 1
    promote()
    try:
        return Guard(journal, control_fd, alarm_fd, argv[5:], max_pause_ns).run()
    finally:
        thawed = thaw_journal(journal)
        # With a failure the journal stays, for the next start and for `utilctl thaw --all`.
        journal.close(unlink=not thawed.failures)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
