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
    """Implements host.port.Pressure. Where the kernel keeps no PSI, nothing is known, so every host is contended."""

    def __init__(self, path: str = "/proc/pressure/cpu") -> None:
        self._fd = -1
        self._waited_ns = 0
        self._read_ns: int | None = None
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            self._total_ns()
        except (OSError, ValueError):  # a kernel without PSI, or one booted with psi=0
            self.close()

    def contended(self, now_ns: int) -> bool:
        """See host.port.Pressure."""
        if self._fd < 0:
            return True
        try:
            waited_ns = self._total_ns()
        except OSError:
            return True
        last_ns, last_waited_ns = self._read_ns, self._waited_ns
        self._read_ns, self._waited_ns = now_ns, waited_ns
        return last_ns is None or waited_ns - last_waited_ns > QUIET * (now_ns - last_ns)

    def _total_ns(self) -> int:
        content = os.pread(self._fd, 128, 0)  # "some avg10=N avg60=N avg300=N total=N\n..."
        end = content.index(b"\n")
        return int(content[content.rindex(b"=", 0, end) + 1 : end]) * NS_PER_US

    def close(self) -> None:
        """Release the descriptor. Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
