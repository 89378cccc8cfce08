"""A6: how many processes can be controlled (ALPS paper, section 4.2, Figures 8 and 9).

Equal shares of 5, n compute-bound processes on one CPU, quanta of 10, 20 and 40 ms; so a cycle takes n * 5 quanta,
and large n get few cycles. The paper loses control where the overhead exceeds the part of a CPU that the kernel gives
one of n + 1 processes: at 40, 60 and 90 processes.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, Final

from bench.accuracy import compare
from bench.alps_run import FIRST_CYCLE
from bench.harness import SHELL_SPIN, Case
from bench.plots import lines

SHARE: Final = 5.0
COUNTS: Final = (5, 10, 20, 40, 60, 90, 200, 500, 1000)
QUICK_COUNTS: Final = (5, 20, 60, 100)
RUN_S: Final = 10.0
QUICK_RUN_S: Final = 3.0
LEAST_CYCLES: Final = 2
LONGEST_CYCLE_S: Final = 50.0
LOST_ERROR_PCT: Final = 5.0
"""Our criterion for lost control, beside the paper's."""
PUBLISHED_LOST_AT: Final = {10.0: 40, 20.0: 60, 40.0: 90}
PUBLISHED_OVERHEAD_SLOPE_PCT: Final = {10.0: 0.0639, 20.0: 0.0338, 40.0: 0.0172}
"""Percent of a CPU by process."""


def cases(*, quick: bool) -> dict[str, Case]:
    """By number of processes and quantum: error and overhead of the default and of the paper's algorithm."""
    found: dict[str, Case] = {}
    for quantum_ms in (10.0,) if quick else (10.0, 20.0, 40.0):
        for count in QUICK_COUNTS if quick else COUNTS:
            cycle_s = count * SHARE * quantum_ms / 1000
            if cycle_s <= LONGEST_CYCLE_S:
                found[f"{count} processes at {quantum_ms:g} ms"] = partial(_one, count, quantum_ms, cycle_s, quick)
    return found


def _one(count: int, quantum_ms: float, cycle_s: float, quick: bool) -> dict[str, Any]:
    cycles = FIRST_CYCLE + max(LEAST_CYCLES, round((QUICK_RUN_S if quick else RUN_S) / cycle_s))
    repeats = 1 if quick or cycle_s > RUN_S else 3
    row = compare([SHARE] * count, ["default", "paper"], quantum_ms, cycles, repeats, SHELL_SPIN)
    return {"processes": count, "quantum_ms": quantum_ms, **row}


def error_pct(figures: dict[str, dict[str, float]]) -> float:
    """As recorded, or as logged where nothing could be recorded."""
    return figures.get("error_recorded_pct", figures["error_log_pct"])["median"]


def lost_at(results: dict[str, Any], algorithm: str, quantum_ms: float) -> dict[str, int | None]:
    """The fewest processes at which control was lost: by error, and by the paper's criterion."""
    rows = [row for row in results.values() if row["quantum_ms"] == quantum_ms]
    rows.sort(key=lambda row: int(row["processes"]))

    def first(lost: list[int]) -> int | None:
        return lost[0] if lost else None

    by_error = [r["processes"] for r in rows if error_pct(r["algorithms"][algorithm]) > LOST_ERROR_PCT]
    by_overhead = [
        r["processes"]
        for r in rows
        if r["algorithms"][algorithm]["overhead_pct"]["median"] > 100 / (r["processes"] + 1)
    ]
    return {"error_above_5_pct": first(by_error), "overhead_above_fair_part": first(by_overhead)}


def plot(results: dict[str, Any], path: Path) -> None:
    """Error against the number of processes."""
    series: dict[str, list[tuple[float, float]]] = {}
    for row in sorted(results.values(), key=lambda row: int(row["processes"])):
        for algorithm, figures in row["algorithms"].items():
            for what, value in (("error", error_pct(figures)), ("overhead", figures["overhead_pct"]["median"])):
                label = f"{algorithm}, {row['quantum_ms']:g} ms, {what}"
                series.setdefault(label, []).append((row["processes"], value))
    lines(
        path,
        series,
        title="Equal shares of 5, n processes on one CPU",
        xlabel="processes",
        ylabel="percent",
        log="xy",
    )
