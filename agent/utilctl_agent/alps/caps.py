"""Caps of the default core: a bucket of CPU time that fills at the cap's pace and is drawn on by use."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from utilctl_agent.alps import lights
from utilctl_agent.alps.feasible import usable_cores
from utilctl_agent.alps.model import CoreSettings
from utilctl_agent.alps.principal import Principal

SOONEST_OF_QUANTUM: Final = 10
"""No bucket is looked at twice within this part of a quantum, 1 ms by default."""


def cap_of(principal: Principal) -> float:
    """The cap in cores of one that has a cap."""
    cap = principal.spec.cap_cores
    assert cap is not None
    return cap


def bucket_ns(principal: Principal, settings: CoreSettings, cycle_ns: int) -> int:
    """What its cap lets through at once: its part of a cycle, so that waiting for a turn costs it nothing."""
    return round(cap_of(principal) * max(settings.quantum_ns, cycle_ns // settings.cores))


def fill(principal: Principal, elapsed_ns: int, settings: CoreSettings, cycle_ns: int) -> int:
    """Let time pass for the bucket of ``principal``; returns what it holds when it is full."""
    most_ns = bucket_ns(principal, settings, cycle_ns)
    principal.cap_budget_ns = min(most_ns, principal.cap_budget_ns + round(cap_of(principal) * elapsed_ns))
    return most_ns


def caps_due_ns(capped: Collection[Principal], settings: CoreSettings, cycle_ns: int) -> int:
    """Time until a bucket can run dry, or, if it is dry, until it is half full.

    With many buckets, or tiny ones, later than that: what was used beyond them is a debt, so that caps hold over time.
    """
    dry_ns = full_ns = settings.idle_sleep_ns
    active = 0
    for principal in capped:
        if principal.role == "capped":
            missing_ns = bucket_ns(principal, settings, cycle_ns) // 2 - principal.cap_budget_ns
            full_ns = min(full_ns, round(missing_ns / cap_of(principal)) + 1)
        elif principal.active:
            active += 1
            dry_ns = min(dry_ns, principal.cap_budget_ns // usable_cores(principal.spec, settings.cores))
    least_ns = settings.quantum_ns // SOONEST_OF_QUANTUM
    return min(max(least_ns, full_ns), max(least_ns, lights.OBSERVE_EACH_NS * active, dry_ns))
