"""The same allocation by linear programs: slow, simple, and sharing nothing with the package but its value types.

Lexicographic max-min by definition: raise the common level as far as an LP allows, find by one LP each who cannot get
more at that level, fix those, repeat. Demand, capacities, caps and guarantees are plain constraints.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import highspy
import numpy as np

from utilctl_controller.allocation import AllocationProblem

_EPSILON = 1e-7


@dataclass
class Program:
    """A transport polytope: one column an arc, plus one for the level; rows are added as fairness is settled."""

    problem: AllocationProblem
    arcs: list[tuple[str, str]]
    upper: list[float]
    rows: list[tuple[dict[int, float], float, float]]

    def solve(self, objective: Mapping[int, float], extra: list[tuple[dict[int, float], float, float]]) -> float:
        """The largest value of ``objective`` over the columns; the level is the last column."""
        model = highspy.Highs()  # type: ignore[no-untyped-call]  # publishes no types
        model.setOptionValue("output_flag", False)
        columns = len(self.arcs) + 1
        lp = highspy.HighsLp()
        lp.num_col_ = columns
        rows = self.rows + extra
        lp.num_row_ = len(rows)
        lp.col_cost_ = np.array([objective.get(column, 0.0) for column in range(columns)])
        lp.col_lower_ = np.zeros(columns)
        lp.col_upper_ = np.array([*self.upper, 1e9])
        lp.row_lower_ = np.array([low for _, low, _ in rows])
        lp.row_upper_ = np.array([high for _, _, high in rows])
        lp.sense_ = highspy.ObjSense.kMaximize
        lp.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
        lp.a_matrix_.start_ = np.cumsum([0, *(len(row) for row, _, _ in rows)])
        lp.a_matrix_.index_ = np.array([column for row, _, _ in rows for column in row], dtype=np.int32)
        lp.a_matrix_.value_ = np.array([value for row, _, _ in rows for value in row.values()])
        model.passModel(lp)
        model.run()
        status = model.getModelStatus()
        assert status == highspy.HighsModelStatus.kOptimal, status
        return float(model.getInfo().objective_function_value)


def oracle_totals(problem: AllocationProblem, static: Mapping[str, float] | None = None) -> dict[str, float]:
    """Totals of all nodes of the tree (implicit parents included) by fleet-wide lexicographic max-min.

    ``static`` adds the guarantee of ``fleet-with-floor`` by node. A parent's own demand is the node ``NAME#own``.
    """
    claims = {see.name: see for see in problem.sees}
    nodes = {"/".join(name.split("/")[:depth]) for name in claims for depth in range(1, name.count("/") + 2)}
    inner = {name.rpartition("/")[0] for name in nodes} - {""}
    own = {name + "/#own": name for name in inner if name in claims and any(claims[name].demand_cores.values())}
    nodes |= set(own)
    leaves = {name: claims[own.get(name, name)] for name in nodes - inner if own.get(name, name) in claims}
    capacity = {host.name: host.capacity_cores for host in problem.hosts}
    arcs = [(leaf, host) for leaf, see in leaves.items() for host in see.demand_cores]
    upper = [min(leaves[leaf].demand_cores[host], capacity[host]) for leaf, host in arcs]
    columns = {
        node: [column for column, (leaf, _) in enumerate(arcs) if leaf == node or leaf.startswith(node + "/")]
        for node in nodes
    }
    program = Program(problem, arcs, upper, [])
    for host, cores in capacity.items():
        program.rows.append(({c: 1.0 for c, (_, on) in enumerate(arcs) if on == host}, -1e9, cores))
    most: dict[str, float] = {}
    for node in sorted(nodes, key=lambda name: -name.count("/")):
        claim = claims.get(node)
        below = [child for child in nodes if child.rpartition("/")[0] == node]
        most[node] = sum(most[c] for c in below) if below else sum(upper[c] for c in columns[node])
        if claim and claim.cap_cores is not None:
            most[node] = min(most[node], claim.cap_cores)
            program.rows.append((dict.fromkeys(columns[node], 1.0), -1e9, claim.cap_cores))

    floors = {node: min(claims[node].floor_cores, most[node]) for node in nodes if node in claims}
    guarantees = [floors] if static is None else [floors, dict(static)]
    for guarantee in guarantees:
        wanted = {node: least for node, least in guarantee.items() if least > _EPSILON}
        got = _max_min(program, columns, wanted, wanted.__getitem__)
        for node, amount in got.items():
            program.rows.append((dict.fromkeys(columns[node], 1.0), amount - 1e-9, 1e9))

    totals: dict[str, float] = {}
    for depth in range(max((name.count("/") for name in nodes), default=-1) + 1):
        weight: dict[str, float] = {}
        for node in (name for name in nodes if name.count("/") == depth and most[name] > _EPSILON):
            above = node.rpartition("/")[0]
            siblings = [s for s in nodes if s.rpartition("/")[0] == above and most[s] > _EPSILON]
            shares = sum(_share(claims, s) for s in siblings)
            entitled = totals[above] if above else 1.0
            if entitled > _EPSILON:
                weight[node] = entitled * _share(claims, node) / shares
        got = _max_min(program, columns, weight, most.__getitem__)
        totals |= {node: got.get(node, 0.0) for node in nodes if node.count("/") == depth}
        for node, amount in got.items():
            program.rows.append((dict.fromkeys(columns[node], 1.0), amount - 1e-9, amount + 1e-9))
    return totals


def _share(claims: Mapping[str, object], node: str) -> float:
    claim = claims.get(node)
    return float(claim.share) if claim is not None else 1.0  # type: ignore[attr-defined]  # a SeeClaim


def _max_min(
    program: Program,
    columns: Mapping[str, list[int]],
    weight: Mapping[str, float],
    most: Callable[[str], float],
) -> dict[str, float]:
    """The max-min fair amounts of the nodes in ``weight``, each at most ``most``."""
    final: dict[str, float] = {}
    level_column = len(program.arcs)
    while len(final) < len(weight):
        rising = [node for node in weight if node not in final]
        kept = [(dict.fromkeys(columns[node], 1.0), amount - 1e-9, 1e9) for node, amount in final.items()]
        ceiling = min(most(node) / weight[node] for node in rising)
        raised = [({**dict.fromkeys(columns[node], 1.0), level_column: -weight[node]}, 0.0, 1e9) for node in rising]
        level = program.solve({level_column: 1.0}, [*kept, *raised, ({level_column: 1.0}, 0.0, ceiling)])
        at_level = [(dict.fromkeys(columns[node], 1.0), level * weight[node] - 1e-9, 1e9) for node in rising]
        stuck = {}
        for node in rising:
            best = program.solve(dict.fromkeys(columns[node], 1.0), [*kept, *at_level])
            if min(best, most(node)) <= level * weight[node] + _EPSILON * max(1.0, weight[node]):
                stuck[node] = min(level * weight[node], most(node))
        assert stuck, "the level is maximal, so it holds somebody"
        final |= stuck
    return final
