"""What the trials showed: JSON for machines, a table for people."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from chaos.trials import BOUNDS_NS, Outcome
from utilctl_common.quantities import NS_PER_MS

PROMISES: Final = {
    "resumed": "all resumed",
    "goes on": "longest pause of an agent that goes on",
    "after the next start": "all resumed, from the next start or thaw",
}
BEGIN: Final = "<!-- chaos -->"
END: Final = "<!-- end of chaos -->"
COLUMNS: Final = (
    "measured",
    "fault",
    "trials",
    "paused then, p50",
    "left paused",
    "over the bound",
    "p50 ms",
    "p99 ms",
    "max ms",
    "bound ms",
)


def percentile(values: Sequence[float], part: float) -> float:
    """The smallest value that ``part`` of the values do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]


def row(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Figures of some trials of one kind."""
    held_ms = [outcome.held_ns / NS_PER_MS for outcome in outcomes]
    return {
        "trials": len(outcomes),
        "paused_p50": percentile([outcome.paused for outcome in outcomes], 0.5),
        "left_paused": sum(len(outcome.left) for outcome in outcomes),
        "late": sum(not outcome.kept for outcome in outcomes),
        "bound_ms": BOUNDS_NS[outcomes[0].promise] / NS_PER_MS,
        "held_p50_ms": round(percentile(held_ms, 0.5), 1),
        "held_p99_ms": round(percentile(held_ms, 0.99), 1),
        "held_max_ms": round(max(held_ms), 1),
    }


def summary(outcomes: Sequence[Outcome], about: dict[str, Any]) -> dict[str, Any]:
    """Everything: totals, the rows of the table, each fault on each rig, and whatever broke a promise in full."""
    grouped: dict[tuple[str, str], list[Outcome]] = {}
    single: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        then = f", then {'a start' if outcome.remedy == 'start' else outcome.remedy}" if outcome.remedy else ""
        grouped.setdefault((outcome.promise, outcome.kind + then), []).append(outcome)
        single.setdefault(f"{outcome.rig}: {outcome.fault}{then}", []).append(outcome)
    order = list(PROMISES)
    rates = [outcome.pauses_per_s for outcome in outcomes]
    return {
        **about,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "trials": len(outcomes),
        "left_paused": sum(len(outcome.left) for outcome in outcomes),
        "late": sum(not outcome.kept for outcome in outcomes),
        "pauses_per_s_p50": percentile(rates, 0.5),
        "kinds": {
            f"{PROMISES[promise]} | {kind}": row(some)
            for (promise, kind), some in sorted(grouped.items(), key=lambda item: (order.index(item[0][0]), item[0][1]))
        },
        "faults": {name: row(some) for name, some in sorted(single.items())},
        "broken": [asdict(outcome) for outcome in outcomes if not outcome.kept],
    }


def text(report: dict[str, Any]) -> str:
    """For docs/safety.md: a sentence, the table, and the peer."""
    minutes = report["duration_s"] / 60
    total = (
        f"_{report['trials']} trials in {minutes:.0f} minutes, seed {report['seed']}, "
        f"{report['pauses_per_s_p50']:.0f} pauses a second just before the fault, {report['cpus']} CPUs, "
        f"Linux {report['kernel']}: **{report['left_paused']} processes or cgroups left paused**, "
        f"{report['late']} trials over the bound._"
    )
    lines = [
        total,
        "",
        f"| {' | '.join(COLUMNS)} |",
        f"| {' | '.join('---' for _ in COLUMNS)} |",
    ]
    for name, figures in report["kinds"].items():
        cells: Iterable[Any] = (
            *name.split(" | "),
            figures["trials"],
            figures["paused_p50"],
            figures["left_paused"],
            figures["late"],
            f"{figures['held_p50_ms']:.0f}",
            f"{figures['held_p99_ms']:.0f}",
            f"{figures['held_max_ms']:.0f}",
            f"{figures['bound_ms']:.0f}",
        )
        lines.append(f"| {' | '.join(map(str, cells))} |")
    if "peer" in report:
        peer = report["peer"]
        left = (
            f"Beside it, {peer['program']}, limit {peer['limit_pct']} %, killed {peer['trials']} times at random "
            f"instants: **{peer['left_stopped']} of {peer['targets']} processes left stopped** for good."
        )
        lines += ["", left]
    return "\n".join(lines) + "\n"


def update(page: Path, generated: str) -> None:
    """Put ``generated`` between the marks of ``page``."""
    before, _, rest = page.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    page.write_text(f"{before}{BEGIN}\n\n{generated}\n{END}{after}")
