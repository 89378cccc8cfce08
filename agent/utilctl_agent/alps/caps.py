"""Caps of the default core: a bucket of CPU time that fills at the cap's pace and is drawn on by use."""

from __future__ import annotations

from utilctl_agent.alps.feasible import usable_cores
from utilctl_agent.alps.model import CoreSettings
from utilctl_agent.alps.principal import Principal


def cap_of(principal: Principal) -> float:
    """The cap in cores of one that has a cap."""
    cap = principal.spec.cap_cores
    assert cap is not None
    return cap


def bucket_ns(principal: Principal, settings: CoreSettings, cycle_ns: int) -> int:
    """What its cap lets through at once: its part of a cycle, so that waiting for a turn costs it nothing."""
    return round(cap_of(principal) * max(settings.quantum_ns, cycle_ns // settings.cores))


def cap_due_ns(principal: Principal, settings: CoreSettings, cycle_ns: int) -> int:
    """Time until the bucket can run dry, or, if it is dry, until it is half full."""
    if principal.role == "capped":
        missing_ns = bucket_ns(principal, settings, cycle_ns) // 2 - principal.cap_budget_ns
        return max(0, round(missing_ns / cap_of(principal))) + 1
    if not principal.active:
        return settings.idle_sleep_ns
    return max(0, principal.cap_budget_ns // usable_cores(principal.spec, settings.cores))
