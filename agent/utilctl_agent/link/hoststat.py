"""How busy this host's CPUs are, from /proc/stat: what SEEs do not use of it is unclaimed."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

_IDLE, _IOWAIT, _STEAL = 3, 4, 7


@dataclass(frozen=True, slots=True)
class CpuTimes:
    """Clock ticks since boot, summed over the CPUs asked for: all of them, and those spent on work."""

    total_ticks: int
    busy_ticks: int


def read_cpu_times(cpus: Collection[int], path: Path = Path("/proc/stat")) -> CpuTimes:
    """Sum the lines ``cpuN`` of ``cpus``. Time stolen by a hypervisor counts as busy: nobody here can use it."""
    wanted = {f"cpu{cpu}" for cpu in cpus}
    total = busy = 0
    for line in path.read_text().splitlines():
        name, *fields = line.split()
        if name in wanted:
            ticks = [int(field) for field in fields[:8]]
            total += sum(ticks)
            busy += sum(ticks) - ticks[_IDLE] - ticks[_IOWAIT]
    return CpuTimes(total, busy)


def busy_cores(before: CpuTimes, after: CpuTimes, cpus: int) -> float:
    """Average number of busy CPUs between two readings."""
    total = after.total_ticks - before.total_ticks
    return cpus * (after.busy_ticks - before.busy_ticks) / total if total > 0 else 0.0
