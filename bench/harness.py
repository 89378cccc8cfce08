"""What the experiments share: the machine's description, where things run, kernel shares as a baseline, clean ends."""

from __future__ import annotations

import contextlib
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

Case = Callable[[], dict[str, Any]]
"""One row of an experiment's results: measures it and returns its figures."""

SPIN = f"exec {sys.executable} -S -c 'while True: pass'"
"""A compute-bound process."""
WORKLOADS: Final = Path(__file__).parent / "workloads"
SHELL_SPIN = "while :; do :; done"
"""The same, cheap to start and small: for experiments with hundreds of them."""
CPU_SHARES_PER_SHARE = 64
"""Kernel cpu.shares for one share; between the kernel's bounds of 2 and 262144 for shares up to 4096."""
CPU_CONTROLLER: Final = Path("/sys/fs/cgroup/cpu")
"""The version 1 cpu controller, as containers and hybrid hosts mount it."""
MARK_NAME: Final = "UTILCTL_BENCH"
"""In the environment of everything that an experiment starts, so that what is left can be told from other work."""
END_S: Final = 15.0
"""How long a program has to end by itself before it is killed."""


def cpus() -> list[int]:
    """CPUs that the experiments may use."""
    return sorted(os.sched_getaffinity(0))


def test_cpu() -> int:
    """The CPU under test."""
    return cpus()[0]


def other_cpu() -> int:
    """Where recorders and load generators run: not on the CPU under test, unless there is only one."""
    return cpus()[-1]


def machine() -> dict[str, Any]:
    """What a reader needs to know to compare figures."""
    model = "unknown"
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), model)
    return {
        "kernel": platform.release(),
        "python": platform.python_version(),
        "cpus": cpus(),
        "cpu_model": model,
        "ticks_per_s": os.sysconf("SC_CLK_TCK"),
        "root": os.geteuid() == 0,
    }


def environment(mark: str) -> dict[str, str]:
    """For processes that an experiment starts: marked, so that ``sweep`` finds what is left of them."""
    return {**os.environ, MARK_NAME: mark}


def new_mark() -> str:
    """A mark that no other process on this machine carries."""
    return uuid.uuid4().hex


def end(process: subprocess.Popen[Any], number: int = signal.SIGTERM) -> None:
    """Ask a program to end, then insist. Returns when it is gone."""
    if process.poll() is None:
        process.send_signal(number)
        try:
            process.wait(timeout=END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def sweep(mark: str) -> int:
    """Kill what still runs of the processes with this mark; returns how many: 0 if everything ended as it should."""
    wanted = f"{MARK_NAME}={mark}".encode()
    left = 0
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if wanted in (folder / "environ").read_bytes().split(b"\0"):
                os.kill(int(folder.name), signal.SIGKILL)
                left += 1
    return left


@contextlib.contextmanager
def cpu_share_groups(shares: Sequence[float | None], root: Path = CPU_CONTROLLER) -> Iterator[list[Path]]:
    """Cgroups (version 1, cpu controller) with kernel shares; they go away afterwards. None: the kernel's default."""
    folders: list[Path] = []
    try:
        folders.append(Path(tempfile.mkdtemp(prefix="utilctl-bench-", dir=root)))
        for index, share in enumerate(shares):
            folder = folders[0] / f"p{index}"
            folder.mkdir()
            folders.append(folder)
            if share is not None:
                (folder / "cpu.shares").write_text(str(round(share * CPU_SHARES_PER_SHARE)))
        yield folders[1:]
    finally:
        remove_groups(folders)


def unified_root() -> Path | None:
    """Where cgroup version 2 is mounted; None if it is not, or not ours to use."""
    for line in Path("/proc/mounts").read_text().splitlines():
        _, folder, kind, *_ = line.split()
        if kind == "cgroup2" and os.access(folder, os.W_OK):
            return Path(folder)
    return None


@contextlib.contextmanager
def unified_groups(count: int) -> Iterator[list[Path]]:
    """Cgroups (version 2), as a container runtime would have made them; they go away afterwards."""
    root = unified_root()
    if root is None:
        raise RuntimeError("cgroup version 2 is not mounted, or not writable here")
    with cpu_share_groups([None] * count, root) as folders:
        yield folders


def remove_groups(folders: Sequence[Path]) -> None:
    """Remove cgroups, parents first in the list; what has just been killed may take a moment to leave them."""
    deadline = time.monotonic() + 5
    for folder in reversed(folders):
        while True:
            try:
                folder.rmdir()
            except FileNotFoundError:
                pass
            except OSError:
                if time.monotonic() < deadline:
                    time.sleep(0.02)
                    continue
            break


@contextlib.contextmanager
def kernel_shares(shares: Sequence[float], command: str = SPIN) -> Iterator[list[str]]:
    """Shell commands that run ``command`` in cgroups with these kernel cpu.shares."""
    with cpu_share_groups(shares) as folders:
        yield [f"echo $$ > {folder}/cgroup.procs; {command}" for folder in folders]


def workload(name: str, *arguments: object) -> str:
    """The shell command for a program in ``bench/workloads``."""
    return " ".join(["exec", sys.executable, "-S", str(WORKLOADS / f"{name}.py"), *map(str, arguments)])


def has_kernel_shares() -> bool:
    """Whether the version 1 cpu controller is there and ours to use."""
    return os.access(CPU_CONTROLLER / "cpu.shares", os.R_OK) and os.geteuid() == 0
