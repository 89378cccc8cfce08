"""S1 and S2: one program on a part of a CPU, beside cpulimit on the same program, in turn in one run.

S1: a program that computes all the time, capped. How exactly, how smoothly (the longest stretch without progress, by
looks every half millisecond from the other CPU), at what price (own CPU time, by the kernel's count of every process).
S2: a program that computes and waits in turn, capped at 50 %: how much longer its bursts take than without a cap, which
should be 2, and its waits, which should be 1. It times itself.
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
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

from bench.harness import Case
from bench.plots import bars
from utilctl_agent import Sandbox

CAPS_PCT: Final = (1, 5, 10, 25, 50, 75)
RUN_S: Final = 20.0
QUICK_RUN_S: Final = 5.0
SETTLE_S: Final = 1.0
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


def cases(*, quick: bool) -> dict[str, Case]:
    """By cap; then the program that waits."""
    run_s = QUICK_RUN_S if quick else RUN_S
    found: dict[str, Case] = {f"S1, {cap} %": partial(_computing, cap, run_s) for cap in CAPS_PCT}
    found["S2, 50 %, waits"] = partial(_waiting, 50, run_s)
    return found


def _computing(cap_pct: int, run_s: float) -> dict[str, Any]:
    with _utilctl(cap_pct, ["sh", "-c", SPIN]) as (pid, own):
        ours = _watched(pid, own, run_s)
    peer = None
    if shutil.which("cpulimit") is not None:
        with _cpulimit(cap_pct, ["sh", "-c", SPIN]) as (pid, own):
            peer = _watched(pid, own, run_s)
    return {"kind": "S1", "cap_pct": cap_pct, "utilctl": ours, "cpulimit": peer}


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
    found: dict[str, list[list[float]]] = {"uncapped": [], "utilctl": [], "utilctl_by_state": [], "cpulimit": []}
    for _ in range(3):
        found["uncapped"].append(_told(subprocess.Popen(argv, stdout=subprocess.PIPE, preexec_fn=_on_cpu_0)))  # noqa: PLW1509
        for name, metric in (("utilctl", "wait"), ("utilctl_by_state", "state")):
            command = [sys.executable, "-m", "utilctl_cli.main", "sandbox", "--cap", f"{cap_pct}%", "--metric", metric]
            found[name].append(
                _told(subprocess.Popen([*command, "--", "taskset", "-c", "0", *argv], stdout=subprocess.PIPE))
            )
        if shutil.which("cpulimit") is not None:
            process = subprocess.Popen(argv, stdout=subprocess.PIPE, preexec_fn=_on_cpu_0)  # noqa: PLW1509
            limiter = subprocess.Popen(
                ["cpulimit", "-p", str(process.pid), "-l", str(cap_pct)], stdout=subprocess.DEVNULL
            )
            found["cpulimit"].append(_told(process))
            limiter.wait(10)
    row: dict[str, Any] = {"kind": "S2", "cap_pct": cap_pct}
    for name, runs in found.items():
        if runs:
            row[name] = {
                "burst_stretch": round(statistics.median(burst for burst, _ in runs), 3),
                "wait_stretch": round(statistics.median(wait for _, wait in runs), 3),
            }
    return row


def _told(process: subprocess.Popen[bytes]) -> list[float]:
    out, _ = process.communicate(timeout=120)
    told = json.loads(out)
    assert isinstance(told, list)
    return told


def _on_cpu_0() -> None:
    os.sched_setaffinity(0, {0})


@contextlib.contextmanager
def _utilctl(cap_pct: int, argv: list[str]) -> Iterator[tuple[int, list[int]]]:
    """The program, and every process of ours: this one's thread counts nothing, as a command's would be asleep."""
    with Sandbox(cap_pct / 100, command=argv, cpus=[0]) as box:
        yield box.pid, box.own_pids()


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
        for who in ("utilctl", "cpulimit")
    }
    bars(path, series, title="Longest stretch without progress", ylabel="ms")
