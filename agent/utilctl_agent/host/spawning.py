"""Starting processes so that an interruption can neither lose them nor be lost itself."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from typing import Final

INTERRUPTIONS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def uninterrupted() -> Iterator[Callable[[], None]]:
    """Hold interruptions back until the block, which starts a process and notes that it must be ended, is over.

    One that came right after the fork would leave the process behind; one during the fork would be swallowed, since
    Python runs its fork hooks then and drops what they raise. Yields what the child must call before it becomes the
    new program. For the main thread.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, INTERRUPTIONS)

    def let_through() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

    try:
        yield let_through
    finally:
        let_through()


@contextlib.contextmanager
def child_ends() -> Iterator[int]:
    """A descriptor that becomes readable when a child ends, and at other signals that Python handles; whoever was woken
    empties it with ``drained``. For the main thread."""
    read_fd, write_fd = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    handler = signal.signal(signal.SIGCHLD, lambda _number, _frame: None)  # without one the kernel tells nobody
    wakeup_fd = signal.set_wakeup_fd(write_fd, warn_on_full_buffer=False)
    try:
        yield read_fd
    finally:
        signal.set_wakeup_fd(wakeup_fd)
        signal.signal(signal.SIGCHLD, handler)
        os.close(read_fd)
        os.close(write_fd)


def drained(fd: int) -> bool:
    """Empty a descriptor of ``child_ends``; False if nothing had happened."""
    with contextlib.suppress(BlockingIOError):
        return bool(os.read(fd, 4096))
    return False
