"""What principals of the default core take from one cycle into the next."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Final

from utilctl_agent.alps.principal import FULL_TOLERANCE_CORES, Principal
from utilctl_common.quantities import NS_PER_MS

DONE_NS: Final = 60_000
"""An allowance this small counts as used up. Arbitrary: about a wake-up latency; the rest is carried over."""
MIN_TURN_NS: Final = NS_PER_MS
"""Principals with less than half of this a cycle save it up and take one turn of it every few cycles."""


def threshold_ns(principal: Principal) -> int:
    """Allowance below which a hungry principal gets no new turn."""
    saves_up = principal.allotment_ns < MIN_TURN_NS // 2 and not principal.eligible
    return MIN_TURN_NS if saves_up else DONE_NS


def fills(principal: Principal, cores: int) -> bool:
    """Whether it uses all cores when it is alone on them."""
    return principal.rate_cores >= cores - 2 * FULL_TOLERANCE_CORES


def carry_over(principal: Principal, now_ns: int, *, cores: int, least_ns: int) -> None:
    """Its allowance at the end of a cycle becomes what it begins the next with, before the allotment.

    Of what is left over, only that is carried over which the principal was kept from using; a hungry one that fills all
    cores was kept from all of it. A light one, which competes by the kernel's fairness, may be kept from some of it in
    every cycle: it carries one allotment at most, lest it shut the others out for seconds once it is hungry. Debts are
    carried down to ``least_ns``.
    """
    if not principal.eligible:
        principal.credit_ns += round((now_ns - principal.ineligible_since_ns) * principal.rate_cores)
        principal.ineligible_since_ns = now_ns
    left_ns = principal.left_ns
    kept_from_all = principal.hungry and (cores == 1 or fills(principal, cores))
    if not principal.active:
        principal.credit_ns = 0  # since it was last observed it wanted nothing
    if not kept_from_all:
        left_ns = min(left_ns, principal.credit_ns)
    if not principal.hungry:
        left_ns = min(left_ns, principal.allotment_ns)
    left_ns = max(least_ns, left_ns)
    principal.allowance_ns = left_ns + principal.pending_ns
    principal.credit_ns = max(0, left_ns)


def cycles_until_ready(principals: Iterable[Principal]) -> int:
    """How many allotments it takes until somebody hungry can have a turn; nearly always one."""
    least = 0
    for principal in principals:
        if principal.hungry and principal.allotment_ns > 0 and principal.role != "capped":
            missing_ns = threshold_ns(principal) - principal.left_ns
            if missing_ns < principal.allotment_ns:
                return 1
            cycles = missing_ns // principal.allotment_ns + 1
            least = cycles if least == 0 or cycles < least else least
    return max(1, least)


def begin_cycle(principals: Collection[Principal], now_ns: int, *, cores: int, least_ns: int) -> None:
    """What everybody may use from now on: what is carried over, and an allotment, or more until somebody can run."""
    for principal in principals:
        carry_over(principal, now_ns, cores=cores, least_ns=least_ns)
    cycles = cycles_until_ready(principals)
    for principal in principals:
        principal.allowance_ns += cycles * principal.allotment_ns
        principal.turns = 0


def begin_afresh(principals: Iterable[Principal]) -> None:
    """A new cycle without anything carried over: what was used took nothing from anybody."""
    for principal in principals:
        principal.allowance_ns = principal.allotment_ns
        principal.credit_ns = 0
