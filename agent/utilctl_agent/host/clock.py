"""The real clocks, and how long a thread can be made to sleep precisely."""

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


def boottime_ns() -> int:
    """CLOCK_BOOTTIME: monotonic time that goes on while the host is suspended, for what others count as well."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def sharpen_timers() -> None:
    """Ask the kernel not to coalesce this thread's timers (prctl PR_SET_TIMERSLACK 1 ns; the default is 50 us)."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_TIMERSLACK, 1, 0, 0, 0)
