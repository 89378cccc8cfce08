"""Crowds: so many hungry principals on one core that the kernel's slices alone take longer than a pause may.

A thread that is let go beside hundreds of others gets on the CPU once in as many slices. Exact turns at the end of a
cycle would have to hold most of them back for longer than anybody may be held back, and every breath in between costs
two decisions. So a crowd shares the core all the time, by the kernel's own fairness: only those are paused who are
ahead by more than a slice or two, and the cycle ends when all of it together has been used. What each one lacks then,
or has too much, is settled in the next cycle, so the error is that of a slice a cycle and nothing in the long run.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from utilctl_agent.alps.carry import DONE_NS
from utilctl_agent.alps.principal import Principal
from utilctl_agent.alps.rounds import ROUND_NS
from utilctl_common.quantities import NS_PER_MS

SLICE_NS: Final = 3 * NS_PER_MS
"""What a thread uses when it gets on a CPU that others want as well; the kernel's default is 2.8 ms."""
CROWDED: Final = 0.5
"""Part of a round that one slice of each may take. Beyond it, those who are done before the others wait too long."""
AHEAD: Final = 0.25
"""Part of its allotment that a member may use beyond it before it has to wait, if that is less than two slices."""
OVER_NS: Final = 5 * NS_PER_MS
"""A cycle ends when no more than this is left of it."""


def is_crowd(hungry: int) -> bool:
    """Whether so many share one core for better or worse."""
    return hungry * SLICE_NS >= CROWDED * ROUND_NS


def amounts(candidates: Iterable[tuple[Principal, int]]) -> dict[str, int]:
    """How much each of the candidates (with its allowance) may use before it has to wait for the end of the cycle."""
    return {
        principal.spec.name: allowance_ns + round(min(2 * SLICE_NS, AHEAD * principal.allotment_ns))
        for principal, allowance_ns in candidates
        if allowance_ns > DONE_NS
    }


def left_ns(hungry: Iterable[Iterable[Principal]]) -> int:
    """How much of the cycle is left to all of them together; debts count."""
    return sum(principal.left_ns for some in hungry for principal in some)
