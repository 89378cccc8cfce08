"""A timer that wakes the guard unless the loop puts it off again and again (timerfd_create(2)).

Whoever starts the guard makes it; guard and loop inherit it. So a guard whose loop is alive sleeps, where one that
looks at the heartbeat by itself would wake several times a second on every host, for ever. The guard reads the
descriptor and needs nothing from here.
"""

from __future__ import annotations

import ctypes
import os
import struct
import time

_TFD_CLOEXEC = os.O_CLOEXEC
_TFD_NONBLOCK = os.O_NONBLOCK
_SPEC = struct.Struct("@llll")  # struct itimerspec: interval, then time until it expires, each in s and ns


class Alarm:
    """One timer, shared by all processes that hold its descriptor; readable once it has expired."""

    def __init__(self, fd: int | None = None, *, clock: int = time.CLOCK_MONOTONIC) -> None:
        """Use the timer behind ``fd``, or make one that runs by ``clock``. Raises OSError if the kernel makes none."""
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._fd = fd if fd is not None else int(self._libc.timerfd_create(clock, _TFD_CLOEXEC | _TFD_NONBLOCK))
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), "timerfd_create")

    def fileno(self) -> int:
        """The timer's descriptor."""
        return self._fd

    def put_off(self, wait_ns: int) -> None:
        """Let it expire ``wait_ns`` from now and not before."""
        spec = _SPEC.pack(0, 0, wait_ns // 1_000_000_000, wait_ns % 1_000_000_000)
        self._libc.timerfd_settime(self._fd, 0, spec, None)

    def close(self) -> None:
        """Release the descriptor. Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
