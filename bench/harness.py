"""What the experiments share: the machine's description, runs of ``utilctl alps``, kernel shares as a baseline."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SPIN = f"exec {sys.executable} -S -c 'while True: pass'"
"""A compute-bound process."""
CPU_SHARES_PER_SHARE = 64
"""Kernel cpu.shares for one share; between the kernel's bounds of 2 and 262144 for shares up to 4096."""


def machine() -> dict[str, Any]:
    """What a reader needs to know to compare figures."""
    model = "unknown"
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), model)
    return {
        "kernel": platform.release(),
        "python": platform.python_version(),
        "cpus": sorted(os.sched_getaffinity(0)),
        "cpu_model": model,
        "ticks_per_s": os.sysconf("SC_CLK_TCK"),
        "root": os.geteuid() == 0,
    }


@dataclass(frozen=True, slots=True)
class Spread:
    """Median and range of repeated runs."""

    median: float
    low: float
    high: float

    def as_dict(self) -> dict[str, float]:
        """JSON form."""
        return {"median": self.median, "min": self.low, "max": self.high}


def spread(values: Sequence[float]) -> Spread:
    """Median, minimum and maximum. Raises statistics.StatisticsError for no values."""
    return Spread(statistics.median(values), min(values), max(values))


def alps(
    principals: Sequence[tuple[float, str]], *, algorithm: str, quantum_ms: float, cycles: int, cpus: str = "0"
) -> dict[str, Any]:
    """Run ``utilctl alps`` on shell commands and return its JSON result."""
    argv = [sys.executable, "-m", "utilctl_cli.main", "alps", "--algorithm", algorithm, "--cpus", cpus, "-o", "json"]
    argv += ["--quantum", f"{quantum_ms:g}ms", "--cycles", str(cycles)]
    for share, command in principals:
        argv += ["--run", f"{share:g}:{command}"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"utilctl alps failed: {done.stderr.strip()}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


@contextlib.contextmanager
def kernel_shares(shares: Sequence[float]) -> Iterator[list[str]]:
    """Commands that spin in cgroups (version 1) with these kernel cpu.shares; the cgroups go away afterwards."""
    root = Path(tempfile.mkdtemp(prefix="utilctl-bench-", dir="/sys/fs/cgroup/cpu"))
    folders: list[Path] = []
    try:
        commands: list[str] = []
        for index, share in enumerate(shares):
            folder = root / f"p{index}"
            folder.mkdir()
            folders.append(folder)
            (folder / "cpu.shares").write_text(str(round(share * CPU_SHARES_PER_SHARE)))
            commands.append(f"echo $$ > {folder}/cgroup.procs; {SPIN}")
        yield commands
    finally:
        for folder in [*folders, root]:
            with contextlib.suppress(OSError):
                folder.rmdir()


def has_kernel_shares() -> bool:
    """Whether the version 1 cpu controller is there and ours to use."""
    return os.access("/sys/fs/cgroup/cpu/cpu.shares", os.R_OK) and os.geteuid() == 0
