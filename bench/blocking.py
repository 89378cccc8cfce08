"""A4: a process that blocks (ALPS paper, section 3.3, Figure 6).

A, B and C with shares 1 : 2 : 3, 10 ms quantum, one CPU; B sleeps 240 ms after every 80 ms of its own CPU time.
Published: 1:2:3 while B runs; A 25 % and C 75 % while B is blocked.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from bench import recorder
from bench.alps_run import AlpsProcess, AlpsResult, Principal
from bench.harness import SPIN, Case, has_kernel_shares, kernel_shares, other_cpu, workload
from bench.metrics import rms_relative_error_pct, rounded
from bench.plots import lines
from bench.recorder import Recorder
from bench.recording import Recording

SHARES: Final = (1.0, 2.0, 3.0)
BLOCKED_SHARES: Final = (1.0, 3.0)
QUANTUM_MS: Final = 10.0
WARM_UP_S: Final = 2.0
COMPUTE_MS: Final = 80
SLEEP_MS: Final = 240
RUN_S: Final = 30.0
QUICK_RUN_S: Final = 6.0
SETTLED_PCT: Final = 10.0
"""A cycle is right again if its RMS relative error is below this. Arbitrary; a missing B gives about 58 %."""
PUBLISHED: Final = {"computing": (1 / 6, 2 / 6, 3 / 6), "blocked": (0.25, 0.0, 0.75)}


def cases(*, quick: bool) -> dict[str, Case]:
    """One row an algorithm."""
    algorithms = ["default", "paper", *(["kernel"] if has_kernel_shares() else [])]
    return {algorithm: partial(_case, algorithm, QUICK_RUN_S if quick else RUN_S) for algorithm in algorithms}


def _case(algorithm: str, run_s: float) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="utilctl-bench-") as folder:
        log = Path(folder, "changes")
        commands = [SPIN, workload("bursts", WARM_UP_S, COMPUTE_MS, SLEEP_MS, log), SPIN]
        if algorithm == "kernel":
            with kernel_shares(SHARES, command="") as prefixes:
                commands = [prefix + command for prefix, command in zip(prefixes, commands, strict=True)]
                return _run(commands, "none", log, run_s)
        return _run(commands, algorithm, log, run_s)


def _run(commands: Sequence[str], algorithm: str, log: Path, run_s: float) -> dict[str, Any]:
    principals = [Principal(share, command) for share, command in zip(SHARES, commands, strict=True)]
    alps = AlpsProcess(principals, algorithm, QUANTUM_MS, duration_s=WARM_UP_S + run_s)
    if recorder.refusal() is not None:
        raise RuntimeError(f"this experiment needs the recorder: {recorder.refusal()}")
    with Recorder(other_cpu()) as recorded, alps:
        result = alps.wait(WARM_UP_S + run_s + 60)
    return evaluate(result, recorded.recording(), read_changes(log.read_text()))


def read_changes(text: str) -> list[tuple[str, int]]:
    """(``compute`` or ``sleep``, since when) from the workload's log."""
    return [(kind, int(at)) for kind, at in (line.split() for line in text.splitlines() if line.count(" ") == 1)]


def evaluate(result: AlpsResult, recording: Recording, changes: list[tuple[str, int]]) -> dict[str, Any]:
    """Shares in both phases, and how soon after B's return the split is right again."""
    families = [recording.family(roots) for roots in result.roots]
    used: dict[str, list[list[int]]] = {"compute": [], "sleep": []}
    lasted_ms: dict[str, list[float]] = {"compute": [], "sleep": []}
    delays: list[int] = []
    unsettled = 0
    last_ns = result.ends_ns[-1]
    for (kind, start_ns), (_, end_ns) in pairwise(changes):
        if end_ns > last_ns:
            break
        used[kind].append([recording.cpu_ns(family, [start_ns, end_ns])[0] for family in families])
        lasted_ms[kind].append((end_ns - start_ns) / 1e6)
        if kind == "compute":
            settled = _cycles_until_right(result, recording, families, start_ns, end_ns)
            if settled is None:
                unsettled += 1
            else:
                delays.append(settled)
    row: dict[str, Any] = {"phases": len(used["compute"])}
    for kind, name in (("compute", "computing"), ("sleep", "blocked")):
        totals = [sum(column) for column in zip(*used[kind], strict=True)] or [0, 0, 0]
        row[name] = {
            "fractions": [round(value / max(1, sum(totals)), 4) for value in totals],
            "lasted_ms": rounded(statistics.median(lasted_ms[kind]), 1) if lasted_ms[kind] else None,
        }
        due = SHARES if kind == "compute" else BLOCKED_SHARES
        mine = totals if kind == "compute" else [totals[0], totals[2]]
        row[name]["rms_relative_error_pct"] = rounded(rms_relative_error_pct(mine, due), 3)
    row["cycles_until_right"] = rounded(statistics.fmean(delays), 2) if delays else None
    row["phases_never_right"] = unsettled
    row["overhead_pct"] = rounded(result.json["overhead_pct"])
    row["trace"] = _trace(result)
    return row


def _cycles_until_right(
    result: AlpsResult, recording: Recording, families: Sequence[set[int]], start_ns: int, end_ns: int
) -> int | None:
    """Which whole cycle within a computing phase is the first whose split is 1:2:3 again; 1 is the best possible."""
    edges = [at for at in result.ends_ns if start_ns <= at <= end_ns]
    if len(edges) < 2:
        return None
    columns = [recording.cpu_ns(family, edges) for family in families]
    for number, cycle in enumerate(zip(*columns, strict=True), start=1):
        if rms_relative_error_pct(cycle, SHARES) < SETTLED_PCT:
            return number
    return None


def _trace(result: AlpsResult) -> list[list[float]]:
    """Fractions of each logged cycle around the first sleeps, as Figure 6 of the paper shows them."""
    start = next((i for i, at in enumerate(result.ends_ns) if at > result.ends_ns[0] + (WARM_UP_S - 0.5) * 1e9), 0)
    return [[round(ns / max(1, sum(cycle)), 4) for ns in cycle] for cycle in result.logged_ns[start : start + 40]]


def plot(results: dict[str, Any], path: Path) -> None:
    """The default's fractions by cycle, as in Figure 6."""
    trace = results.get("default", {}).get("trace", [])
    series = {
        name: [(float(number), cycle[index]) for number, cycle in enumerate(trace)]
        for index, name in enumerate(("A, share 1", "B, share 2, sleeps", "C, share 3"))
    }
    lines(path, series, title="B begins to sleep 240 ms after every 80 ms of CPU", xlabel="cycle", ylabel="fraction")
