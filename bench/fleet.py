"""How many agents one controller carries, how fast a share reaches them all, and how they come back. Not published.

The agents are simulated hosts behind the agent's own sessions (``bench.fleet_agents``), in a few processes beside the
controller, on the same CPUs; the protocol, the controller and its store are real. How long a report takes is measured
on reports (``bench.fleet_witness``), after the controller's CPU and memory, which witnesses would add to; a *call's
wait*, meanwhile, by one that takes its turn in the controller's event loop as a report does.
"""

from __future__ import annotations

import json
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import psutil

from bench import first_cycle
from bench.fleet_witness import report_waits_s
from bench.harness import Case, end, environment, new_mark, sweep
from bench.plots import lines
from bench.web import free_port
from utilctl_cli.client import ControllerClient
from utilctl_cli.codec import ShareChange, WriteTerms
from utilctl_common.errors import UtilctlError
from utilctl_common.quantities import NS_PER_S

AGENTS: Final = (100, 500, 1_000, 2_000, 5_000)
QUICK_AGENTS: Final = (100, 1_000)
SERVICES_EACH: Final = 10
SERVICES: Final = 200
DRIVERS: Final = 4
PROBE_S: Final = 0.1
PROBED: Final = "svc=probed"
"""A service that runs nowhere: what is asked costs nothing but its turn."""
CHANGES: Final = 40
"""Changes of one share whose way to all agents is timed."""
FIRST_CYCLES: Final = 30
"""Changes of one share whose way to the first enforced cycle is timed."""
CONNECT_S: Final = 180.0
"""How long agents may take to connect. Only a failing run takes so long."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How long a run takes; ``witnesses`` reports are timed in it."""

    interval_s: float = 5.0
    settle_s: float = 12.0
    run_s: float = 30.0
    witnesses: int = 200


FULL: Final = Pace()
QUICK: Final = Pace(run_s=10.0, witnesses=50)


def cases(*, quick: bool) -> dict[str, Case]:
    """By number of agents; the way of a share is timed with 100, the storm in all."""
    pace = QUICK if quick else FULL
    found: dict[str, Case] = {
        f"{count:,} agents": partial(load, count, pace) for count in (QUICK_AGENTS if quick else AGENTS)
    }
    found["a share to 100 agents"] = partial(way_of_a_share, 100, CHANGES // 4 if quick else CHANGES, pace)
    found["a share to its first cycle on two hosts"] = partial(
        first_cycle.measure, FIRST_CYCLES // 5 if quick else FIRST_CYCLES
    )
    return found


class Drivers:
    """Processes full of agents, and what they tell."""

    def __init__(self, address: str, count: int, interval_s: float, variables: dict[str, str]) -> None:
        self.connected: dict[int, int] = {}
        self.changed_ns = 0
        self.shares: list[tuple[float, str, int]] = []  # share, host, when
        self._processes: list[subprocess.Popen[str]] = []
        self._listeners: list[threading.Thread] = []
        each = -(-count // DRIVERS)
        for first in range(0, count, each):
            arguments = [address, first, min(each, count - first), SERVICES_EACH, SERVICES, interval_s]
            argv = [sys.executable, "-m", "bench.fleet_agents", *map(str, arguments)]
            process = subprocess.Popen(
                argv, env=variables, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            )
            self._processes.append(process)
            self._listeners.append(threading.Thread(target=self._listen, args=(process,), daemon=True))
            self._listeners[-1].start()

    def _listen(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        with process.stdout as lines_of_json:
            for line in lines_of_json:
                event = json.loads(line)
                if "connected" in event:
                    self.connected[process.pid] = event["connected"]
                    self.changed_ns = event["at_ns"]
                else:
                    self.shares.append((event["share"], event["host"], event["at_ns"]))

    @property
    def total(self) -> int:
        """Agents connected now."""
        return sum(self.connected.values())

    def end(self) -> None:
        """They have nothing to lose."""
        for process in self._processes:
            end(process, signal.SIGKILL)
        for listener in self._listeners:
            listener.join()


class Controller:
    """The controller program, which can be killed and started again."""

    def __init__(self, address: str, store: str, interval_s: float, variables: dict[str, str]) -> None:
        self._argv = [sys.executable, "-m", "utilctl_controller.main", "--listen", address, "--store", store]
        self._argv += ["--report-interval", f"{interval_s:g}s", "--lease", f"{6 * interval_s:g}s"]
        self._variables = variables
        self._process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(self._argv, env=self._variables, stdout=subprocess.DEVNULL)

    @property
    def process(self) -> psutil.Process:
        """The one that runs now."""
        return psutil.Process(self._process.pid)

    def restart(self) -> None:
        """Kill it, and start it at once."""
        end(self._process, signal.SIGKILL)
        self._process = self._start()

    def end(self) -> None:
        """Stop it."""
        end(self._process)


@contextmanager
def _fleet(count: int, interval_s: float) -> Iterator[tuple[str, Controller, Drivers]]:
    """A controller with policies and ``count`` agents, connected: its address, itself, the agents."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4 * count + 1024)), hard))
    mark = new_mark()
    with ExitStack() as stack:
        stack.callback(sweep, mark)
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="utilctl-bench-"))
        variables, address = environment(mark), f"127.0.0.1:{free_port()}"
        controller = Controller(address, f"sqlite:{folder}/policy.db", interval_s, variables)
        stack.callback(controller.end)
        _until(lambda: _answers(address), "the controller did not start")
        for number in range(SERVICES):
            _change(address, f"svc=s{number}", 1.0 + number % 5)
        _change(address, PROBED, 1.0)
        drivers = Drivers(address, count, interval_s, variables)
        stack.callback(drivers.end)
        _until(lambda: drivers.total == count, "the agents did not connect")
        yield address, controller, drivers


def load(count: int, pace: Pace) -> dict[str, Any]:
    """CPU and memory of the controller while agents report, how long a report takes, and how all come back."""
    with _fleet(count, pace.interval_s) as (address, program, drivers):
        controller = program.process
        time.sleep(pace.settle_s)
        before_s, began_s = _cpu_s(controller), time.monotonic()
        calls_s: list[float] = []
        while time.monotonic() - began_s < pace.run_s:
            asked_s = time.monotonic()
            _client(address).share(PROBED)
            calls_s.append(time.monotonic() - asked_s)
            time.sleep(PROBE_S)
        used_s = _cpu_s(controller) - before_s
        lasted_s = time.monotonic() - began_s
        memory_mb = controller.memory_info().rss / 1e6
        hosts = sum(host["connected"] for host in _client(address).hosts()["hosts"])
        sees = tuple(f"svc=s{number}" for number in range(SERVICES_EACH))
        reports_s = report_waits_s(address, pace.witnesses, sees, pace.interval_s, pace.settle_s, PROBE_S)
        killed_ns = time.monotonic_ns()
        program.restart()
        _until(lambda: drivers.total < count // 2 or drivers.changed_ns > killed_ns, "nobody noticed the kill")
        _until(lambda: drivers.total == count, "the agents did not come back")
        back_s = (drivers.changed_ns - killed_ns) / 1e9
    return {
        "agents": count,
        "reports_per_s": round(count / pace.interval_s, 1),
        "connected": hosts,
        "controller_cores": round(used_s / lasted_s, 3),
        "controller_rss_mb": round(memory_mb, 1),
        **_spread_ms("report", reports_s),
        "reports_timed": len(reports_s),
        **_spread_ms("call", calls_s),
        "calls_timed": len(calls_s),
        "all_back_after_kill_s": round(back_s, 2),
    }


def _spread_ms(what: str, took_s: list[float]) -> dict[str, float]:
    """Median, 99th percentile and the longest, named ``what``."""
    in_order = sorted(took_s)
    chosen = {"p50": statistics.median(in_order), "p99": in_order[int(0.99 * len(in_order))], "max": in_order[-1]}
    return {f"{what}_{which}_ms": round(1e3 * value, 2) for which, value in chosen.items()}


def way_of_a_share(count: int, changes: int, pace: Pace) -> dict[str, Any]:
    """From the call of ``set-share`` until the last agent holds it, for every change."""
    with _fleet(count, pace.interval_s) as (address, _, drivers):
        time.sleep(pace.settle_s)
        last_s: list[float] = []
        each_s: list[float] = []
        acknowledged_s: list[float] = []
        for number in range(changes):
            share = 2.0 + number / 1000
            called_ns = time.monotonic_ns()
            _change(address, "svc=s0", share)
            acknowledged_s.append((time.monotonic_ns() - called_ns) / 1e9)
            _until(partial(_all_hold, drivers, share, count), "the share did not reach every agent")
            ways_s = [(at_ns - called_ns) / 1e9 for held, _, at_ns in tuple(drivers.shares) if held == share]
            each_s += ways_s
            last_s.append(max(ways_s))
            time.sleep(0.3)
    each_s.sort()
    last_s.sort()
    return {
        "agents": count,
        "changes": changes,
        "acknowledged_p50_ms": round(1e3 * statistics.median(acknowledged_s), 1),
        "applied_p50_ms": round(1e3 * statistics.median(each_s), 1),
        "applied_p99_ms": round(1e3 * each_s[int(0.99 * len(each_s))], 1),
        "on_every_agent_p50_ms": round(1e3 * statistics.median(last_s), 1),
        "on_every_agent_p99_ms": round(1e3 * last_s[int(0.99 * len(last_s))], 1),
        "on_every_agent_max_ms": round(1e3 * last_s[-1], 1),
    }


def _all_hold(drivers: Drivers, share: float, count: int) -> bool:
    return len({host for held, host, _ in tuple(drivers.shares) if held == share}) == count


def _client(address: str) -> ControllerClient:
    return ControllerClient((address,), 10 * NS_PER_S)


def _change(address: str, see: str, share: float) -> None:
    change = ShareChange(see, share, None, None, False, None, None)
    _client(address).set_share(change, WriteTerms("bench", "", None, False))


def _answers(address: str) -> bool:
    try:
        ControllerClient((address,), NS_PER_S).services()
    except UtilctlError:
        return False
    return True


def _cpu_s(process: psutil.Process) -> float:
    return time.clock_gettime((~process.pid << 3) | 2)


def _until(done: Callable[[], bool], failure: str) -> None:
    deadline = time.monotonic() + CONNECT_S
    while not done():
        if time.monotonic() > deadline:
            raise RuntimeError(failure)
        time.sleep(0.01)


def plot(results: dict[str, Any], path: Path) -> None:
    """Cores, memory and how long a report takes by number of agents."""
    rows = sorted((row for row in results.values() if "controller_cores" in row), key=lambda row: int(row["agents"]))
    series = {
        "cores": [(row["agents"], row["controller_cores"]) for row in rows],
        "GB": [(row["agents"], row["controller_rss_mb"] / 1e3) for row in rows],
        "a report, 99th percentile, s": [(row["agents"], row["report_p99_ms"] / 1e3) for row in rows],
    }
    lines(
        path,
        series,
        title=f"One controller, reports every {FULL.interval_s:g} s",
        xlabel="agents",
        ylabel="cores, GB, seconds",
    )
