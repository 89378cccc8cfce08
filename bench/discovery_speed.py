"""What a scan of the process table costs, against the number of processes; JSON on standard output.

    python bench/discovery_speed.py [--processes 100,300,1000] [--scans 24]

For each number, that many sleeping processes are started beside those that the host has. Costs are CPU time
of the scanning process, in milliseconds: ``first`` reads everything, ``steady`` is the median of scans after
that with no change on the host, ``churn`` with ten new processes before each scan, ``groups`` the look for
filled cgroups. The peer in the same run is psutil, reading the same facts of every process.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress

import psutil

from utilctl_agent.discovery.procfs import ProcReader
from utilctl_agent.discovery.scan import Discovery
from utilctl_common.matchers import parse_matchers
from utilctl_common.policy import SeePolicy

CHURN_PROCESSES = 10

POLICIES = (
    SeePolicy("svc=bench", 1.0),
    SeePolicy("svc=user", 1.0, matchers=parse_matchers(["user=nobody", "cgroup=/system.slice/web*"])),
    SeePolicy("svc=line", 1.0, matchers=parse_matchers(["cmdline=kafka\\.Kafka$", "command=nginx,user=www-data"])),
    *(SeePolicy(f"svc=s{number}", 1.0) for number in range(20)),
)


def cpu_ms(work: Callable[[], object]) -> float:
    """CPU time of one call in this process, in milliseconds."""
    before_ns = time.process_time_ns()
    work()
    return (time.process_time_ns() - before_ns) / 1e6


def read_with_psutil() -> None:
    """The facts that discovery reads, by psutil: what a scan without a cache would cost."""
    for process in psutil.process_iter():
        with suppress(psutil.Error), process.oneshot():
            for read in (process.ppid, process.create_time, process.name, process.uids, process.username):
                read()
            for read_more in (process.cmdline, process.exe, process.environ):
                read_more()


def start(count: int, stack: ExitStack) -> list[subprocess.Popen[bytes]]:
    """Sleeping processes that end with the stack."""
    environment = {**os.environ, "UTILCTL_SEE": "svc=bench"}
    started: list[subprocess.Popen[bytes]] = []

    def stop() -> None:
        for process in started:
            process.kill()
        for process in started:
            process.wait()

    stack.callback(stop)
    # Filled one by one, so that those before a failure are ended, too.
    started.extend(subprocess.Popen(["sleep", "3600"], env=environment) for _ in range(count))
    return started


def measure(count: int, scans: int) -> dict[str, float | int]:
    """Costs with ``count`` sleeping processes more than the host has."""
    with ExitStack() as stack:
        start(count, stack)
        discovery = Discovery(ProcReader(), own_pids={os.getpid()})
        first_ms = cpu_ms(lambda: discovery.scan(POLICIES))
        steady_ms = [cpu_ms(lambda: discovery.scan(POLICIES)) for _ in range(scans)]
        groups_ms = [cpu_ms(discovery.groups) for _ in range(scans)]
        processes = discovery.stats.processes
        psutil_ms = min(cpu_ms(read_with_psutil) for _ in range(2))
        churn_ms: list[float] = []
        for _ in range(scans):
            with ExitStack() as newcomers:
                start(CHURN_PROCESSES, newcomers)
                churn_ms.append(cpu_ms(lambda: discovery.scan(POLICIES)))
        members = len(discovery.scan(POLICIES).members["svc=bench"])
    if members != count:
        raise SystemExit(f"found {members} of {count} processes; stop what else uses svc=bench and run again")
    return {
        "processes": processes,
        "first_ms": round(first_ms, 2),
        "steady_ms": round(statistics.median(steady_ms), 2),
        "steady_p90_ms": round(sorted(steady_ms)[int(0.9 * (scans - 1))], 2),
        "steady_us_per_process": round(statistics.median(steady_ms) * 1e3 / processes, 2),
        "churn_ms": round(statistics.median(churn_ms), 2),
        "groups_ms": round(statistics.median(groups_ms), 2),
        "psutil_ms": round(psutil_ms, 2),
    }


def main() -> None:
    """Measure every number and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", default="100,300,1000", help="numbers of processes, separated by commas")
    parser.add_argument("--scans", type=int, default=24, help="scans for each number")
    options = parser.parse_args()
    counts = [int(count) for count in options.processes.split(",")]
    if options.scans < 1 or not all(0 <= count <= 5000 for count in counts):
        parser.error("at least one scan, and at most 5000 processes")
    runs = [measure(count, options.scans) for count in counts]
    json.dump(
        {
            "benchmark": "discovery_speed",
            "kernel": platform.release(),
            "python": platform.python_version(),
            "cpus": os.cpu_count(),
            "policies": len(POLICIES),
            "runs": runs,
        },
        sys.stdout,
        indent=2,
    )
    print()


if __name__ == "__main__":
    main()
