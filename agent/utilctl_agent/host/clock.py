"""The real clock, and how long a thread can be made to sleep precisely."""

from __future__ import annotations

import ctypes
import time
from typing import Final

_PR_SET_TIMERSLACK: Final = 29


class MonotonicClock:
    """CLOCK_MONOTONIC. Implements host.port.Clock."""

    def now_ns(self) -> int:
        """See host.port.Clock."""
        return time.monotonic_ns()


def sharpen_timers() -> None:
    """Ask the kernel not to coalesce this thread's timers (prctl PR_SET_TIMERSLACK 1 ns; the default is 50 us)."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_TIMERSLACK, 1, 0, 0, 0)
