"""What an agent costs that has nothing to do: 100 services, one sleeping process each, and the controller beside it.

A controller with an SQLite store, one agent, 100 policies, all on this machine; no published figure. CPU time by the
recorder where it can be had, else by /proc.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import psutil

from bench import recorder
from bench.harness import Case, cpus, end, environment, new_mark, other_cpu, sweep
from bench.plots import bars
from bench.recorder import Recorder
from bench.web import free_port

SERVICES: Final = 100
RUN_S: Final = 30.0
QUICK_RUN_S: Final = 8.0
START_TIMEOUT_S: Final = 60.0
SETTLE_S: Final = 5.0


def cases(*, quick: bool) -> dict[str, Case]:
    """With no service and with 100."""
    run_s = QUICK_RUN_S if quick else RUN_S
    return {
        "no service": partial(_case, 0, run_s),
        f"{SERVICES} idle services": partial(_case, SERVICES, run_s),
    }


def _case(services: int, run_s: float) -> dict[str, Any]:
    mark = new_mark()
    with ExitStack() as stack:
        stack.callback(sweep, mark)
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="utilctl-bench-"))
        address = f"127.0.0.1:{free_port()}"
        variables = {**environment(mark), "UTILCTL_CONTROLLER": address}
        store = f"sqlite:{folder}/policy.db"
        controller = stack.enter_context(
            _program(["utilctl_controller.main", "--listen", address, "--store", store], variables)
        )
        _until(lambda: _utilctl(["get", "hosts"], variables) is not None, "the controller did not start")
        for number in range(services):
            sleeper = {**variables, "UTILCTL_SEE": f"svc=s{number}"}
            process = subprocess.Popen(["sleep", "3600"], env=sleeper, start_new_session=True)
            stack.callback(end, process)
        with ThreadPoolExecutor(len(cpus())) as pool:
            answers = pool.map(lambda n: _utilctl(["set-share", f"svc=s{n}", "1"], variables), range(services))
            if any(answer is None for answer in answers):
                raise RuntimeError("utilctl set-share failed")
        agent = stack.enter_context(
            _program(["utilctl_agent.main", "--host", "bench", "--controller", address], variables)
        )
        _until(lambda: _managed(variables) >= services, "the agent did not report its services")
        time.sleep(SETTLE_S)
        return {"services": services, **_measure({"agent": agent.pid, "controller": controller.pid}, run_s)}


def _measure(roots: Mapping[str, int], run_s: float) -> dict[str, Any]:
    """CPU time of each family over ``run_s`` from now, in percent of one CPU."""
    if recorder.refusal() is not None:
        before = {name: _tree_cpu_s(pid) for name, pid in roots.items()}
        time.sleep(run_s)
        return {f"{name}_pct": round(100 * (_tree_cpu_s(pid) - before[name]) / run_s, 3) for name, pid in roots.items()}
    families = {name: _tree(pid) for name, pid in roots.items()}
    before = {name: _tree_cpu_s(pid) for name, pid in roots.items()}
    with Recorder(other_cpu()) as recorded:
        window = [time.monotonic_ns(), time.monotonic_ns() + round(run_s * 1e9)]
        time.sleep(run_s)
    accounted = {name: 100 * (_tree_cpu_s(pid) - before[name]) / run_s for name, pid in roots.items()}
    recording = recorded.recording()
    figures: dict[str, Any] = {}
    for name, pids in families.items():
        used_ns = recording.cpu_ns(recording.family(pids), window)[0]
        figures[f"{name}_pct"] = round(100 * used_ns / (window[1] - window[0]), 3)
        figures[f"{name}_accounted_pct"] = round(accounted[name], 3)
    return figures


def _tree(root: int) -> set[int]:
    return {root, *(child.pid for child in psutil.Process(root).children(recursive=True))}


def _tree_cpu_s(root: int) -> float:
    """CPU time of a process and its descendants that live, exact to the nanosecond where the kernel keeps it so."""
    return sum(time.clock_gettime((~pid << 3) | 2) for pid in _tree(root))


@contextmanager
def _program(arguments: list[str], variables: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, "-m", *arguments], env=variables, stdout=subprocess.DEVNULL, start_new_session=True
    )
    try:
        yield process
    finally:
        end(process, signal.SIGTERM)


def _utilctl(arguments: list[str], variables: Mapping[str, str]) -> Any | None:  # noqa: ANN401 - JSON
    argv = [sys.executable, "-m", "utilctl_cli.main", *arguments, "-o", "json"]
    done = subprocess.run(argv, env=variables, capture_output=True, text=True, check=False)
    return json.loads(done.stdout) if done.returncode == 0 else None


def _managed(variables: Mapping[str, str]) -> int:
    """How many services the agent reports; -1 until it is there."""
    answer = _utilctl(["get", "hosts"], variables)
    hosts = answer["hosts"] if answer is not None else []
    if not hosts or not hosts[0]["connected"]:
        return -1
    services = _utilctl(["get", "services"], variables)
    return sum(bool(service.get("hosts")) for service in services["services"]) if services is not None else -1


def _until(done: Callable[[], bool], failure: str) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while not done():
        if time.monotonic() > deadline:
            raise RuntimeError(failure)
        time.sleep(0.2)


def plot(results: dict[str, Any], path: Path) -> None:
    """Percent of one CPU."""
    series = {who: {name: row[f"{who}_pct"] for name, row in results.items()} for who in ("agent", "controller")}
    bars(path, series, title="Idle agent and controller", ylabel="percent of one CPU", log=False)
