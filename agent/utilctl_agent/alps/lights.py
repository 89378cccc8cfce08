"""How often those are looked at who take little, so that a thousand of them cost next to nothing.

Idle ones are glanced at: one cheap reading each now and then, and only whoever used anything is observed. Active ones
are looked at before they can have used their allowance, but the more of them there are, the rarer: each can then only
use a small part of the time in between, and what it overruns is a debt.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Final

from utilctl_agent.alps.feasible import usable_cores
from utilctl_agent.alps.model import CoreSettings, Reading
from utilctl_agent.alps.principal import Principal, Use, observe
from utilctl_common.quantities import NS_PER_MS, NS_PER_US

GLANCE_EACH_NS: Final = 2 * NS_PER_MS
"""Time for each idle principal between two glances: at some 5 us each, a quarter of a percent of a CPU."""
OBSERVE_EACH_NS: Final = 500 * NS_PER_US
"""Time for each active one between two looks: at some 15 us each, at most three percent of a CPU."""
STIRS: Final = 0.001
"""An idle principal that used this part of the time is observed."""


def glance_period_ns(count: int, settings: CoreSettings) -> int:
    """Time from one glance at the ``count`` idle ones to the next."""
    return max(settings.idle_sleep_ns, GLANCE_EACH_NS * count)


def glanced(principal: Principal, settings: CoreSettings, use: Use) -> None:
    """Conclude from a reading of an idle principal that it was blocked but for what it used, and whether it stirs."""
    stirs = principal.observed_used_ns > STIRS * principal.observed_ns
    observe(principal, Reading(principal.last_cpu_ns, None, blocked=True), settings, use)
    if stirs:
        principal.active = True
        principal.observe_at_ns = 0


def sleep_ns(lights: Iterable[Principal], settings: CoreSettings, *, contended: bool) -> int | None:
    """Time until the active ones should be looked at; None: nobody is active."""
    active = [principal for principal in lights if principal.active]
    if not active:
        return None
    if not contended:
        return max(2 * settings.quantum_ns, OBSERVE_EACH_NS * len(active))
    soonest_ns = min(p.allowance_ns // usable_cores(p.spec, settings.cores) for p in active)
    return max(settings.quantum_ns // 4, OBSERVE_EACH_NS * len(active), soonest_ns)


def idle(lights: Collection[Principal], everybody: int) -> bool:
    """Whether none of ``everybody`` does anything: all are light and inactive."""
    return len(lights) == everybody and not any(principal.active for principal in lights)
