"""A5: three independent ALPSs on one CPU (ALPS paper, section 4.1, Figure 7, Table 3).

Groups with shares {7, 8, 9}, {4, 5, 6} and {1, 2, 3}, each under a ``utilctl alps`` of its own that knows nothing of
the others; they start one after the other, so there are three phases. Each process's part of its own group's CPU time
is compared with its share. Published: relative errors of 0.0 to 3.3 %, mean 0.93 %.
"""

from __future__ import annotations

import statistics
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Final

from bench import recorder
from bench.alps_run import AlpsProcess, Principal
from bench.harness import SPIN, Case, cpu_share_groups, has_kernel_shares, other_cpu
from bench.plots import bars
from bench.recorder import Recorder

GROUPS: Final = {"A": (7.0, 8.0, 9.0), "B": (4.0, 5.0, 6.0), "C": (1.0, 2.0, 3.0)}
QUANTUM_MS: Final = 10.0
PHASE_S: Final = 20.0
QUICK_PHASE_S: Final = 5.0
START_S: Final = 1.5
"""Left out at the beginning of a phase: the new group's start."""
PUBLISHED_MEAN_PCT: Final = 0.93
PUBLISHED_WORST_PCT: Final = 3.3


def cases(*, quick: bool) -> dict[str, Case]:
    """One row an algorithm."""
    algorithms = ["default", "paper", *(["kernel"] if has_kernel_shares() else [])]
    return {algorithm: partial(_case, algorithm, QUICK_PHASE_S if quick else PHASE_S) for algorithm in algorithms}


def _case(algorithm: str, phase_s: float) -> dict[str, Any]:
    if recorder.refusal() is not None:
        raise RuntimeError(f"this experiment needs the recorder: {recorder.refusal()}")
    edges_ns: list[int] = []
    with Recorder(other_cpu()) as recorded, ExitStack() as stack:
        started: list[AlpsProcess] = []
        for number, shares in enumerate(GROUPS.values()):
            commands = [SPIN] * len(shares)
            if algorithm == "kernel":  # a group of the kernel's own for each ALPS, all with the same weight
                outer = stack.enter_context(cpu_share_groups([None]))
                inner = stack.enter_context(cpu_share_groups(shares, outer[0]))
                commands = [f"echo $$ > {folder}/cgroup.procs; {SPIN}" for folder in inner]
            principals = [Principal(share, command) for share, command in zip(shares, commands, strict=True)]
            remaining_s = phase_s * (len(GROUPS) - number)
            method = "none" if algorithm == "kernel" else algorithm
            run = AlpsProcess(principals, method, QUANTUM_MS, duration_s=remaining_s + START_S)
            started.append(stack.enter_context(run))
            edges_ns.append(time.monotonic_ns())
            time.sleep(phase_s)
        edges_ns.append(time.monotonic_ns())
        results = [run.wait(START_S + 60) for run in started]
    recording = recorded.recording()
    phases: dict[str, Any] = {}
    for number in range(len(GROUPS)):
        window = [edges_ns[number] + round(START_S * 1e9), edges_ns[number + 1]]
        groups: dict[str, Any] = {}
        for name, result in list(zip(GROUPS, results, strict=True))[: number + 1]:
            # From cycle end to cycle end, as in the paper's regression: within a cycle the split is not yet due.
            ends_ns = [at for at in result.ends_ns if window[0] <= at <= window[1]]
            edges = [ends_ns[0], ends_ns[-1]]
            used = [recording.cpu_ns(recording.family(roots), edges)[0] for roots in result.roots]
            fractions = [value / max(1, sum(used)) for value in used]
            due = [share / sum(result.shares) for share in result.shares]
            groups[name] = {
                "cycles": len(ends_ns) - 1,
                "of_the_cpu": round(sum(used) / (edges[1] - edges[0]), 4),
                "fractions": [round(fraction, 5) for fraction in fractions],
                "relative_error_pct": [round(100 * abs(f / d - 1), 3) for f, d in zip(fractions, due, strict=True)],
            }
        phases[f"phase {number + 1}"] = groups
    errors = [e for groups in phases.values() for group in groups.values() for e in group["relative_error_pct"]]
    overheads = [result.json["overhead_pct"] for result in results]
    return {
        "phases": phases,
        "mean_relative_error_pct": round(statistics.fmean(errors), 3),
        "worst_relative_error_pct": max(errors),
        "overhead_pct": {name: round(value, 3) for name, value in zip(GROUPS, overheads, strict=True)},
    }


def plot(results: dict[str, Any], path: Path) -> None:
    """Mean relative error by phase."""
    series = {
        algorithm: {
            phase: max(0.001, statistics.fmean(e for group in groups.values() for e in group["relative_error_pct"]))
            for phase, groups in row["phases"].items()
        }
        for algorithm, row in results.items()
    }
    bars(
        path,
        series,
        title="Three independent ALPSs on one CPU",
        ylabel="mean relative error, percent",
        line=("paper: mean 0.93 %", PUBLISHED_MEAN_PCT),
    )
