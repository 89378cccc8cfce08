"""S1 to S3: one program on a part of a CPU, beside cpulimit and a quota of the kernel alone, in turn in one run.

S1: a program that computes all the time, capped. How exactly, how smoothly (the longest stretch without progress, by
looks every half millisecond from the other CPU), at what price (own CPU time, by the kernel's count of every process).
S2: a program that computes and waits in turn, capped at 50 %: how much longer its bursts take than without a cap, which
should be 2, and its waits, which should be 1. It times itself.
S3: a program that starts children of 5 ms of CPU time one after the other, capped at 25 %. It counts by itself what it
and they have used.
utilctl is measured by the mechanism that it takes by itself, and by signals, as it works without root.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any, Final

from bench.harness import Case, cpu_share_groups, has_kernel_shares
from bench.plots import bars
from utilctl_agent import Sandbox
from utilctl_agent.mechanism import SandboxMode

CAPS_PCT: Final = (1, 5, 10, 25, 50, 75)
RUN_S: Final = 20.0
QUICK_RUN_S: Final = 5.0
SETTLE_S: Final = 2.0
LOOK_S: Final = 0.0005
STEP_NS: Final = 20_000
"""CPU time between two looks that counts as progress."""
SPIN: Final = "while :; do :; done"
ERROR_POINTS_GOAL: Final = 0.2
ERROR_PART_GOAL: Final = 0.03

WAITING: Final = """
import json, sys, time
bursts, waits = [], []
end = time.monotonic() + float(sys.argv[1])
while time.monotonic() < end:
    began, used = time.monotonic(), time.process_time()
    while time.process_time() - used < 0.05: pass
    bursts.append((time.monotonic() - began) / (time.process_time() - used))
    began = time.monotonic()
    time.sleep(0.08)
    waits.append((time.monotonic() - began) / 0.08)
print(json.dumps([sum(bursts) / len(bursts), sum(waits) / len(waits)]))
"""
SHORT_LIVED: Final = """
import json, os, resource, sys, time
began = time.monotonic()
while time.monotonic() - began < float(sys.argv[1]):
    child = os.fork()
    if child == 0:
        start = time.process_time()
        while time.process_time() - start < 0.005: pass
        os._exit(0)
    os.waitpid(child, 0)
usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
print(json.dumps([sum(usage.ru_utime + usage.ru_stime for usage in usages), time.monotonic() - began]))
"""
SANDBOXED: Final = {
    "utilctl": ["--mode", "auto"],
    "utilctl_signal": ["--mode", "signal"],
    "utilctl_by_state": ["--mode", "signal", "--metric", "state"],
}
SANDBOXES: Final = ("utilctl", "utilctl_signal")
REPEATS: Final = 2


def _on_cpu_0() -> None:
    os.sched_setaffinity(0, {0})


def _piped(argv: list[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(argv, stdout=subprocess.PIPE, preexec_fn=_on_cpu_0)  # noqa: PLW1509 - no threads here


def cases(*, quick: bool) -> dict[str, Case]:
    """By cap; then the program that waits, and the one with children."""
    run_s = QUICK_RUN_S if quick else RUN_S
    found: dict[str, Case] = {}
    for cap in CAPS_PCT:
        found[f"S1, {cap} %"] = partial(_computing, cap, run_s)
    found["S2, 50 %, waits"] = partial(_waiting, 50, run_s)
    found["S3, 25 %, short-lived children"] = partial(_short_lived, 25, run_s)
    return found


def _computing(cap_pct: int, run_s: float) -> dict[str, Any]:
    row: dict[str, Any] = {"kind": "S1", "cap_pct": cap_pct}
    argv = ["sh", "-c", SPIN]
    limiters: dict[str, Callable[[], AbstractContextManager[tuple[int, list[int]]]]] = {
        "utilctl": lambda: _utilctl(cap_pct, argv, "auto"),
        "utilctl_signal": lambda: _utilctl(cap_pct, argv, "signal"),
        "quota_alone": lambda: _quota_alone(cap_pct, argv),
        "cpulimit": lambda: _cpulimit(cap_pct, argv),
    }
    for name, limiter in limiters.items():
        row[name] = None
        if _possible(name):
            with limiter() as (pid, own):
                row[name] = _watched(pid, own, run_s)
    return row


def _possible(name: str) -> bool:
    if name == "cpulimit":
        return shutil.which("cpulimit") is not None
    return name != "quota_alone" or has_kernel_shares()


def _watched(pid: int, own: list[int], run_s: float) -> dict[str, float]:
    """What the program gets, and what whoever holds it back uses, over ``run_s``."""
    os.sched_setaffinity(pid, {0})
    time.sleep(SETTLE_S)
    own_before_ns = sum(map(_cpu_ns, own))
    began_ns, first_ns = time.monotonic_ns(), _cpu_ns(pid)
    last_ns, moved_ns, longest_ns = first_ns, began_ns, 0
    while (now_ns := time.monotonic_ns()) - began_ns < run_s * 1e9:
        used_ns = _cpu_ns(pid)
        if used_ns - last_ns > STEP_NS:
            longest_ns = max(longest_ns, now_ns - moved_ns)
            last_ns, moved_ns = used_ns, now_ns
        time.sleep(LOOK_S)
    elapsed_ns = time.monotonic_ns() - began_ns
    return {
        "got_pct": round(100 * (_cpu_ns(pid) - first_ns) / elapsed_ns, 3),
        "own_pct": round(100 * (sum(map(_cpu_ns, own)) - own_before_ns) / elapsed_ns, 3),
        "longest_stretch_ms": round(longest_ns / 1e6, 1),
    }


def _waiting(cap_pct: int, run_s: float) -> dict[str, Any]:
    argv = [sys.executable, "-c", WAITING, str(run_s)]
    row: dict[str, Any] = {"kind": "S2", "cap_pct": cap_pct}
    for name, runs in _by_each(argv, cap_pct, [*SANDBOXES, "utilctl_by_state"]).items():
        row[name] = {
            "burst_stretch": round(statistics.median(burst for burst, _ in runs), 3),
            "wait_stretch": round(statistics.median(wait for _, wait in runs), 3),
        }
    return row


def _short_lived(cap_pct: int, run_s: float) -> dict[str, Any]:
    argv = [sys.executable, "-S", "-c", SHORT_LIVED, str(run_s)]
    row: dict[str, Any] = {"kind": "S3", "cap_pct": cap_pct}
    for name, runs in _by_each(argv, cap_pct, SANDBOXES).items():
        row[name] = {"got_pct": round(statistics.median(100 * used / wall for used, wall in runs), 2)}
    return row


def _by_each(argv: list[str], cap_pct: int, sandboxes: Sequence[str]) -> dict[str, list[list[float]]]:
    """What the program tells of itself, several times: without a cap, and under everybody's."""
    found: dict[str, list[list[float]]] = {}
    for _ in range(REPEATS):
        found.setdefault("uncapped", []).append(_told(_piped(argv)))
        for name in sandboxes:
            command = [sys.executable, "-m", "utilctl_cli.main", "sandbox", "--cap", f"{cap_pct}%", *SANDBOXED[name]]
            pinned = [*command, "--", "taskset", "-c", "0", *argv]
            found.setdefault(name, []).append(_told(subprocess.Popen(pinned, stdout=subprocess.PIPE)))
        if _possible("quota_alone"):
            with _quota(cap_pct) as folder:
                entering = ["sh", "-c", f'echo $$ > {folder}/cgroup.procs; exec "$@"', "sh", *argv]
                found.setdefault("quota_alone", []).append(_told(_piped(entering)))
        if _possible("cpulimit"):
            process = _piped(argv)
            limiter = subprocess.Popen(
                ["cpulimit", "-m", "-p", str(process.pid), "-l", str(cap_pct)], stdout=subprocess.DEVNULL
            )
            found.setdefault("cpulimit", []).append(_told(process))
            limiter.wait(10)
    return found


def _told(process: subprocess.Popen[bytes]) -> list[float]:
    out, _ = process.communicate(timeout=120)
    told = json.loads(out)
    assert isinstance(told, list)
    return told


@contextlib.contextmanager
def _utilctl(cap_pct: int, argv: list[str], mode: SandboxMode) -> Iterator[tuple[int, list[int]]]:
    """The program, and every process of ours: this one's thread counts nothing, as a command's would be asleep."""
    with Sandbox(cap_pct / 100, command=argv, mode=mode, cpus=[0]) as box:
        yield box.pid, box.own_pids()


@contextlib.contextmanager
def _quota(cap_pct: int) -> Iterator[Path]:
    """A cgroup with the kernel's quota alone, over its usual period of 100 ms."""
    with cpu_share_groups([None]) as (folder,):
        (folder / "cpu.cfs_quota_us").write_text(str(1000 * cap_pct))
        yield folder


@contextlib.contextmanager
def _quota_alone(cap_pct: int, argv: list[str]) -> Iterator[tuple[int, list[int]]]:
    with _quota(cap_pct) as folder:
        program = subprocess.Popen(argv)
        (folder / "cgroup.procs").write_text(str(program.pid))
        try:
            yield program.pid, []
        finally:
            program.kill()
            program.wait()


@contextlib.contextmanager
def _cpulimit(cap_pct: int, argv: list[str]) -> Iterator[tuple[int, list[int]]]:
    program = subprocess.Popen(argv)
    limiter = subprocess.Popen(["cpulimit", "-p", str(program.pid), "-l", str(cap_pct)], stdout=subprocess.DEVNULL)
    try:
        yield program.pid, [limiter.pid]
    finally:
        for process in (limiter, program):
            process.kill()
            process.wait()


def _cpu_ns(pid: int) -> int:
    return time.clock_gettime_ns((~pid << 3) | 2)


def plot(results: dict[str, Any], path: Path) -> None:
    """The longest stretch without progress by cap."""
    rows = {name: row for name, row in results.items() if row["kind"] == "S1"}
    series = {
        who: {name: row[who]["longest_stretch_ms"] for name, row in rows.items() if row[who] is not None}
        for who in ("utilctl", "utilctl_signal", "quota_alone", "cpulimit")
    }
    bars(path, series, title="Longest stretch without progress", ylabel="ms")
