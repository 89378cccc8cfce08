"""The transaction benchmark's tables: response times, how far they are from the ideals, and what disturbed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from bench.markdown import number, table
from bench.transactions import CAPPING, Pooled, pooled

PUBLISHED_TREE: Final = (1.25, 2.33, 6.12)
"""Measured in section 8, in multiples of the service time; its model gives 1.27, 2.22, 4.99."""


def transactions(results: dict[str, Any]) -> str:
    """B1 to B5: a table for each experiment, then the batch rows, then totals by means of control."""
    found = pooled(results)
    parts = [
        _experiment({name: one for name, one in found.items() if name.startswith(experiment)})
        for experiment in sorted({name.split(",")[0] for name in found})
    ]
    batch = [row for row in results.values() if row["kind"] == "batch"]
    if batch:
        parts.append(_batch(batch))
    parts.append(_distances(found))
    parts.append(_circumstances(list(found.values())))
    return "\n\n".join(parts)


def _plus_minus(value: tuple[float, float], digits: int = 2) -> str:
    mean, half = value
    return number(mean, digits) if math.isinf(half) else f"{number(mean, digits)} ±{number(half, digits)}"


def _experiment(settings: Mapping[str, Pooled]) -> str:
    """Mean response times in multiples of the service time, a line a workload and one for what is conserved."""
    first = next(iter(settings.values())).rows[0]
    controls = list(first["controls"])
    cap = "simulated" not in first
    head = ["", "workload", "runs", "formula", *([] if cap else ["simulated, order drawn every 4 ms"])]
    head += ["the same transactions: model", *([] if cap else ["fair sharing"]), *controls]
    lines: list[Sequence[object]] = []
    for name, setting in settings.items():
        row = setting.rows[0]
        ideals = ("model_s",) if cap else ("model_s", "fair_s")
        for workload, called in enumerate(row["workloads"]):
            lines.append(
                [
                    name if workload == 0 else "",
                    f"{called} ({row['utilizations'][workload]:g})",
                    len(setting.rows) if workload == 0 else "",
                    number(row["formula"][workload]),
                    *([] if cap else [number(row["simulated"][workload])]),
                    *(number(setting.slowdown(setting.sums(ideal, workload), workload)[0]) for ideal in ideals),
                    *(_plus_minus(setting.slowdown(setting.measured(c, workload), workload)) for c in controls),
                ]
            )
        if len(row["workloads"]) > 1:
            lines.append(["", "mean by CPU used", "", *_conserved(setting, ideals, controls, cap)])
    text = table(head, lines)
    if first["workloads"] == ["1", "2", "3"] and "formula_flat" in first:
        published = ", ".join(number(value) for value in PUBLISHED_TREE)
        flat = ", ".join(number(value) for value in first["formula_flat"])
        text += f"\n\nPublished for this tree, measured: {published}. The formula for the same numbers flat: {flat}."
    return text


def _conserved(setting: Pooled, ideals: Sequence[str], controls: Sequence[str], cap: bool) -> list[str]:
    row = setting.rows[0]
    used = row["utilizations"]
    everyone = range(len(used))
    kinds = ("formula",) if cap else ("formula", "simulated")
    known = [sum(u * value for u, value in zip(used, row[kind], strict=True)) / sum(used) for kind in kinds]
    same = [setting.conserved([setting.sums(ideal, workload) for workload in everyone]) for ideal in ideals]
    seen = [setting.conserved([setting.measured(control, workload) for workload in everyone]) for control in controls]
    return [number(value) for value in (*known, *same, *seen)]


def _distances(settings: Mapping[str, Pooled]) -> str:
    """Measured over ideal on the same transactions."""
    lines: list[Sequence[object]] = []
    for name, setting in settings.items():
        row = setting.rows[0]
        for control in row["controls"]:
            if control in ("uncontrolled", "uncapped"):
                continue
            everyone = range(len(row["workloads"]))
            lines.append(
                [
                    name,
                    control,
                    ", ".join(_plus_minus(setting.against(control, workload, "model_s")) for workload in everyone),
                    ", ".join(_plus_minus(setting.against(control, workload, "fair_s")) for workload in everyone),
                ]
            )
    head = ["", "", "measured over the model, by workload", "measured over fair sharing (caps: a slower CPU)"]
    text = "The same as ratios, on the same transactions, with 95 % intervals in which luck of arrivals drops out:"
    return f"{text}\n\n{table(head, lines)}"


def _batch(rows: Sequence[Mapping[str, Any]]) -> str:
    controls = list(rows[0]["controls"])
    lines = [
        [
            " : ".join(f"{share:g}" for share in row["shares"]),
            ", ".join(number(value) for value in row["formula"]),
            *(", ".join(number(value) for value in row["controls"][control]["slowdown"]) for control in controls),
        ]
        for row in rows
    ]
    return f"Batch (always another job), shares:\n\n{table(['', 'formula', *controls], lines)}"


def _circumstances(settings: Sequence[Pooled]) -> str:
    """What the CPU under test did besides, and how punctual the load was, over all rows."""
    lines: list[Sequence[object]] = []
    told: dict[str, list[dict[str, Any]]] = {}
    excess: dict[str, list[float]] = {}
    for setting in settings:
        for row in setting.rows:
            for control, figures in row["controls"].items():
                told.setdefault(control, []).append(figures)
                excess.setdefault(control, []).append(100 * (sum(figures["used"]) / len(figures["used"]) - 1))
    for control, seen in told.items():
        overheads = [one["overhead_pct"] for one in seen if one["overhead_pct"] is not None]
        lines.append(
            [
                control,
                len(seen),
                number(sum(one["others_pct"] for one in seen) / len(seen)),
                number(sum(overheads) / len(overheads)) if overheads else "-",
                number(sum(excess[control]) / len(seen), 1),
                # Under caps that is what was asked for.
                number(sum(one["unserved_pct"] for one in seen) / len(seen), 1) if control not in CAPPING else "-",
                f"{max(one['late_us'][1] for one in seen)}, {max(one['late_us'][2] for one in seen)}",
            ]
        )
    head = ["", "runs", "CPU under test used by others, %", "overhead, both CPUs, %", "servers used more than asked, %",
            "transactions present, nobody served, %", "sent late, worst p99 and longest, us"]  # fmt: skip
    return table(head, lines)
