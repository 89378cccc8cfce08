"""A1 and A2: error a cycle and overhead for the nine workloads of the ALPS paper (Table 2, Figures 4 and 5).

Each workload runs under our default, the paper's algorithm, the kernel's own cpu.shares and uncontrolled, one after
the other, and the whole is repeated; so slow drifts of the machine hit all alike.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.harness import SPIN, alps, has_kernel_shares, kernel_shares, spread

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
PUBLISHED_OVERHEAD_PCT = 0.8
RUN_S = 10.0
QUICK_RUN_S = 4.0
LEAST_CYCLES = 5


def run(*, quick: bool) -> dict[str, Any]:
    """Error and overhead by quantum, workload and algorithm, over several runs."""
    quanta_ms = (10.0,) if quick else (10.0, 20.0, 40.0)
    repeats = 1 if quick else 3
    algorithms = ["default", "paper", "none"] if quick else ["default", "paper", "paper-unoptimized", "none"]
    if has_kernel_shares():
        algorithms.append("kernel")
    results: dict[str, Any] = {}
    for quantum_ms in quanta_ms:
        for name, shares in WORKLOADS.items():
            cycle_s = sum(shares) * quantum_ms / 1000
            cycles = max(LEAST_CYCLES, min(200, round((QUICK_RUN_S if quick else RUN_S) / cycle_s)))
            collected: dict[str, dict[str, list[float]]] = {a: {"error": [], "overhead": []} for a in algorithms}
            for _ in range(repeats):
                for algorithm in algorithms:
                    one = _one(shares, algorithm, quantum_ms, cycles)
                    collected[algorithm]["error"].append(one["rms_relative_error_pct"])
                    collected[algorithm]["overhead"].append(one["overhead_pct"])
            row = {
                algorithm: {key + "_pct": spread(values).as_dict() for key, values in figures.items()}
                for algorithm, figures in collected.items()
            }
            results[f"{name} at {quantum_ms:g} ms"] = {"cycles": cycles, "repeats": repeats, **row}
            medians = {a: row[a]["error_pct"]["median"] for a in algorithms}
            print(f"  {name:10s} {quantum_ms:g} ms", {a: round(m, 2) for a, m in medians.items()}, flush=True)
    return results


def _one(shares: list[float], algorithm: str, quantum_ms: float, cycles: int) -> dict[str, Any]:
    if algorithm == "kernel":
        with kernel_shares(shares) as commands:
            principals = list(zip(shares, commands, strict=True))
            return alps(principals, algorithm="none", quantum_ms=quantum_ms, cycles=cycles)
    return alps([(share, SPIN) for share in shares], algorithm=algorithm, quantum_ms=quantum_ms, cycles=cycles)


def plot(results: dict[str, Any], path: Path) -> None:
    """Error a cycle, grouped by workload, on a logarithmic scale."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    names = [name for name in results if name.endswith("at 10 ms")]
    algorithms = [a for a in results[names[0]] if a not in ("cycles", "repeats")]
    figure, axes = plt.subplots(figsize=(11, 5))
    width = 0.8 / len(algorithms)
    for index, algorithm in enumerate(algorithms):
        errors = [results[name][algorithm]["error_pct"]["median"] for name in names]
        places = [place + index * width for place in range(len(names))]
        axes.bar(places, errors, width, label=algorithm)
    axes.set_yscale("log")
    axes.set_ylabel("RMS relative error a cycle, percent")
    axes.set_xticks([place + 0.4 for place in range(len(names))], [n.split(" ")[0] for n in names], rotation=30)
    axes.axhline(PUBLISHED_ERROR_PCT, color="grey", linestyle=":", label="paper: under 5 % for most")
    axes.legend()
    axes.set_title("ALPS paper, Table 2 workloads, 10 ms quantum, one CPU")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
