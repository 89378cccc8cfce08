"""Results to Markdown tables, one function an experiment. Published figures stand beside ours; nothing is left out."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

from bench import scale
from bench.allocation import CHANGE_GOAL
from bench.blocking import PUBLISHED as PUBLISHED_BLOCKING
from bench.costs import PUBLISHED_US
from bench.independent import PUBLISHED_MEAN_PCT, PUBLISHED_WORST_PCT
from bench.markdown import number, percents, spread, table
from bench.transaction_tables import transactions
from bench.web import PUBLISHED_ALPS, PUBLISHED_UNCONTROLLED

NAMES: Final = {
    "default": "utilctl",
    "freezer": "utilctl, freezer",
    "weight": "utilctl, weights",
    "paper": "paper's algorithm",
    "paper-unoptimized": "paper's, unoptimized",
    "kernel": "kernel cpu.shares",
    "none": "uncontrolled",
}
"""How the algorithms are called on the page, in the order of the columns."""


def _present(rows: Iterable[dict[str, Any]]) -> list[str]:
    found = {algorithm for row in rows for algorithm in row["algorithms"]}
    return [name for name in NAMES if name in found]


def _error(figures: dict[str, Any] | None) -> str:
    if figures is None:
        return "-"
    return spread(figures.get("error_recorded_pct", figures["error_log_pct"]))


def accuracy(results: dict[str, Any]) -> str:
    """A1 and A2, then the long runs."""
    rows = {name: row for name, row in results.items() if " at " in name}
    algorithms = _present(rows.values())
    columns = [f"error: {NAMES[a]}" for a in algorithms]
    errors = [
        [name, row["cycles"], row["repeats"], *(_error(row["algorithms"].get(a)) for a in algorithms)]
        for name, row in rows.items()
    ]
    overheads = [
        [
            name,
            *(spread(row["algorithms"].get(a, {}).get("overhead_pct")) for a in algorithms),
            spread(row["algorithms"]["default"].get("overhead_recorded_pct")),
            spread(row["algorithms"]["default"]["wakeups_per_s"], 0),
        ]
        for name, row in rows.items()
    ]
    differences = [
        abs(figures["recorded_minus_log_pct"][bound])
        for row in rows.values()
        for figures in row["algorithms"].values()
        if "recorded_minus_log_pct" in figures
        for bound in ("min", "max")
    ]
    worst = f"{max(differences):.3f}" if differences else "-"
    long_runs = [
        [
            name.removesuffix(" long run"),
            row["cycles"],
            spread(row["algorithms"]["default"]["long_run_deviation_pct"], 3),
            spread(row["algorithms"]["default"].get("long_run_deviation_recorded_pct"), 3),
            _error(row["algorithms"]["default"]),
            spread(row["algorithms"]["default"].get("overhead_pct")),
        ]
        for name, row in results.items()
        if name.endswith(" long run")
    ]
    head = ["workload", "cycles", "runs", *columns]
    overhead_head = ["workload", *(f"overhead: {NAMES[a]}" for a in algorithms), "utilctl, recorded", "wake-ups/s"]
    long_head = ["workload, 10 ms", "cycles", "furthest off its share, log, %", "recorded, %"]
    long_head += ["error a cycle, %", "overhead, %"]
    published = "Overhead, percent of one CPU (published: typically under 0.3, up to about 0.8; "
    published += "lazy measurement saves 1.8x to 5.9x); of the baselines it is the observer's own:"
    return "\n\n".join(
        [
            "RMS relative error a cycle, percent, by the recorder (published: under 5 for most, skewed highest):",
            table(head, errors),
            f"The loop's own log differs from the recorder by {worst} percentage points of error at most.",
            published,
            table(overhead_head, overheads),
            "Long run of the default:",
            table(long_head, long_runs),
        ]
    )


def costs(results: dict[str, Any]) -> str:
    """A3."""
    timers = [
        [name, row["cpu_us"], row["late_p50_us"], row["late_p99_us"]]
        for name, row in results.items()
        if "cpu_us" in row
    ]
    reads = [row for row in results.values() if "us" in row]
    operations = list(dict.fromkeys(operation for row in reads for operation in row["us"]))
    head = ["us for n processes together", *(f"n = {row['processes']}" for row in reads)]
    body = [[operation, *(spread(row["us"].get(operation)) for row in reads)] for operation in operations]
    published = "; ".join(f"{what} {cost}" for what, cost in PUBLISHED_US.items())
    return "\n\n".join(
        [
            f"Published, in us: {published}.",
            table(["3 ms sleep", "CPU time, us", "late, median, us", "late, p99, us"], timers),
            table(head, sorted(body, key=lambda line: str(line[0]), reverse=True)),
        ]
    )


def blocking(results: dict[str, Any]) -> str:
    """A4."""
    head = ["", "A : B : C while B computes, %", "while B is blocked, %", "cycles until right again",
            "computing phases never right", "overhead, %"]  # fmt: skip
    rows: list[list[object]] = [
        ["published", *(percents(PUBLISHED_BLOCKING[phase]) for phase in ("computing", "blocked")), "-", "-", "-"]
    ]
    for name, row in results.items():
        splits = [percents(row[phase]["fractions"]) for phase in ("computing", "blocked")]
        never = f"{row['phases_never_right']} of {row['phases']}"
        settled = number(row["cycles_until_right"])
        rows.append([NAMES[name], *splits, settled, never, number(row["overhead_pct"])])
    return table(head, rows)


def independent(results: dict[str, Any]) -> str:
    """A5."""
    head = ["", "mean relative error, %", "worst, %", "overhead of A, B, C, %"]
    rows: list[list[object]] = [["published", PUBLISHED_MEAN_PCT, PUBLISHED_WORST_PCT, "-"]]
    for name, row in results.items():
        overheads = ", ".join(number(value) for value in row["overhead_pct"].values())
        rows.append(
            [NAMES[name], number(row["mean_relative_error_pct"]), number(row["worst_relative_error_pct"]), overheads]
        )
    detail = [
        [NAMES[name], phase, group, number(100 * figures["of_the_cpu"], 1), percents(figures["fractions"]),
         ", ".join(number(error) for error in figures["relative_error_pct"])]
        for name, row in results.items()
        for phase, groups in row["phases"].items()
        for group, figures in groups.items()
    ]  # fmt: skip
    detail_head = ["", "phase", "group", "of the CPU, %", "split, %", "relative errors, %"]
    return f"{table(head, rows)}\n\n{table(detail_head, detail)}"


def scaling(results: dict[str, Any]) -> str:
    """A6."""
    rows = [
        [
            name,
            row["cycles"],
            *(_error(row["algorithms"].get(a)) for a in ("default", "paper")),
            *(spread(row["algorithms"].get(a, {}).get("overhead_pct")) for a in ("default", "paper")),
            number(100 / (row["processes"] + 1)),
        ]
        for name, row in results.items()
    ]
    head = ["", "cycles", "error: utilctl", "error: paper's", "overhead: utilctl", "overhead: paper's",
            "100 / (n + 1)"]  # fmt: skip
    lost = [
        [f"{quantum_ms:g} ms", NAMES[algorithm], *(_or_never(value) for value in found.values()),
         scale.PUBLISHED_LOST_AT[quantum_ms]]
        for quantum_ms in sorted({row["quantum_ms"] for row in results.values()})
        for algorithm in ("default", "paper")
        for found in [scale.lost_at(results, algorithm, quantum_ms)]
    ]  # fmt: skip
    lost_head = ["quantum", "", "error above 5 % from n =", "overhead above 100 / (n + 1) from n =", "published, n ="]
    slopes = ", ".join(f"{slope} at {q:g} ms" for q, slope in scale.PUBLISHED_OVERHEAD_SLOPE_PCT.items())
    text = f"Published slope of the overhead, percent a process: {slopes}."
    return f"{table(head, rows)}\n\n{table(lost_head, lost)}\n\n{text}"


def _or_never(value: int | None) -> str:
    return "not reached" if value is None else str(value)


def web(results: dict[str, Any]) -> str:
    """A7."""
    published = "Published, requests/s: " + ", ".join(map(str, PUBLISHED_UNCONTROLLED))
    parts = [f"{published} uncontrolled; {', '.join(map(str, PUBLISHED_ALPS))} under ALPS; no latencies, no total."]
    for case, row in results.items():
        head = ["", "requests/s by site", "total", "CPU split, %", "p50, ms", "p95, ms", "p99, ms", "overhead, %"]
        rows = [
            [
                name,
                _sites(figures, "requests_per_s"),
                spread(figures["total_requests_per_s"], 1),
                percents([site["cpu_fraction"]["median"] for site in figures["sites"]]),
                *(_sites(figures, f"{p}_ms") for p in ("p50", "p95", "p99")),
                spread(figures.get("overhead_pct")),
            ]
            for name, figures in row["controls"].items()
        ]
        parts += [
            f"{case.capitalize()} ({row['connections']} connections a site, shares 1 : 2 : 3):",
            table(head, rows),
        ]
    return "\n\n".join(parts)


def _sites(figures: dict[str, Any], what: str) -> str:
    return ", ".join(number(site[what]["median"], 1) for site in figures["sites"])


def multicore(results: dict[str, Any]) -> str:
    """A8."""
    head = ["", "", "split, %", "due, %", "furthest off, %", "error a cycle, %", "idle, %", "overhead, %"]
    rows = [
        [name, NAMES[algorithm], f"failed: {figures['failed']}", *[""] * 5]
        if "failed" in figures
        else [
            name,
            NAMES[algorithm],
            percents(figures.get("fractions_recorded", figures["fractions_log"])),
            percents(row["due"]),
            number(figures.get("worst_deviation_recorded_pct", figures["worst_deviation_log_pct"])),
            number(figures.get("error_recorded_pct", figures["error_log_pct"])),
            number(figures.get("idle_recorded_pct", figures.get("idle_pct"))),
            number(figures.get("overhead_recorded_pct", figures.get("overhead_pct"))),
        ]
        for name, row in results.items()
        for algorithm, figures in row["algorithms"].items()
    ]
    return table(head, rows)


def idle(results: dict[str, Any]) -> str:
    """The idle agent."""
    head = ["", "agent, % of one CPU", "by its own CPU clocks", "controller, %", "by its own CPU clocks"]
    rows = [
        [name, *(number(row.get(f"{who}{kind}_pct")) for who in ("agent", "controller") for kind in ("", "_accounted"))]
        for name, row in results.items()
    ]
    return table(head, rows)


def allocation(results: dict[str, Any]) -> str:
    """The controller's allocation."""
    head = [
        "",
        "pairs",
        "runs",
        "cold, s of CPU",
        "goal, s",
        "1 % of the demands changed, s",
        f"{100 * CHANGE_GOAL:.0f} % of the cold goal, s",
        "of cold, %",
    ]
    rows = [
        [
            name,
            row["pairs"],
            row["repeats"],
            spread(row["cold_s"], 3),
            number(row["goal_s"], 1),
            spread(row.get("changed_s"), 3),
            number(CHANGE_GOAL * row["goal_s"], 2) if "changed_s" in row else "-",
            number(100 * row["changed_s"]["median"] / row["cold_s"]["median"], 0) if "changed_s" in row else "-",
        ]
        for name, row in results.items()
    ]
    return table(head, rows)


def fairness(results: dict[str, Any]) -> str:
    """F1."""
    head = ["", "runs", "smallest over largest cores per share, measured", "per-host shares", "cores, measured"]
    rows = [
        [
            name,
            row["repeats"],
            spread(row["measured_min_max_ratio"], 4),
            number(row["per_host_min_max_ratio"], 2),
            ", ".join(f"{see} {number(cores['median'], 3)}" for see, cores in row.get("measured_cores", {}).items())
            or "-",
        ]
        for name, row in results.items()
    ]
    return table(head, rows)


def fleet(results: dict[str, Any]) -> str:
    """Agents on one controller."""
    head = [
        "",
        "cores",
        "memory, MB",
        "a report, p50, ms",
        "p99",
        "longest",
        "a call, p99, ms",
        "all back after a kill, s",
    ]
    load = [
        [
            name,
            number(row["controller_cores"], 2),
            number(row["controller_rss_mb"], 0),
            *(number(row[f"report_{which}_ms"], 1) for which in ("p50", "p99", "max")),
            number(row["call_p99_ms"], 1),
            number(row["all_back_after_kill_s"], 1),
        ]
        for name, row in results.items()
        if "controller_cores" in row
    ]
    parts = [table(head, load)]
    ways = [
        [
            name,
            row["changes"],
            number(row["acknowledged_p50_ms"], 0),
            number(row["applied_p50_ms"], 0),
            *(number(row[f"on_every_agent_{which}_ms"], 0) for which in ("p50", "p99")),
        ]
        for name, row in results.items()
        if "applied_p50_ms" in row
    ]
    if ways:
        head = ["", "changes", "acknowledged, ms", "on an agent, ms", "on every agent, p50, ms", "p99, ms"]
        parts.append(table(head, ways))
    cycles = [
        [
            name,
            row["changes"],
            row["overtaken"],
            *(number(row[f"first_cycle_{which}_ms"], 0) for which in ("p50", "p90", "max")),
            number(row["with_start_of_command_max_ms"], 0),
        ]
        for name, row in results.items()
        if "first_cycle_p50_ms" in row
    ]
    if cycles:
        head = ["", "changes", "overtaken", "enforced, p50, ms", "p90", "longest", "longest with the command's start"]
        parts.append(table(head, cycles))
    return "\n\n".join(parts)


SANDBOXES = {"utilctl": "utilctl", "utilctl_signal": "by signals", "quota_alone": "quota alone", "cpulimit": "cpulimit"}


def sandbox(results: dict[str, Any]) -> str:
    """S1 to S3."""
    rows = {name: row for name, row in results.items() if row["kind"] == "S1"}
    figures = {"got, %": ("got_pct", 2), "own CPU, %": ("own_pct", 3), "longest stretch, ms": ("longest_stretch_ms", 0)}
    parts = [
        table(
            [title, *SANDBOXES.values()],
            [
                [name, *(number((row.get(who) or {}).get(what), digits) for who in SANDBOXES)]
                for name, row in rows.items()
            ],
        )
        for title, (what, digits) in figures.items()
    ]
    waiting = [
        [f"{name}: {title}", number(row[who]["burst_stretch"], 2), number(row[who]["wait_stretch"], 2)]
        for name, row in results.items()
        if row["kind"] == "S2"
        for who, title in {"uncapped": "uncapped", **SANDBOXES, "utilctl_by_state": "by states"}.items()
        if who in row
    ]
    if waiting:
        parts.append(table(["", "bursts take so many times longer", "waits"], waiting))
    children = [
        [name, *(number((row.get(who) or {}).get("got_pct"), 1) for who in ("uncapped", *SANDBOXES))]
        for name, row in results.items()
        if row["kind"] == "S3"
    ]
    if children:
        parts.append(table(["got, %", "uncapped", *SANDBOXES.values()], children))
    return "\n\n".join(parts)


def agent_memory(results: dict[str, Any]) -> str:
    """What an agent takes."""
    rows = [
        [name, number(row["total_mb"], 1), number(row["goal_mb"], 0), number(row.get("alone_mb"), 1)]
        + [number(row["parts_mb"].get(part), 1) for part in ("guard", "loop", "link")]
        for name, row in results.items()
    ]
    return table(["", "in all, MB", "goal, MB", "alone, MB", "guard", "loop", "link"], rows)


def response_times(results: dict[str, Any]) -> str:
    """The response-time model: speed, then what its assumptions cost."""
    speed = [
        [
            name,
            row["repeats"],
            spread(row["model_s"], 4),
            number(row["goal_s"], 0),
            number(row.get("enumeration_s"), 4),
            f"{row['largest_difference']:.0e}" if "largest_difference" in row else "-",
            f"{row['conservation_error']:.0e}",
        ]
        for name, row in results.items()
        if row["kind"] == "speed"
    ]
    head = ["", "runs", "model, s of CPU", "goal, s", "all orders, s", "largest difference", "conservation off by"]
    parts = [table(head, speed)]
    errors = [
        [
            name,
            ", ".join(number(value) for value in row["predicted_s"].values()),
            ", ".join(spread(value) for value in row["simulated_s"].values()),
            number(row["largest_error_pct"], 1),
        ]
        for name, row in results.items()
        if row["kind"] == "assumption"
    ]
    if errors:
        parts.append(table(["", "predicted, s", "simulated, s", "largest error, %"], errors))
    return "\n\n".join(parts)


TABLES: Final[dict[str, Callable[[dict[str, Any]], str]]] = {
    "accuracy": accuracy,
    "costs": costs,
    "blocking": blocking,
    "independent": independent,
    "scale": scaling,
    "web": web,
    "multicore": multicore,
    "idle": idle,
    "allocation": allocation,
    "fairness": fairness,
    "fleet": fleet,
    "response_times": response_times,
    "agent_memory": agent_memory,
    "sandbox": sandbox,
    "transactions": transactions,
}
