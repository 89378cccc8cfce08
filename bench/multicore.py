"""A8: services of many processes on several CPUs, and shares that the CPUs cannot deliver. No published figures.

On the real CPUs beside the kernel's cpu.shares; on 4, 16 and 64 simulated ones by the simulated host that ships with
the agent (``bench.simulated``). Idle CPU time while somebody wanted to run is the price of pausing; all the services
here always want to run, so every idle moment counts.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from bench import recorder
from bench.alps_run import AlpsProcess, AlpsResult, Principal
from bench.harness import Case, cpus, has_kernel_shares, kernel_shares, other_cpu, workload
from bench.metrics import mean_error_pct, rounded, sums, worst_deviation_pct
from bench.plots import bars
from bench.recorder import Recorder
from bench.recording import IDLE_PID, Recording
from bench.simulated import simulated

SETTLE_S: Final = 1.0
"""Left out after everybody has begun: membership is looked at again once a second."""
START_S_PER_PROCESS: Final = 0.004
"""Allowed for forking, on top of what is measured. Arbitrary: several times what it takes."""
BEGIN_S: Final = 15.0
"""How long services may take to begin, beyond that."""
RUN_S: Final = 20.0
QUICK_RUN_S: Final = 4.0
SIMULATED_CORES: Final = (4, 16, 64)
QUANTUM_MS: Final = 10.0
ROUND_MS: Final = 120.0
"""A simulated cycle lasts this long when all CPUs are busy."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """Services with shares and numbers of processes; ``due`` is the split that the CPUs can deliver.

    A cycle is the sum of shares times the quantum, in CPU time of all CPUs together, or ``cycle_ms`` where the
    scheduler is called directly.
    """

    shares: tuple[float, ...]
    processes: tuple[int, ...]
    quantum_ms: float
    due: tuple[float, ...]
    cycle_ms: float | None = None


def infeasible_due(cores: int) -> tuple[float, float, float]:
    """What ``cores`` CPUs can deliver of shares 90 : 5 : 5 where the first has one thread and the others many."""
    single = min(0.9, 1 / cores)
    return single, (1 - single) / 2, (1 - single) / 2


def scenarios(cores: int) -> dict[str, Scenario]:
    """For the real CPUs."""
    return {
        "3 x 100 processes, cycle of 120 ms": Scenario((1, 2, 3), (100,) * 3, 20, (1, 2, 3)),
        "3 x 100 processes, cycle of 240 ms": Scenario((1, 2, 3), (100,) * 3, 40, (1, 2, 3)),
        "2 x 1000 processes": Scenario((1, 2), (1000,) * 2, 40, (1, 2)),
        "infeasible share": Scenario((90, 5, 5), (1, 2 * cores, 2 * cores), 2, infeasible_due(cores)),
    }


def cases(*, quick: bool) -> dict[str, Case]:
    """Every scenario on the real CPUs, and on each number of simulated ones."""
    real = scenarios(len(cpus()))
    found: dict[str, Case] = {
        f"{name}, {len(cpus())} CPUs": partial(_real, scenario, QUICK_RUN_S if quick else RUN_S)
        for name, scenario in real.items()
    }
    for cores in SIMULATED_CORES:
        sizes = (1, 2 * cores, 2 * cores)
        infeasible = Scenario((90, 5, 5), sizes, QUANTUM_MS, infeasible_due(cores), ROUND_MS * cores)
        found[f"infeasible share, {cores} simulated CPUs"] = partial(simulated, infeasible, cores, quick)
        many = Scenario((1, 2, 3), (2 * cores,) * 3, QUANTUM_MS, (1, 2, 3), ROUND_MS * cores)
        found[f"3 x {2 * cores} processes, {cores} simulated CPUs"] = partial(simulated, many, cores, quick)
    return found


def _real(scenario: Scenario, run_s: float) -> dict[str, Any]:
    weighed = ["weight", "kernel"] if has_kernel_shares() else []
    algorithms = ["freezer", "paper", *weighed, "none"]
    return {
        "shares": scenario.shares,
        "processes": scenario.processes,
        "due": [value / sum(scenario.due) for value in scenario.due],
        "algorithms": {algorithm: _measure_or_fail(scenario, algorithm, run_s) for algorithm in algorithms},
    }


def _measure_or_fail(scenario: Scenario, algorithm: str, run_s: float) -> dict[str, Any]:
    """That one algorithm cannot cope is a result, too: ``failed`` says how."""
    try:
        return _measure(scenario, algorithm, run_s)
    except RuntimeError as error:
        return {"failed": str(error)}


def _measure(scenario: Scenario, algorithm: str, run_s: float) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="utilctl-bench-") as gate:
        commands = [workload("many", count, gate, len(scenario.processes)) for count in scenario.processes]
        if algorithm == "kernel":
            with kernel_shares(scenario.shares, command="") as prefixes:
                commands = [prefix + command for prefix, command in zip(prefixes, commands, strict=True)]
                return _run(scenario, commands, "none", "auto", Path(gate), run_s)
        if algorithm in ("freezer", "weight"):
            return _run(scenario, commands, "default", algorithm, Path(gate), run_s)
        return _run(scenario, commands, algorithm, "auto", Path(gate), run_s)


def _run(
    scenario: Scenario, commands: list[str], algorithm: str, mode: str, gate: Path, run_s: float
) -> dict[str, Any]:
    principals = [Principal(share, command) for share, command in zip(scenario.shares, commands, strict=True)]
    start_s = START_S_PER_PROCESS * sum(scenario.processes)
    alps = AlpsProcess(
        principals,
        algorithm,
        scenario.quantum_ms,
        duration_s=start_s + SETTLE_S + run_s,
        cpus=",".join(map(str, cpus())),
        options=("--mode", mode),
    )
    if recorder.refusal() is not None:
        with alps:
            go_ns = _go_ns(gate, len(commands), start_s + BEGIN_S)
            idle_pct = _idle_stat_pct(run_s - SETTLE_S)
            result = alps.wait(start_s + run_s + 60)
        return _figures(result, scenario, go_ns, None) | {"idle_proc_stat_pct": idle_pct}
    with Recorder(other_cpu()) as recorded, alps:
        go_ns = _go_ns(gate, len(commands), start_s + BEGIN_S)
        idle_pct = _idle_stat_pct(run_s - SETTLE_S)
        result = alps.wait(start_s + run_s + 60)
    return _figures(result, scenario, go_ns, recorded.recording()) | {"idle_proc_stat_pct": idle_pct}


def _figures(result: AlpsResult, scenario: Scenario, go_ns: int, recording: Recording | None) -> dict[str, Any]:
    steady = replace(result.since(go_ns + round(SETTLE_S * 1e9)), shares=scenario.due)
    logged = steady.logged_ns[1:]
    if not logged:
        raise RuntimeError("no whole cycle after all had begun")
    used_ns = sums(logged)
    figures: dict[str, Any] = {
        "cycles": len(logged),
        "mechanism": result.json["mechanism"],
        "error_log_pct": rounded(mean_error_pct(logged, scenario.due)),
        "fractions_log": [round(value / max(1, sum(used_ns)), 5) for value in used_ns],
        "worst_deviation_log_pct": rounded(worst_deviation_pct(used_ns, scenario.due)),
        "overhead_pct": rounded(result.json["overhead_pct"]),
    }
    if recording is not None:
        recorded = steady.recorded_ns(recording)
        used_ns = sums(recorded)
        edges = [steady.ends_ns[0], steady.ends_ns[-1]]
        idle_ns = recording.cpu_ns({IDLE_PID}, edges)[0]
        figures |= {
            "error_recorded_pct": rounded(mean_error_pct(recorded, scenario.due)),
            "fractions_recorded": [round(value / max(1, sum(used_ns)), 5) for value in used_ns],
            "worst_deviation_recorded_pct": rounded(worst_deviation_pct(used_ns, scenario.due)),
            "overhead_recorded_pct": rounded(steady.overhead_recorded_pct(recording)),
            "idle_recorded_pct": round(100 * idle_ns / (edges[1] - edges[0]) / len(recording.runs), 4),
        }
    return figures


def _go_ns(gate: Path, parties: int, timeout_s: float) -> int:
    """When the last service began to compute, after waiting for it and ``SETTLE_S`` more."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        gone = [text for path in gate.glob("go.*") if (text := path.read_text())]
        if len(gone) == parties:
            time.sleep(SETTLE_S)
            return max(map(int, gone))
        time.sleep(0.05)
    raise RuntimeError("the services did not begin in time")


def _idle_stat_pct(window_s: float) -> float:
    """Idle time of all CPUs over a window from now, from /proc/stat (in ticks, so good to a percent or so)."""

    def sample() -> tuple[int, int]:
        fields = [int(value) for value in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
        return fields[3] + fields[4], sum(fields)

    idle, total = sample()
    time.sleep(window_s)
    idle_after, total_after = sample()
    return round(100 * (idle_after - idle) / max(1, total_after - total), 3)


def plot(results: dict[str, Any], path: Path) -> None:
    """How far the service that is furthest off is from what was due, by scenario."""
    series: dict[str, dict[str, float]] = {}
    for name, row in results.items():
        for algorithm, figures in row["algorithms"].items():
            if "failed" in figures:
                continue
            deviation = figures.get("worst_deviation_recorded_pct", figures["worst_deviation_log_pct"])
            series.setdefault(algorithm, {})[name.replace(", ", "\n")] = max(0.001, deviation)
    bars(path, series, title="Services of many processes, several CPUs", ylabel="worst deviation from due, percent")
