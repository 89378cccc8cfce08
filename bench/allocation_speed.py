"""How long ``allocate`` takes, verification included, beside an LP solver on the first of its many steps.

Cold: every run builds a new problem and keeps nothing from the last; imports are counted apart. The peer, HiGHS,
solves one linear program a fleet: the highest common level. Exact max-min by linear programs needs at least one such
program for every distinct level, so its figure is a lower bound on what that approach would take.

    python bench/allocation_speed.py [--tree] [-o json]
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import time

from utilctl_controller.allocation import AllocationMode, AllocationProblem, HostCapacity, SeeClaim, allocate

SEES_ON_A_HOST = 20
SIZES = ((2, 3), (1_000, 200), (10_000, 1_000))
GOALS_S = {(2, 3): 0.001, (1_000, 200): 0.2, (10_000, 1_000): 2.0}


def fleet(hosts: int, sees: int, kind: str, mode: AllocationMode, *, parents: int, seed: int = 1) -> AllocationProblem:
    """A contended fleet; ``kind`` is the distribution of demand: uniform, or pareto (few large, many small)."""
    rng = random.Random(seed)
    demand: list[dict[str, float]] = [{} for _ in range(sees)]
    for host in range(hosts):
        for see in rng.sample(range(sees), min(sees, SEES_ON_A_HOST)):
            cores = rng.uniform(0.05, 2.0) if kind == "uniform" else rng.paretovariate(1.2) * 0.2
            demand[see][f"host-{host:05d}"] = round(cores, 3)
    names = [f"svc=p{see % parents}/class=c{see}" if parents else f"svc=s{see:04d}" for see in range(sees)]
    claims = [SeeClaim(names[see], rng.choice([1, 2, 3, 5, 10]), 0.0, None, demand[see]) for see in range(sees)]
    capacities = [HostCapacity(f"host-{host:05d}", rng.choice([4, 8, 16]) if sees > 3 else 1) for host in range(hosts)]
    return AllocationProblem(mode, tuple(capacities), tuple(claims))


def seconds(problem: AllocationProblem, repeats: int) -> tuple[float, float]:
    """Wall and CPU seconds of the fastest of ``repeats`` runs: the one that other work disturbed least."""
    best = (float("inf"), float("inf"))
    for _ in range(repeats):
        start, start_cpu = time.perf_counter(), time.process_time()
        allocate(problem)
        wall, cpu = time.perf_counter() - start, time.process_time() - start_cpu
        best = min(best[0], wall), min(best[1], cpu)
    return best


def peer_seconds(problem: AllocationProblem) -> float:
    """One linear program with HiGHS: the highest level that all SEEs can have at once."""
    import highspy
    import numpy as np

    start = time.perf_counter()
    hosts = {host.name: row for row, host in enumerate(problem.hosts)}
    arcs = [(s, hosts[host], cores) for s, see in enumerate(problem.sees) for host, cores in see.demand_cores.items()]
    lp = highspy.HighsLp()
    lp.num_col_, lp.num_row_ = len(arcs) + 1, len(hosts) + len(problem.sees)
    lp.col_cost_ = np.array([0.0] * len(arcs) + [1.0])
    lp.col_lower_, lp.col_upper_ = np.zeros(len(arcs) + 1), np.array([cores for *_, cores in arcs] + [1e9])
    lp.row_lower_ = np.array([-highspy.kHighsInf] * len(hosts) + [0.0] * len(problem.sees))
    capacities = [host.capacity_cores for host in problem.hosts]
    lp.row_upper_ = np.array(capacities + [highspy.kHighsInf] * len(problem.sees))
    lp.sense_ = highspy.ObjSense.kMaximize
    lp.a_matrix_.format_ = highspy.MatrixFormat.kColwise
    level = [(len(hosts) + s, -see.share) for s, see in enumerate(problem.sees)]
    entries = [entry for s, h, _ in arcs for entry in ((h, 1.0), (len(hosts) + s, 1.0))] + level
    lp.a_matrix_.start_ = np.array([*range(0, 2 * len(arcs) + 1, 2), len(entries)])
    lp.a_matrix_.index_ = np.array([row for row, _ in entries], dtype=np.int32)
    lp.a_matrix_.value_ = np.array([value for _, value in entries])
    model = highspy.Highs()  # type: ignore[no-untyped-call]  # publishes no types
    model.setOptionValue("output_flag", False)
    model.setOptionValue("threads", 1)
    model.passModel(lp)
    model.run()
    return time.perf_counter() - start


def import_seconds(statement: str) -> float:
    """What an import costs a fresh interpreter, beyond its own start."""
    code = f"import time; start = time.perf_counter(); {statement}; print(time.perf_counter() - start)"
    return float(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tree", action="store_true", help="also SEEs with parents, ten children each (slow)")
    parser.add_argument("-o", choices=("text", "json"), default="text", dest="output")
    options = parser.parse_args()
    rows: list[dict[str, object]] = []
    imports = ("import utilctl_controller.allocation", "import scipy.sparse.csgraph")
    rows += [{"what": statement, "s": import_seconds(statement)} for statement in imports]
    allocate(fleet(200, 40, "uniform", "fleet", parents=0))  # imports scipy, counted above
    for hosts, sees in SIZES:
        cases: list[tuple[str, AllocationMode, int]] = [
            ("uniform", "fleet", 0), ("pareto", "fleet", 0), ("uniform", "fleet-with-floor", 0), ("uniform", "host", 0),
        ]  # fmt: skip
        if options.tree and sees > 3:
            cases.append(("uniform", "fleet", sees // 10))
        for kind, mode, parents in cases:
            problem = fleet(hosts, sees, kind, mode, parents=parents)
            wall_s, cpu_s = seconds(problem, 200 if sees == 3 else 1 if parents else 3)
            row: dict[str, object] = {
                "what": f"{hosts} hosts x {sees} SEEs, {kind}, {mode}{', tree' if parents else ''}",
                "s": wall_s,
                "cpu_s": cpu_s,
                "goal_s": None if parents else GOALS_S[hosts, sees],
            }
            if mode == "fleet" and not parents and hosts < 10_000:  # there it runs for more than a minute
                row["one_lp_s"] = peer_seconds(problem)
            rows.append(row)
    if options.output == "json":
        print(json.dumps(rows, indent=1))
        return
    for row in rows:
        extra = "".join(
            f"  {key} {row[key]:.4g}" for key in ("cpu_s", "goal_s", "one_lp_s") if row.get(key) is not None
        )
        print(f"{row['what']:60} {row['s']:9.4f} s{extra}")


if __name__ == "__main__":
    main()
