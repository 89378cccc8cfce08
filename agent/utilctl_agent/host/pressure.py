"""Whether anybody on this host waits for a CPU, at the price of one small read (PSI, /proc/pressure/cpu).

See Documentation/accounting/psi.rst. The ``some`` line grows with the time in which at least one task waited.
"""

from __future__ import annotations

import os
from typing import Final

from utilctl_common.quantities import NS_PER_US

QUIET: Final = 0.05
"""Part of the time in which somebody may wait for a CPU on a quiet host: short tasks get into each other's way."""


class HostPressure:
    """Implements host.port.Pressure. Not available (``available`` is False) where the kernel keeps no PSI."""

    def __init__(self, path: str = "/proc/pressure/cpu") -> None:
        self._fd = -1
        self._waited_ns = 0
        self._read_ns = 0
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            self._waited_ns = self._total_ns()
        except (OSError, ValueError):  # a kernel without PSI, or one booted with psi=0
            self.close()

    @property
    def available(self) -> bool:
        """Whether there is anything to read."""
        return self._fd >= 0

    def contended(self, now_ns: int) -> bool:
        """See host.port.Pressure."""
        if self._fd < 0:
            return True
        waited_ns = self._total_ns()
        elapsed_ns = now_ns - self._read_ns
        quiet = waited_ns - self._waited_ns <= QUIET * elapsed_ns
        self._waited_ns, self._read_ns = waited_ns, now_ns
        return not quiet

    def _total_ns(self) -> int:
        content = os.pread(self._fd, 128, 0)  # "some avg10=N avg60=N avg300=N total=N\n..."
        end = content.index(b"\n")
        return int(content[content.rindex(b"=", 0, end) + 1 : end]) * NS_PER_US

    def close(self) -> None:
        """Release the descriptor. Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
