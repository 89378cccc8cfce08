"""``allocate``: from claims to a verified allocation.

Steps: compile to integers; settle what is guaranteed (policy floors, then static totals in ``fleet-with-floor``);
settle fair totals depth by depth, top level first; place the leaves' totals on hosts in a balanced way; verify.

Below the top, a child's level is its total relative to its fair part of its parent's entitlement, that is
``X / (X_parent * share / sum of its siblings' shares)``, idle siblings not counted. Within one parent that is
``X / share``; the scale matters only where children of different parents are weighed against each other on a host.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from utilctl_controller.allocation.arcs import FloatArray
from utilctl_controller.allocation.balance import Found, balanced_splits
from utilctl_controller.allocation.instance import Instance, compile_problem
from utilctl_controller.allocation.model import Allocation, AllocationError, AllocationProblem
from utilctl_controller.allocation.network import LARGE_ARCS, Network, whole_fleet
from utilctl_controller.allocation.report import describe
from utilctl_controller.allocation.settle import settle_below, settle_top
from utilctl_controller.allocation.static import static_grants
from utilctl_controller.allocation.verify import verify_compiled
from utilctl_controller.allocation.warm import Start, row_of, warm_grants

_BANDS: Final = (math.inf, 0.05)
"""Short cuts tried in turn on large trees before the exact way (`settle`). Arbitrary; the first suffices for most."""


@dataclass(frozen=True, slots=True)
class Solution:
    """An allocation, and what the next one can start from."""

    allocation: Allocation
    instance: Instance
    start: Start | None


def allocate(problem: AllocationProblem) -> Allocation:
    """The exact allocation of ``problem``: the same for any order of its hosts and SEEs, and from run to run.

    Raises UsageError for bad input, naming the host or SEE and the field, and AllocationError when the result
    does not pass `verify`, which would be a defect of this package: nothing unverified is ever returned.
    """
    return solve(problem).allocation


def solve(problem: AllocationProblem, before: Solution | None = None, *, warm_arcs: int = LARGE_ARCS) -> Solution:
    """As ``allocate``, and faster where little has changed since ``before``, the solution of any earlier problem.

    The amounts are the same but for rounding (1e-9 cores, or of the amount). Fleets of fewer than ``warm_arcs``
    pairs of SEE and host take no time anyway, and are allocated from nothing.
    """
    instance = compile_problem(problem, before.instance if before else None)
    start = before.start if before else None
    if (
        start is not None
        and problem.mode != "host"
        and instance.levels == 1
        and len(instance.arcs) >= warm_arcs
        and start.fits(instance)
    ):
        notes: list[str] = []
        lower = guaranteed(instance, notes)
        try:
            found = warm_grants(instance, lower, start)
        except AllocationError:
            found = None  # the row is so wrong that guarantees contradict each other in it
        if found is not None:
            allocation = describe(problem, instance, found[0] / instance.ticks_per_core, notes)
            if not verify_compiled(problem, instance, allocation):
                return Solution(allocation, instance, found[1])
    return _from_nothing(problem, instance)


def _from_nothing(problem: AllocationProblem, instance: Instance) -> Solution:
    violations: tuple[str, ...]
    start: Start | None = None
    if problem.mode == "host":
        allocation = describe(problem, instance, static_grants(instance) / instance.ticks_per_core, [])
        violations = verify_compiled(problem, instance, allocation)
    else:
        allocation, violations, start = _fleet_allocation(problem, instance)
    if len(violations) > 0:
        more = f" (and {len(violations) - 1} more)" if len(violations) > 1 else ""
        raise AllocationError(
            f"the computed allocation is not right: {violations[0]}{more}",
            hint="targets stay as they are; report this problem's input",
        )
    return Solution(allocation, instance, start)


def _fleet_allocation(
    problem: AllocationProblem, instance: Instance
) -> tuple[Allocation, tuple[str, ...], Start | None]:
    """The allocation, what is wrong with it, and a start for the next one.

    Large trees are tried the quick way first; verification decides.
    """
    notes: list[str] = []
    lower = guaranteed(instance, notes)
    bands = _BANDS if instance.levels > 1 and len(instance.arcs) >= LARGE_ARCS else ()
    for band in bands:
        try:
            granted = _fleet_grants(instance, lower, band)[0] / instance.ticks_per_core
        except AllocationError:
            continue  # the short cut contradicted itself
        allocation = describe(problem, instance, granted, notes)
        if not verify_compiled(problem, instance, allocation):
            return allocation, (), None
    ticks, start = _fleet_grants(instance, lower, 0.0)
    allocation = describe(problem, instance, ticks / instance.ticks_per_core, notes)
    return allocation, verify_compiled(problem, instance, allocation), start


def _fleet_grants(instance: Instance, lower: list[int], band: float) -> tuple[FloatArray, Start | None]:
    """Ticks granted on every arc, and for fleets without a tree a start for the next allocation."""
    granted = np.zeros(len(instance.arcs))

    def fill(arcs: Any) -> None:  # noqa: ANN401 - list or array of arc ids
        granted[arcs] = instance.arcs.demand[arcs]

    network = whole_fleet(instance, lower)
    weight = list(instance.share)
    parts = settle_top(network, weight, fill)
    found = Found(np.zeros(len(instance.parent)), np.zeros(len(instance.hosts)))
    start = None
    if instance.levels == 1:
        start = Start(instance, row_of(parts, len(instance.parent)), found.ask, found.factor)
    for depth in range(2, instance.levels + 1):
        _weigh_children(instance, parts, depth, weight)
        members = [node_depth == depth for node_depth in instance.depth]
        parts = [piece for part in parts for piece in settle_below(part, weight, members, fill, band=band)]
    parts = [part for part in parts if len(part.arc_id) > 0]
    for part, split in zip(parts, balanced_splits(parts, found), strict=True):
        granted[part.arc_id] = split
    return granted, start


def _weigh_children(instance: Instance, parts: list[Network], depth: int, weight: list[float]) -> None:
    """Set the weights of the nodes at ``depth`` to their fair parts of their parents' totals, now final."""
    for part in parts:
        for node, origin in enumerate(part.node):
            if instance.depth[origin] == depth - 1:
                active = [child for child in instance.children[origin] if instance.upper[child] > 0]
                shares = sum(instance.share[child] for child in active)
                total = part.granted[node] + part.lower[node]
                for child in active:
                    weight[child] = total * instance.share[child] / shares
                for child in instance.children[origin]:
                    if instance.upper[child] == 0:
                        weight[child] = 0.0


def guaranteed(instance: Instance, notes: list[str]) -> list[int]:
    """What every node gets in any case, in ticks: floors and, in ``fleet-with-floor``, static totals.

    Floors come first. Where they cannot all be met they are scaled down by weighted max-min fairness with the floors
    themselves as weights: floors that compete with each other get the same fraction, the others stay whole; nodes
    of all depths count alike. Static totals are then granted likewise on top of the floors. Adds a note on each.
    """
    nothing = [0] * len(instance.parent)
    lower = _bottom_up(instance, _settle_guarantee(instance, nothing, instance.floor, "floor", notes))
    if instance.mode != "fleet-with-floor":
        return lower
    running = np.concatenate(([0], np.cumsum(static_grants(instance))))
    static = _bottom_up(instance, np.diff(running[instance.arc_start]).tolist())
    if not any(instance.floor):
        return static  # static shares are an allocation themselves, so they can all be met
    return _bottom_up(instance, _settle_guarantee(instance, lower, static, "static share", notes))


def _bottom_up(instance: Instance, amounts: list[int]) -> list[int]:
    result = list(amounts)
    below = [0] * len(result)
    for node in range(len(result) - 1, -1, -1):
        result[node] = max(result[node], below[node])
        if instance.parent[node] >= 0:
            below[instance.parent[node]] += result[node]
    return result


def _settle_guarantee(
    instance: Instance, lower: list[int], wanted: list[int], what: str, notes: list[str]
) -> list[int]:
    """As much of ``wanted`` as fits on top of ``lower``, scaled down fairly where it does not all fit."""
    if not any(want > low for want, low in zip(wanted, lower, strict=True)):
        return lower
    members = [want > low for want, low in zip(wanted, lower, strict=True)]
    parts = settle_below(
        whole_fleet(instance, lower), [float(want) for want in wanted], members, lambda _: None,
        top_level=1.0, shared_totals=False,
    )  # fmt: skip
    result = list(lower)
    slack = len(instance.parent) + len(instance.hosts)
    for part in parts:
        for node, origin in enumerate(part.node):
            got = part.granted[node] + part.lower[node]
            result[origin] = max(lower[origin], min(got, wanted[origin])) if members[origin] else lower[origin]
            if members[origin] and wanted[origin] - result[origin] > slack:
                notes.append(
                    f"{what} of {instance.path[origin]}: {wanted[origin] / instance.ticks_per_core:.6g} cores do not "
                    f"fit with the other guarantees; scaled down to {result[origin] / instance.ticks_per_core:.6g}"
                )
    notes.sort()
    return result


class Allocator:
    """``allocate`` for one problem after the other, each from the one before where that is faster.

    For one thread at a time; ``like_the_last`` may be asked by another.
    """

    def __init__(self) -> None:
        self._last: Solution | None = None

    def __call__(self, problem: AllocationProblem) -> Allocation:
        """Raises as ``allocate``; the last problem then stays what the next one starts from."""
        self._last = solve(problem, self._last)
        return self._last.allocation

    def like_the_last(self, problem: AllocationProblem) -> Allocation:
        """As ``allocate``, for a problem that comes of the last one and that no other will come of."""
        return solve(problem, self._last).allocation
