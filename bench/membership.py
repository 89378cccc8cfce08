"""Membership under a storm: 1,000 processes, forks and exits 200 times a second. What it costs, and how soon it works.

Three runs: by events, by glances (as on hosts that allow no events), and by complete scans a second apart (as before
there were either). In each, discovery runs in a process of its own with its usual cadence and sends orders to a real
loop, whose process groups open and close the members; the storm is left to run. Reported for each:

- ``cost_pct``: CPU time of looking, matching and sending, in percent of one CPU, and ``loop_pct``: that of taking the
  orders in.
- ``control_ms``: from the fork of a process until the loop has it in its group, by the start time of each newcomer
  (which the kernel tells to 10 ms).
- ``newcomers_per_s``: how many were taken under control; ``lost``: how often the kernel dropped events.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal

from bench.harness import Case
from bench.metrics import spread
from utilctl_agent.channel import Channel
from utilctl_agent.control import Loop
from utilctl_agent.dispatch import Dispatcher
from utilctl_agent.link.membership import MembershipScanner
from utilctl_agent.link.roster import make_orders
from utilctl_agent.link.targets import LocalTarget
from utilctl_agent.orders import LoopSettings
from utilctl_agent.safety.journal import Journal
from utilctl_common.matchers import parse_matchers
from utilctl_common.policy import SeePolicy
from utilctl_common.quantities import NS_PER_MS, NS_PER_S

Way = Literal["events", "glances", "scans"]
WAYS: tuple[Way, ...] = ("events", "glances", "scans")
SIZE = 1000
RATE = 200
RUN_S = 10.0
QUICK_RUN_S = 4.0
STORM = Path(__file__).parents[1] / "tests" / "support" / "storm.py"
SEE = "svc=storm"
TICK_MS = 1000 / os.sysconf("SC_CLK_TCK")


def cases(*, quick: bool) -> dict[str, Case]:
    """One row a way."""
    repeats, run_s = (1, QUICK_RUN_S) if quick else (3, RUN_S)
    return {way: partial(_case, way, repeats, run_s) for way in WAYS}


def _case(way: Way, repeats: int, run_s: float) -> dict[str, Any]:
    runs = [_measure(way, run_s) for _ in range(repeats)]
    figures = {name: spread([one[name] for one in runs]).as_dict() for name in runs[0]}
    return {"processes": SIZE, "forks_per_s": RATE, "repeats": repeats, **figures}


@contextlib.contextmanager
def _storm(marker: str) -> Iterator[int]:
    argv = [sys.executable, "-S", "-E", str(STORM), str(SIZE), str(RATE), "1", "120", marker]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        yield process.pid
    finally:
        process.send_signal(signal.SIGKILL)  # its children end with it
        process.wait()


def _measure(way: Way, run_s: float) -> dict[str, float]:
    marker = f"utilctl-bench-{os.getpid()}-{time.monotonic_ns()}"
    policy = SeePolicy(SEE, 1.0, matchers=parse_matchers([f"cmdline={marker}"]))
    targets = {SEE: LocalTarget(policy, 1.0, 1.0, None)}
    with tempfile.TemporaryDirectory() as folder, _storm(marker):
        loop, ends = _loop(Path(folder))
        scanner = MembershipScanner(None, frozenset({os.getpid()}), NS_PER_S, events=way == "events")
        dispatcher = Dispatcher()
        known: set[tuple[int, int]] = set()
        delays_ms: list[float] = []
        cost_ns = loop_ns = messages = size = 0

        def tell(*, count: bool) -> None:
            nonlocal cost_ns, loop_ns, messages, size
            begin_ns = time.process_time_ns()
            orders, _ = make_orders(targets, scanner.members, freezer=False, observe=True, cores=2)
            message = dispatcher.message(1, 1, orders)
            text = json.dumps(message) if message is not None else ""
            cost_ns += (time.process_time_ns() - begin_ns) * count
            if message is not None:
                begin_ns = time.process_time_ns()
                loop.obey(json.loads(text), time.monotonic_ns())
                while loop.behind:
                    loop.wake(time.monotonic_ns())
                loop_ns += (time.process_time_ns() - begin_ns) * count
                messages += count
                size += len(text) * count
            now_ms = time.clock_gettime_ns(time.CLOCK_BOOTTIME) / NS_PER_MS
            members = set(scanner.members[SEE].processes) if SEE in scanner.members else set()
            if count:
                delays_ms.extend(now_ms - (start + 0.5) * TICK_MS for _, start in members - known)
            known.update(members)

        scanner.scan((policy,))
        tell(count=False)
        begin_ns = scanned_ns = time.monotonic_ns()
        while (now_ns := time.monotonic_ns()) < begin_ns + run_s * NS_PER_S:
            cadence = scanner.cadence
            scan_ns = scanned_ns + NS_PER_S if way == "scans" else cadence.next_scan_ns
            due_ns = scan_ns if way == "scans" else min(cadence.next_look_ns, scan_ns)
            time.sleep(max(0, due_ns - now_ns) / NS_PER_S)
            before_ns = time.process_time_ns()
            if time.monotonic_ns() >= scan_ns:
                scanned_ns = time.monotonic_ns()
                scanner.scan((policy,))
            else:
                scanner.look()
            cost_ns += time.process_time_ns() - before_ns
            tell(count=True)
        wall_ns = time.monotonic_ns() - begin_ns
        lost = scanner.lost
        scanner.close()
        loop.close(time.monotonic_ns())
        for end in ends:
            end.close()
    delays_ms.sort()
    return {
        "cost_pct": 100 * cost_ns / wall_ns,
        "loop_pct": 100 * loop_ns / wall_ns,
        "control_ms_median": delays_ms[len(delays_ms) // 2],
        "control_ms_p99": delays_ms[int(0.99 * len(delays_ms))],
        "newcomers_per_s": len(delays_ms) * NS_PER_S / wall_ns,
        "messages_per_s": messages * NS_PER_S / wall_ns,
        "bytes_per_message": size / max(1, messages),
        "lost": lost,
    }


def _loop(folder: Path) -> tuple[Loop, list[Any]]:
    ours, theirs = (Channel(end) for end in socket.socketpair())
    journal = Journal.create(str(folder / "journal"), slots=4 * SIZE)
    settings = LoopSettings("none", 10 * NS_PER_MS, None, (0,), NS_PER_S, cycle_log=False, announce_first_cycle=False)
    return Loop(settings, theirs, journal, "none"), [ours, theirs, journal]


def plot(results: dict[str, Any], path: Path) -> None:
    """Delay and cost of each way, side by side."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4))
    ways = list(results)
    for name, label in (("control_ms_median", "median"), ("control_ms_p99", "99th percentile")):
        left.plot(ways, [results[way][name]["median"] for way in ways], "o", label=label)
    left.set_yscale("log")
    left.set_ylabel("from fork to control, ms")
    left.legend()
    bottom = [results[way]["cost_pct"]["median"] for way in ways]
    right.bar(ways, bottom, label="link")
    right.bar(ways, [results[way]["loop_pct"]["median"] for way in ways], bottom=bottom, label="loop")
    right.set_ylabel("percent of one CPU")
    right.legend()
    figure.suptitle(f"{SIZE} processes, {RATE} forks and exits a second")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
