"""The guard's deputy: a thread of the loop's other companion, for when the guard itself cannot act.

A guard that is stopped, or was killed together with the loop, undoes nothing. Then the link (of an agent) or the
command line (of ``utilctl alps``) is the last process that can. Its deputy sleeps until the loop ends or the guard's
alarm rings (module ``host.alarm``); it costs nothing as long as the loop lives. It does not ask whether the guard is
there: what both of them do is done once, since a resumed group is resumed, and a note is crossed out only if it still
stands for the pause that was undone.
"""

from __future__ import annotations

import os
import select
import signal
import threading
import time

from utilctl_agent.safety.journal import HANG_NS, Journal
from utilctl_agent.safety.thaw import STOP_GRACE_NS, ends_within, overrule, thaw_journal
from utilctl_agent.safety.urgency import promote


class Deputy:
    """Watches a loop from its start to ``close``.

    alarm_fd: the alarm that the loop puts off. loop_fd: a pidfd of the loop, taken over. ``journal`` must stay open
    until ``close`` has returned.
    """

    def __init__(self, journal: Journal, alarm_fd: int, loop_fd: int) -> None:
        self._journal = journal
        self._alarm_fd = alarm_fd
        self._loop_fd = loop_fd
        self._wake_read, self._wake_write = os.pipe2(os.O_CLOEXEC)
        self._epoll = select.epoll()
        self._epoll.register(self._wake_read, select.EPOLLIN)
        self._epoll.register(loop_fd, select.EPOLLIN)
        # Nobody reads the alarm, so that nobody takes it away from the guard; each time it rings is an edge.
        self._epoll.register(alarm_fd, select.EPOLLIN | select.EPOLLET)
        self._thread = threading.Thread(target=self._watch, name="deputy", daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        # Signals are for the main thread, whose waiting they interrupt.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        promote()
        wait_s = -1.0
        while True:
            ready = [fd for fd, _ in self._epoll.poll(wait_s)]
            if self._wake_read in ready:
                return
            if self._loop_fd in ready:
                thaw_journal(self._journal)
                return
            wait_s = -1.0
            if not self._journal.any_in_force():
                continue
            left_ns = self._journal.heartbeat_ns() + HANG_NS - time.monotonic_ns()
            if left_ns <= 0:
                overrule(self._journal, self._loop_fd)
            elif self._alarm_fd in ready:  # put off before the last heartbeat; else the loop lives and has put it off
                wait_s = left_ns / 1e9

    def close(self) -> None:
        """See the loop off, which must have been told to end: one that does not is killed. Nothing is paused then."""
        os.write(self._wake_write, b"x")
        self._thread.join()
        if not ends_within(self._loop_fd, STOP_GRACE_NS):
            overrule(self._journal, self._loop_fd)
        thaw_journal(self._journal)
        self._epoll.close()
        for fd in (self._wake_read, self._wake_write, self._loop_fd):
            os.close(fd)
