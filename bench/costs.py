"""A3: what the parts of a user-level scheduler cost (ALPS paper, section 2.3, Table 1), from Python, in microseconds.

Timer wake-up, reading CPU times of n processes by every way there is, pausing and resuming n processes. Published, in
C on FreeBSD: 9.02 for a timer event, 1.1 + 17.4 n for reading, 0.97 a signal. The processes sleep, on the CPU of the
reader: a running process on another CPU would not be read exactly, and pausing it would measure its interruption.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import psutil

from bench.harness import (
    MARK_NAME,
    SPIN,
    Case,
    end,
    environment,
    new_mark,
    remove_groups,
    sweep,
    test_cpu,
    unified_groups,
    unified_root,
)
from bench.metrics import spread
from bench.plots import lines

COUNTS: Final = (1, 10, 100)
BATCHES: Final = 15
QUICK_BATCHES: Final = 5
BATCH_S: Final = 0.05
"""A batch repeats its operation for about this long; the median of the batches is reported."""
WAKEUPS: Final = 400
V1_FREEZER: Final = Path("/sys/fs/cgroup/freezer")
PUBLISHED_US: Final = {"timer event": "9.02", "read n processes": "1.1 + 17.4 n", "signal a process": "0.97"}


def cases(*, quick: bool) -> dict[str, Case]:
    """Timer wake-ups, idle and beside work; reading and pausing by number of processes."""
    batches = QUICK_BATCHES if quick else BATCHES
    found: dict[str, Case] = {
        "timer wake-up, idle CPU": partial(_wakeups, busy=False),
        "timer wake-up, busy CPU": partial(_wakeups, busy=True),
    }
    for count in COUNTS:
        found[f"read and pause, n = {count}"] = partial(_operations, count, batches)
    return found


def _wakeups(*, busy: bool) -> dict[str, Any]:
    """CPU time of a timed sleep, and how late it ends, as an ordinary process (no private slice, no class)."""
    with ExitStack() as stack:
        stack.enter_context(_on_test_cpu())
        if busy:
            stack.enter_context(_spinner())
        period_ns = 3_000_000
        late_us: list[float] = []
        before_ns = time.process_time_ns()
        for _ in range(WAKEUPS):
            due_ns = time.monotonic_ns() + period_ns
            time.sleep(period_ns / 1e9)
            late_us.append((time.monotonic_ns() - due_ns) / 1000)
        cpu_us = (time.process_time_ns() - before_ns) / 1000 / WAKEUPS
    late_us.sort()
    return {
        "cpu_us": round(cpu_us, 2),
        "late_p50_us": round(late_us[len(late_us) // 2], 1),
        "late_p99_us": round(late_us[int(len(late_us) * 0.99)], 1),
    }


def _operations(count: int, batches: int) -> dict[str, Any]:
    """Microseconds for ``count`` processes together, by operation. A pause is a pause and a resume."""
    with ExitStack() as stack:
        stack.enter_context(_on_test_cpu())
        pids = stack.enter_context(_sleepers(count))
        operations = {**_reads(pids, stack), **_pauses(pids, stack)}
        costs = {name: _cost_us(operation, batches) for name, operation in operations.items()}
    return {"processes": count, "us": costs}


def _reads(pids: Sequence[int], stack: ExitStack) -> dict[str, Callable[[], object]]:
    """Ways to read the CPU times of all of ``pids``. Files are kept open, as a scheduler would."""
    clocks = [(~pid << 3) | 2 for pid in pids]
    stats = [_open(f"/proc/{pid}/stat", os.O_RDONLY, stack) for pid in pids]
    schedstats = [_open(f"/proc/{pid}/schedstat", os.O_RDONLY, stack) for pid in pids]
    processes = [psutil.Process(pid) for pid in pids]

    def clock() -> None:
        for one in clocks:
            time.clock_gettime_ns(one)

    def stat() -> None:
        for fd in stats:
            sum(map(int, os.pread(fd, 1024, 0).rpartition(b")")[2].split()[11:13]))

    def schedstat() -> None:
        for fd in schedstats:
            int(os.pread(fd, 128, 0).split()[0])

    def by_psutil() -> None:
        for process in processes:
            process.cpu_times()

    found: dict[str, Callable[[], object]] = {
        "read, clock_gettime": clock,
        "read, /proc/PID/schedstat": schedstat,
        "read, /proc/PID/stat": stat,
        "read, psutil": by_psutil,
    }
    if unified_root() is not None and os.geteuid() == 0:
        (group,) = stack.enter_context(unified_groups(1))
        stack.callback(_leave, group.parent.parent, pids)
        _enter(group, pids)
        cpu_stat = _open(group / "cpu.stat", os.O_RDONLY, stack)
        found["read, cpu.stat of the group"] = lambda: int(os.pread(cpu_stat, 256, 0).split(None, 2)[1])
        freeze = _open(group / "cgroup.freeze", os.O_WRONLY, stack)

        def pause_v2() -> None:
            os.write(freeze, b"1")
            os.write(freeze, b"0")

        found["pause, cgroup.freeze"] = pause_v2
    return found


def _pauses(pids: Sequence[int], stack: ExitStack) -> dict[str, Callable[[], object]]:
    """Ways to pause and resume all of ``pids``."""
    descriptors = [os.pidfd_open(pid) for pid in pids]
    for descriptor in descriptors:
        stack.callback(os.close, descriptor)

    def signals() -> None:
        for descriptor in descriptors:
            signal.pidfd_send_signal(descriptor, signal.SIGSTOP)
        for descriptor in descriptors:
            signal.pidfd_send_signal(descriptor, signal.SIGCONT)

    found: dict[str, Callable[[], object]] = {"pause, SIGSTOP and SIGCONT": signals}
    if os.access(V1_FREEZER, os.W_OK):
        folder = V1_FREEZER / f"utilctl-bench-{os.getpid()}"
        folder.mkdir()
        stack.callback(remove_groups, [folder])
        stack.callback(_leave, V1_FREEZER, pids)
        _enter(folder, pids)
        state = _open(folder / "freezer.state", os.O_WRONLY, stack)

        def pause_v1() -> None:
            os.write(state, b"FROZEN")
            os.write(state, b"THAWED")

        found["pause, freezer.state (version 1)"] = pause_v1
    return found


def _open(path: str | Path, flags: int, stack: ExitStack) -> int:
    """A file descriptor that the stack closes."""
    descriptor = os.open(path, flags)
    stack.callback(os.close, descriptor)
    return descriptor


def _cost_us(operation: Callable[[], object], batches: int) -> dict[str, float]:
    start = time.perf_counter()
    operation()
    once_s = max(1e-7, time.perf_counter() - start)
    repeats = max(1, round(BATCH_S / once_s))
    costs: list[float] = []
    for _ in range(batches):
        start = time.perf_counter()
        for _ in range(repeats):
            operation()
        costs.append((time.perf_counter() - start) * 1e6 / repeats)
    return {name: round(value, 3) for name, value in spread(costs).as_dict().items()}


def _enter(group: Path, pids: Sequence[int]) -> None:
    for pid in pids:
        (group / "cgroup.procs").write_text(str(pid))


def _leave(group: Path, pids: Sequence[int]) -> None:
    _enter(group, [pid for pid in pids if Path(f"/proc/{pid}").exists()])


@contextmanager
def _sleepers(count: int) -> Iterator[list[int]]:
    """Sleeping processes on the CPU under test; they end afterwards."""
    mark = new_mark()
    started: list[subprocess.Popen[bytes]] = []
    try:
        variables = environment(mark)
        started.extend(subprocess.Popen(["sleep", "3600"], env=variables) for _ in range(count))
        yield [process.pid for process in started]
    finally:
        for process in started:
            process.kill()
        for process in started:
            process.wait()


@contextmanager
def _spinner() -> Iterator[None]:
    mark = new_mark()
    process = subprocess.Popen(["/bin/sh", "-c", SPIN], env={**os.environ, MARK_NAME: mark})
    try:
        yield
    finally:
        end(process)
        sweep(mark)


@contextmanager
def _on_test_cpu() -> Iterator[None]:
    """This process, and what it starts, on the CPU under test."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, [test_cpu()])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def plot(results: dict[str, Any], path: Path) -> None:
    """Cost against the number of processes."""
    series: dict[str, list[tuple[float, float]]] = {}
    for row in sorted((row for row in results.values() if "us" in row), key=lambda row: int(row["processes"])):
        for name, cost in row["us"].items():
            series.setdefault(name, []).append((row["processes"], cost["median"]))
    lines(path, series, title="Cost of the parts", xlabel="processes", ylabel="us for all of them", log="xy")
