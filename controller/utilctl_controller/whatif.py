"""What changes of policies would do to the fleet as it is now: ``utilctl plan --live``. Pure.

The newest decision is asked again with other policies: the same hosts, the same demand, the same free cores. What
cannot be known beforehand is left out and said: what a service would start to use that has run nowhere so far, and what
the processes of a service would take once nothing holds them back any more.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from utilctl_common.errors import UsageError
from utilctl_common.policy import SeePolicy
from utilctl_controller.allocation.lint import unreachable
from utilctl_controller.allocation.model import Allocation, AllocationProblem, SeeAllocation, SeeClaim
from utilctl_controller.edits import DeleteEdit, PolicyEdit, apply_edit, unknown
from utilctl_controller.explain import NOTICEABLE_CORES


@dataclass(frozen=True, slots=True)
class Outlook:
    """One SEE before and after. ``hosts``: by host the cores before and after, where it has or would have any."""

    see: str
    old: SeePolicy | None
    new: SeePolicy | None
    demand_cores: float
    before_cores: float
    after_cores: float
    bottleneck: str
    hosts: Mapping[str, tuple[float, float]]


@dataclass(frozen=True, slots=True)
class WhatIf:
    """``outlooks``: of every SEE that is named or affected, by name. ``unaffected``: how many others there are.

    One is affected that would noticeably get more or less, in all or on some host.
    """

    outlooks: tuple[Outlook, ...]
    unaffected: int
    warnings: tuple[str, ...]


def changed(policies: Mapping[str, SeePolicy], edits: Iterable[PolicyEdit | DeleteEdit]) -> dict[str, SeePolicy]:
    """``policies`` after ``edits``.

    Raises UsageError for an edit that makes no policy and for an SEE that is named twice, NotFoundError for the
    deletion of one that is not there.
    """
    after = dict(policies)
    named: set[str] = set()
    for edit in edits:
        if edit.see in named:
            raise UsageError(f"{edit.see} is both changed and deleted, or named twice", hint="name it once")
        named.add(edit.see)
        if isinstance(edit, PolicyEdit):
            after[edit.see] = apply_edit(after.get(edit.see), edit)
        elif after.pop(edit.see, None) is None:
            raise unknown("service", edit.see, policies)
    return after


def problem_with(decided: AllocationProblem, policies: Mapping[str, SeePolicy]) -> AllocationProblem:
    """The problem that was decided last, with other policies."""
    demand = {claim.name: claim.demand_cores for claim in decided.sees}
    claims = (
        SeeClaim(name, policy.share, policy.floor_cores, policy.cap_cores, demand.get(name, {}))
        for name, policy in sorted(policies.items())
    )
    return replace(decided, sees=tuple(claims))


def compare(
    before: Mapping[str, SeePolicy],
    after: Mapping[str, SeePolicy],
    granted: Mapping[str, SeeAllocation],
    problem: AllocationProblem,
    allocation: Allocation,
) -> WhatIf:
    """granted: what the newest decision gives. problem: ``problem_with(..., after)``, and its allocation."""
    would_get = {one.name: one for one in allocation.sees}
    named = {see for see in {*before, *after} if before.get(see) != after.get(see)}
    demand = _demand(problem)
    outlooks: list[Outlook] = []
    for see in sorted({*before, *after}):
        wants = demand.get(see, 0.0)
        outlook = _outlook(see, before.get(see), after.get(see), granted.get(see), would_get.get(see), wants)
        if see in named or _differs(outlook):
            outlooks.append(outlook)
    return WhatIf(
        tuple(outlooks),
        len({*before, *after}) - len(outlooks),
        (*allocation.notes, *unreachable(problem, sorted(named & set(after))), *_unknowns(outlooks, named)),
    )


def _outlook(
    see: str,
    old: SeePolicy | None,
    new: SeePolicy | None,
    granted: SeeAllocation | None,
    would_get: SeeAllocation | None,
    demand_cores: float,
) -> Outlook:
    here = granted.host_cores if granted is not None else {}
    there = would_get.host_cores if would_get is not None else {}
    hosts = {host: (here.get(host, 0.0), there.get(host, 0.0)) for host in sorted({*here, *there})}
    return Outlook(
        see=see,
        old=old,
        new=new,
        demand_cores=demand_cores,
        before_cores=granted.total_cores if granted is not None else 0.0,
        after_cores=would_get.total_cores if would_get is not None else 0.0,
        bottleneck=would_get.bottleneck if would_get is not None else "",
        hosts={host: cores for host, cores in hosts.items() if max(cores) > 0},
    )


def _demand(problem: AllocationProblem) -> dict[str, float]:
    """What each wants in all, with those below it."""
    wanted: dict[str, float] = {}
    for claim in problem.sees:
        cores, see = sum(claim.demand_cores.values()), claim.name
        while see:
            wanted[see] = wanted.get(see, 0.0) + cores
            see = see.rpartition("/")[0]
    return wanted


def _differs(outlook: Outlook) -> bool:
    pairs = [(outlook.before_cores, outlook.after_cores), *outlook.hosts.values()]
    return any(abs(before - after) >= NOTICEABLE_CORES for before, after in pairs)


def _unknowns(outlooks: Iterable[Outlook], named: set[str]) -> Iterable[str]:
    for outlook in outlooks:
        if outlook.see not in named:
            continue
        if outlook.new is None:
            yield f"{outlook.see}: its processes run on, held back by nothing; what they use then is not counted here"
        elif outlook.new.hold is not None:
            yield f"{outlook.see} is held: its part of each host stays as it is until it is released"
        elif outlook.old is None:
            yield f"{outlook.see} is new: nothing is known of what it will use, so it is planned with nothing"
