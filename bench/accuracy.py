"""A1 and A2: error a cycle and overhead for the nine workloads of the ALPS paper (Table 2, Figures 4 and 5).

Each workload runs under our default, the paper's algorithm, the kernel's own cpu.shares and uncontrolled, one after
the other, and the whole is repeated; so slow drifts of the machine hit all alike. A longer run of the default shows
the long-run split.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from bench.alps_run import FIRST_CYCLE, Principal, alps
from bench.harness import SPIN, Case, has_kernel_shares
from bench.metrics import spread
from bench.plots import bars

WORKLOADS: dict[str, list[float]] = {
    f"{kind}-{n}": shares
    for n in (5, 10, 20)
    for kind, shares in (
        ("linear", [float(2 * i + 1) for i in range(n)]),
        ("equal", [float(n)] * n),
        ("skewed", [1.0] * (n - 1) + [float(n * n - n + 1)]),
    )
}
"""Table 2: n processes with n * n shares in total."""
PUBLISHED_ERROR_PCT = 5.0
RUN_S = 10.0
QUICK_RUN_S = 4.0
LEAST_CYCLES = 3
MOST_CYCLES = 200
LONG_RUN_S = 60.0
QUICK_LONG_RUN_S = 10.0


def cases(*, quick: bool) -> dict[str, Case]:
    """By workload and quantum: error and overhead of every algorithm, over several runs."""
    found: dict[str, Case] = {}
    kernel = ["kernel"] if has_kernel_shares() else []
    for quantum_ms in (10.0,) if quick else (10.0, 20.0, 40.0):
        algorithms = ["default", "paper", *kernel]
        if quantum_ms == 10.0 and not quick:
            algorithms += ["paper-unoptimized", "none"]
        for name, shares in WORKLOADS.items():
            run_s = QUICK_RUN_S if quick else RUN_S
            found[f"{name} at {quantum_ms:g} ms"] = partial(
                compare, shares, algorithms, quantum_ms, _cycles(shares, quantum_ms, run_s), 1 if quick else 3
            )
    for name, shares in WORKLOADS.items():
        if quick and not name.endswith("-5"):
            continue
        cycles = _cycles(shares, 10.0, QUICK_LONG_RUN_S if quick else LONG_RUN_S, most=10_000)
        found[f"{name} long run"] = partial(compare, shares, ["default"], 10.0, cycles, 1)
    return found


def _cycles(shares: list[float], quantum_ms: float, run_s: float, most: int = MOST_CYCLES) -> int:
    cycle_s = sum(shares) * quantum_ms / 1000
    return FIRST_CYCLE + max(LEAST_CYCLES, min(most, round(run_s / cycle_s)))


def compare(
    shares: list[float], algorithms: list[str], quantum_ms: float, cycles: int, repeats: int, command: str = SPIN
) -> dict[str, Any]:
    """The same compute-bound workload under each algorithm in turn, ``repeats`` times: spread of every figure."""
    principals = [Principal(share, command) for share in shares]
    collected: dict[str, dict[str, list[float]]] = {algorithm: {} for algorithm in algorithms}
    for _ in range(repeats):
        for algorithm in algorithms:
            one = alps(principals, algorithm=algorithm, quantum_ms=quantum_ms, cycles=cycles)
            for figure, value in one.items():
                if value is not None:
                    collected[algorithm].setdefault(figure, []).append(value)
    spreads = {a: {f: spread(values).as_dict() for f, values in fs.items()} for a, fs in collected.items()}
    return {"cycles": cycles - FIRST_CYCLE, "repeats": repeats, "algorithms": spreads}


def plot(results: dict[str, Any], path: Path) -> None:
    """Error a cycle as recorded, grouped by workload, on a logarithmic scale."""
    rows = {name.split(" ")[0]: row["algorithms"] for name, row in results.items() if name.endswith("at 10 ms")}
    series: dict[str, dict[str, float]] = {}
    for workload, algorithms in rows.items():
        for algorithm, figures in algorithms.items():
            error = figures.get("error_recorded_pct") or figures["error_log_pct"]
            series.setdefault(algorithm, {})[workload] = error["median"]
    bars(
        path,
        series,
        title="ALPS paper, Table 2 workloads, 10 ms quantum, one CPU",
        ylabel="RMS relative error a cycle, percent",
        line=("paper: under 5 % for most", PUBLISHED_ERROR_PCT),
    )
