"""Failing system calls: the n-th call that the code under test makes raises an error of one's choice."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final
from unittest import mock

ERRORS: Final = (errno.EPERM, errno.ENOENT, errno.EBUSY, errno.ESRCH, errno.ENODEV, errno.EIO)

_CALLS: Final = (
    (os, "open"),
    (os, "pread"),
    (os, "pwrite"),
    (os, "read"),
    (os, "pidfd_open"),
    (os, "scandir"),
    (signal, "pidfd_send_signal"),
    (time, "clock_gettime_ns"),
)
"""What the mechanism adapters ask of the kernel. Closing is left out: it always frees the descriptor."""


@dataclass
class FaultPlan:
    """Which call fails, counted from 0 while the plan is in force, and how; ``at`` -1: none, only count.

    lasting: all calls of the same name fail from then on.
    """

    at: int
    error: int
    lasting: bool = False
    calls: list[str] = field(default_factory=list)
    failed: str | None = None
    _off: bool = False

    @contextlib.contextmanager
    def suspended(self) -> Iterator[None]:
        """Calls made inside are those of the test itself: neither counted nor failed."""
        self._off = True
        try:
            yield
        finally:
            self._off = False

    def _before(self, name: str) -> None:
        if self._off:
            return
        self.calls.append(name)
        if len(self.calls) - 1 == self.at or (self.lasting and name == self.failed):
            self.failed = name
            # OSError picks the subclass that fits the number, as the real call does.
            raise OSError(self.error, os.strerror(self.error))

    @contextlib.contextmanager
    def in_force(self) -> Iterator[FaultPlan]:
        """Calls made inside are counted, and fail as planned."""
        with contextlib.ExitStack() as stack:
            for module, name in _CALLS:
                stack.enter_context(mock.patch.object(module, name, self._failing(name, getattr(module, name))))
            yield self

    def _failing(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if name != "clock_gettime_ns" or args[0] < 0:  # CPU clocks of processes; the others never fail
                self._before(name)
            return real(*args, **kwargs)

        return call
