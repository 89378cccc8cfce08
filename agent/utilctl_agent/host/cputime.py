"""CPU time of a cgroup, from whichever file has it.

``cpu.stat`` in version 2; ``cpuacct.usage`` in version 1, in the cgroup itself where ``cpu`` and ``cpuacct`` are
mounted as one, else in the cgroup of the same path of the cpuacct hierarchy. Without either, the processes' own clocks
are added up, which misses what a process used between the last look at it and its end.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import Final, Protocol

from utilctl_agent.host.hierarchies import CPUACCT_V1, counterpart
from utilctl_common.quantities import NS_PER_MS, NS_PER_US


class CpuTime(Protocol):
    """A running total."""

    def read_ns(self) -> int:
        """CPU time so far. Raises OSError once the cgroup is gone."""
        ...

    def close(self) -> None:
        """Release descriptors. Idempotent."""
        ...


def open_cpu_time(path: Path) -> CpuTime:
    """The best source for the cgroup at ``path``. Raises OSError if the cgroup is gone."""
    if (path / "cgroup.controllers").exists():  # version 2; there is a cpu.stat in version 1 that says something else
        return _UsageFile(path / "cpu.stat", 11, NS_PER_US)  # "usage_usec N"
    account = path if (path / "cpuacct.usage").exists() else counterpart(path, CPUACCT_V1)
    if account is not None:
        return _UsageFile(account / "cpuacct.usage", 0, 1)
    return _SumOfProcesses(path)


class _UsageFile:
    def __init__(self, path: Path, skip: int, unit_ns: int) -> None:
        self._skip = skip
        self._unit_ns = unit_ns
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def read_ns(self) -> int:
        content = os.pread(self._fd, 64, 0)
        return int(content[self._skip : content.index(b"\n")]) * self._unit_ns

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


MEMBERS_EVERY_NS: Final = 100 * NS_PER_MS
"""How often the list of processes is read again. Arbitrary: it costs more than all the clocks of a small group."""


class _SumOfProcesses:
    def __init__(self, path: Path) -> None:
        self._path = path / "cgroup.procs"
        self._seen_ns: dict[int, int] = {}
        self._total_ns = 0
        self._listed_ns = -MEMBERS_EVERY_NS
        self.read_ns()

    def read_ns(self) -> int:
        now_ns = time.monotonic_ns()
        if now_ns - self._listed_ns >= MEMBERS_EVERY_NS:
            self._listed_ns = now_ns
            pids = {int(pid) for pid in self._path.read_bytes().split()}
            for pid in self._seen_ns.keys() - pids:
                del self._seen_ns[pid]
            for pid in pids - self._seen_ns.keys():
                with contextlib.suppress(OSError):
                    self._seen_ns[pid] = _clock_ns(pid)  # counts from when it was first seen here
        for pid, seen_ns in list(self._seen_ns.items()):
            try:
                cpu_ns = _clock_ns(pid)
            except OSError:
                del self._seen_ns[pid]
                continue
            self._total_ns += max(0, cpu_ns - seen_ns)
            self._seen_ns[pid] = cpu_ns
        return self._total_ns

    def close(self) -> None:
        self._seen_ns.clear()


def _clock_ns(pid: int) -> int:
    return time.clock_gettime_ns((~pid << 3) | 2)  # the CPU clock of all threads of that process
