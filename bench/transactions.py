"""B1 to B5: response times of transactions under shares and caps, real processes beside the model.

E. Bolker and Y. Ding, "On the performance impact of fair share scheduling" (2000), had random transactions served by
daemons under three vendors' schedulers. Here each workload is a process on one CPU that serves transactions of 20 ms
(mean, exponential; some five scheduler ticks) one after the other; they arrive at random instants, sent from the
other CPU. Response time: from the instant at which a transaction was to arrive until it is done.

Every means of control serves the same transactions, in turn in one row. Beside them stand the model's formula, a
simulated processor that draws the order anew at every tick, and what an ideal CPU makes of these very transactions in
the model and under fair sharing (``bench.transaction_streams``). A row is one run of one setting, so that runs can be
added (``--merge``); the tables put the runs of a setting together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from bench import recorder
from bench.harness import Case, has_kernel_shares, unified_root
from bench.plots import lines
from bench.transaction_servers import (
    Control,
    Served,
    alps,
    kernel_quota,
    kernel_shares,
    nested_alps,
    running,
    sandbox,
    serve,
    uncontrolled,
)
from bench.transaction_streams import (
    Stream,
    backlog,
    batch_sums,
    capped,
    fairly,
    modelled_ns,
    present_ns,
    ratio,
    replay,
    responses_ns,
    streams,
)
from utilctl_common.responsetime import Batch, Machine, Node, Transactions, predict
from utilctl_common.responsetime.simulation import simulate

SERVICE_S: Final = 0.02
RUN_S: Final = 24.0
QUICK_RUN_S: Final = 6.0
BATCH_RUN_S: Final = 8.0
RUNS: Final = 3
BATCH_S: Final = 3.0
"""Stretches of time that count as independent of each other; a queue forgets in about a second at 71 %."""
REDRAW_S: Final = 0.004
"""Between two draws of the order in the simulation: a tick."""
LONG_SERVICE_S: Final = 0.1
"""For one setting: whether longer transactions are nearer to the model."""
SIMULATED_JOBS: Final = 40_000
QUICK_JOBS: Final = 5_000

TWO: Final = (0.24, 0.47)
THREE: Final = (0.14, 0.21, 0.39)
TREE: Final = (0.215, 0.210, 0.176)
CAPPED_UTILIZATION: Final = 0.3

SHARING: Final[Mapping[str, Control]] = {
    "uncontrolled": uncontrolled,
    "kernel cpu.shares": kernel_shares,
    "utilctl, freezer": alps("freezer"),
    "utilctl, weights": alps("weight"),
}
CAPPING: Final[Mapping[str, Control]] = {
    "uncapped": uncontrolled,
    "kernel quota": kernel_quota,
    "utilctl sandbox": sandbox,
}
TREES: Final[Mapping[str, Control]] = {
    "kernel, tree": kernel_shares,
    "utilctl, freezer, nested": nested_alps,
    "utilctl, freezer, flat": alps("freezer"),
}


@dataclass(frozen=True, slots=True)
class Setting:
    """What is served, and by which means of control."""

    machine: Machine
    controls: Mapping[str, Control]


def guarantees(utilizations: Sequence[float], shares: Sequence[float], service_s: float = SERVICE_S) -> Machine:
    """Workloads side by side on one CPU."""
    return Machine(
        1,
        "guarantee",
        tuple(
            Node(str(number), share, load=Transactions(used, service_s))
            for number, (used, share) in enumerate(zip(utilizations, shares, strict=True), 1)
        ),
    )


def caps(utilizations: Sequence[float], parts: Sequence[float]) -> Machine:
    """Workloads side by side, each with its part of one CPU and never more."""
    return Machine(
        1,
        "cap",
        tuple(
            Node(str(number), 1.0, reserved_cores=part, load=Transactions(used, SERVICE_S))
            for number, (used, part) in enumerate(zip(utilizations, parts, strict=True), 1)
        ),
    )


def tree() -> Machine:
    """That of section 8."""
    one, two, three = (Transactions(used, SERVICE_S) for used in TREE)
    group = Node("group", 10_000, children=(Node("1", 10_000, load=one), Node("2", 1, load=two)))
    return Machine(1, "guarantee", (group, Node("3", 100, load=three)))


def flattened(machine: Machine) -> Machine:
    """The same numbers side by side, as section 8 does it: 10000 : 1 : 100."""
    return Machine(machine.cores, machine.semantics, machine.leaves())


def _ratio(shares: Sequence[float]) -> str:
    return " : ".join(f"{share:g}" for share in shares)


def settings(*, quick: bool) -> dict[str, Setting]:
    """By name. The short form has one of each kind."""
    found: dict[str, Setting] = {}
    for shares in ((3, 1),) if quick else ((1, 9), (1, 3), (1, 1), (3, 1), (9, 1)):
        found[f"B1, shares {_ratio(shares)}"] = Setting(guarantees(TWO, shares), SHARING)
    if not quick:
        longer = f"B1, shares 3 : 1, {1000 * LONG_SERVICE_S:g} ms"
        found[longer] = Setting(guarantees(TWO, (3, 1), LONG_SERVICE_S), SHARING)
        found["B2, shares 7 : 4"] = Setting(guarantees((0.3, 0.6), (7, 4)), SHARING)
    for part in (0.5,) if quick else (0.4, 0.5, 0.7):
        found[f"B3, cap {part:g}"] = Setting(caps([CAPPED_UTILIZATION], [part]), CAPPING)
    if not quick:
        found["B3, caps 0.4 and 0.58"] = Setting(caps(TWO, (0.4, 0.58)), CAPPING)
    three: tuple[tuple[int, ...], ...] = (
        (1, 1, 3),
        (1, 3, 1),
        (3, 1, 1),
        (2, 2, 1),
        (2, 1, 2),
        (1, 2, 2),
        (1, 1, 18),
        (1, 18, 1),
        (18, 1, 1),
    )
    for triple in three[:1] if quick else three:
        found[f"B4, shares {_ratio(triple)}"] = Setting(guarantees(THREE, triple), SHARING)
    if not quick:
        found["B5, tree"] = Setting(tree(), TREES)
    return found


def cases(*, quick: bool) -> dict[str, Case]:
    """A row for each run of each setting, first runs first; then batch work. Nothing if something is missing."""
    why = recorder.refusal()
    if not has_kernel_shares() or unified_root() is None:
        why = "it needs root, the version 1 cpu controller and cgroup version 2"
    if why is not None:
        print(f"  transactions are left out: {why}")
        return {}
    run_s, jobs = (QUICK_RUN_S, QUICK_JOBS) if quick else (RUN_S, SIMULATED_JOBS)
    found: dict[str, Case] = {}
    for seed in range(1, (1 if quick else RUNS) + 1):
        for name, setting in settings(quick=quick).items():
            found[f"{name}, run {seed}"] = partial(run_once, name, setting, seed, run_s, jobs)
    for shares in ((1, 3),) if quick else ((1, 9), (1, 3), (1, 1)):
        found[f"B3, batch, shares {_ratio(shares)}"] = partial(_batch, shares, QUICK_RUN_S if quick else BATCH_RUN_S)
    return found


def run_once(name: str, setting: Setting, seed: int, run_s: float, jobs: int) -> dict[str, Any]:
    """One row: all means of control on the same transactions. ``jobs`` are those of the simulation."""
    machine = setting.machine
    served = streams(machine, seed, run_s * 1e9)
    row: dict[str, Any] = {
        "kind": "transactions",
        "setting": name,
        "seed": seed,
        "run_s": run_s,
        **about(machine, jobs),
    }
    ideal, fair = ideals(machine, served)
    count = max(1, round(run_s / BATCH_S))
    sums = partial(_sums, served, batches=count)
    row["counts"] = sums([[1.0] * len(stream.arrivals_ns) for stream in served], unit=1.0)
    row["model_s"], row["fair_s"] = sums(ideal), sums(fair)
    row["offered"] = [round(sum(stream.services_ns) / (run_s * 1e9), 4) for stream in served]
    row["controls"] = {}
    with running(machine.nodes) as servers:
        for control, how in setting.controls.items():
            seen = serve(servers, served, how, run_s)
            row["controls"][control] = {
                "response_s": sums([responses_ns(*one) for one in zip(served, seen.ends_ns, strict=True)]),
                **_told(seen),
                "unserved_pct": round(100 * unserved(served, seen.ends_ns), 3),
            }
    return row


def unserved(served: Sequence[Stream], ends_ns: Sequence[Sequence[float]]) -> float:
    """The part of the time with transactions present that went by without serving any: others, switches, idling."""
    work_ns = sum(sum(stream.services_ns) for stream in served)
    return 1 - work_ns / present_ns(served, ends_ns)


def _told(seen: Served) -> dict[str, Any]:
    return {
        "used": [round(used, 4) for used in seen.used],
        "others_pct": round(seen.others_pct, 3),
        "late_us": seen.late_us,
        "overhead_pct": None if seen.said.overhead_pct is None else round(seen.said.overhead_pct, 3),
        "mechanism": seen.said.mechanism,
    }


def _sums(
    served: Sequence[Stream], values_ns: Sequence[Sequence[float]], *, batches: int, unit: float = 1e-9
) -> list[list[float]]:
    """By workload and stretch of time, in seconds."""
    return [
        [round(unit * total, 6) for total in batch_sums(stream.arrivals_ns, column, BATCH_S * 1e9, batches)]
        for stream, column in zip(served, values_ns, strict=True)
    ]


@cache
def about(machine: Machine, jobs: int) -> dict[str, Any]:
    """What the formulas and the simulation say of endless streams, in multiples of the service time."""
    leaves = machine.leaves()
    services_s = {leaf.load.service_time_s for leaf in leaves if leaf.load is not None}
    found: dict[str, Any] = {
        "service_s": services_s.pop(),
        "workloads": [leaf.name for leaf in leaves],
        "shares": [leaf.share if leaf.reserved_cores is None else leaf.reserved_cores for leaf in leaves],
        "utilizations": [leaf.utilization_cores for leaf in leaves],
        "formula": [round(one.slowdown or 0.0, 4) for one in predict(machine).workloads],
    }
    if machine.semantics == "guarantee":
        seen = simulate(machine, np.random.default_rng(1), jobs=jobs, redraw_s=REDRAW_S)
        found["simulated"] = [round(one.response_time_s / found["service_s"], 4) for one in seen]
    if any(node.children for node in machine.nodes):
        found["formula_flat"] = [round(one.slowdown or 0.0, 4) for one in predict(flattened(machine)).workloads]
    return found


def ideals(machine: Machine, served: Sequence[Stream]) -> tuple[list[list[float]], list[list[float]]]:
    """Response times (ns) of these transactions in the model, and under fair sharing; for caps both are the same."""
    if machine.semantics == "cap":
        rates = capped([node.reserved_cores or 0.0 for node in machine.nodes])
    else:
        rates = fairly(machine.nodes)
    ends = replay(served, rates)
    fluid = [responses_ns(*one) for one in zip(served, ends, strict=True)]
    return (fluid if machine.semantics == "cap" else modelled_ns(machine, served)), fluid


def _batch(shares: Sequence[float], run_s: float) -> dict[str, Any]:
    """Two workloads with always another job: wall time over CPU time while both have some."""
    machine = Machine(
        1, "guarantee", tuple(Node(str(n), share, load=Batch(SERVICE_S)) for n, share in enumerate(shares, 1))
    )
    # As many for each as it is due, so that both are done at about the same time.
    due = [share / sum(shares) for share in shares]
    served = [
        backlog(1, place, service_ns=SERVICE_S * 1e9, count=round(part * run_s / SERVICE_S))
        for place, part in enumerate(due)
    ]
    row: dict[str, Any] = {
        "kind": "batch",
        "shares": list(shares),
        "formula": [round(one.slowdown or 0.0, 4) for one in predict(machine).workloads],
        "controls": {},
    }
    with running(machine.nodes) as servers:
        for control, how in SHARING.items():
            seen = serve(servers, served, how, run_s)
            row["controls"][control] = {"slowdown": slowdowns(served, seen.ends_ns), **_told(seen)}
    return row


def slowdowns(served: Sequence[Stream], ends_ns: Sequence[Sequence[float]]) -> list[float]:
    """Wall time over CPU time of the jobs that were done while everybody still had some, the first fifth left out."""
    until_ns = min(ends[-1] for ends in ends_ns)
    from_ns = until_ns / 5
    found: list[float] = []
    for stream, ends in zip(served, ends_ns, strict=True):
        inside = [place for place, instant in enumerate(ends) if from_ns <= instant <= until_ns]
        first, last = inside[0], inside[-1]
        found.append(round((ends[last] - ends[first]) / sum(stream.services_ns[first + 1 : last + 1]), 4))
    return found


# -- putting runs together ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Pooled:
    """All runs of one setting: batches of all runs one after the other, by workload; ``rows[0]`` says what it is."""

    rows: tuple[dict[str, Any], ...]

    def sums(self, what: str, workload: int) -> list[float]:
        """Of ``counts``, ``model_s``, ``fair_s``."""
        return [value for row in self.rows for value in row[what][workload]]

    def measured(self, control: str, workload: int) -> list[float]:
        """Of the response times under this control."""
        return [value for row in self.rows for value in row["controls"][control]["response_s"][workload]]

    def slowdown(self, sums: Sequence[float], workload: int) -> tuple[float, float]:
        """Mean response time in multiples of the service time, and the half-width of its 95 % interval."""
        mean, half = ratio(sums, self.sums("counts", workload))
        service_s = self.rows[0]["service_s"]
        return mean / service_s, half / service_s

    def against(self, control: str, workload: int, ideal: str) -> tuple[float, float]:
        """Measured over an ideal on the same transactions, and the half-width of its 95 % interval."""
        return ratio(self.measured(control, workload), self.sums(ideal, workload))

    def conserved(self, sums: Sequence[Sequence[float]]) -> float:
        """Mean slowdown weighted by utilizations: what shares should not change."""
        used = self.rows[0]["utilizations"]
        means = [self.slowdown(column, workload)[0] for workload, column in enumerate(sums)]
        return float(sum(u * mean for u, mean in zip(used, means, strict=True)) / sum(used))


def pooled(results: Mapping[str, Any]) -> dict[str, Pooled]:
    """By setting, in the order of the rows."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in results.values():
        if row["kind"] == "transactions":
            found.setdefault(row["setting"], []).append(row)
    return {name: Pooled(tuple(rows)) for name, rows in found.items()}


def plot(results: dict[str, Any], path: Path) -> None:
    """Both workloads of B1 over the share of the first, as in Figures 1 to 3: the model and what was measured."""
    series: dict[str, list[tuple[float, float]]] = {}
    for name, setting in pooled(results).items():
        row = setting.rows[0]
        if not name.startswith("B1") or row["service_s"] != SERVICE_S:
            continue
        part = row["shares"][0] / sum(row["shares"])
        for workload in range(len(TWO)):
            label = f"workload {workload + 1}"
            shown = {"model, the same transactions": setting.sums("model_s", workload)}
            shown |= {c: setting.measured(c, workload) for c in row["controls"] if c != "uncontrolled"}
            for what, sums in shown.items():
                series.setdefault(f"{label}: {what}", []).append((part, setting.slowdown(sums, workload)[0]))
    drawn = {label: sorted(points) for label, points in series.items()}
    title = "Response times at utilizations 0.24 and 0.47"
    lines(path, drawn, title=title, xlabel="share of workload 1", ylabel="multiples of the service time")
