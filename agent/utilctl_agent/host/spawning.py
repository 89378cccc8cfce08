"""Starting processes so that an interruption can neither lose them nor be lost itself."""

from __future__ import annotations

import contextlib
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
