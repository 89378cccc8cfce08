"""Long cycles: who can afford it shares the core by the kernel's own fairness for a while.

In a cycle of many seconds one turn after the other costs a wake-up each, and nobody may wait for a whole cycle. But
far from the end of its allowance a principal need not be stopped at an exact instant: the kernel divides a core evenly
among threads, give or take a slice. So those with much allowance left are eligible *together* until each has used all
of it but a reserve, from which the exact turns at the end of the cycle are taken. They end at different times; so that
none of them waits longer than a round, they use only a fraction of it where their amounts differ much.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from utilctl_agent.alps.principal import Principal
from utilctl_common.quantities import NS_PER_MS

ROUND_NS: Final = 880_000_000
"""Time in which everybody has had a turn, if all cores are theirs. Below the longest pause, with room for others."""
TOGETHER_FROM: Final = 1.2
"""Rounds that must be left of a cycle before its end is anything but exact turns."""
LEAST_NS: Final = 12 * NS_PER_MS
"""Amounts smaller than this are left to exact turns: the kernel's fairness is a matter of slices of some 3 ms."""
NEAR_NS: Final = 40 * NS_PER_MS
"""Members expected to be done within this time end together. Arbitrary: half of the longest sleep."""
MANY: Final = 64
"""Fewer with very different amounts are better served by exact turns: as many wake-ups, and cheaper ones."""
LOOK_EACH_NS: Final = 20 * NS_PER_MS
"""The more members, the rarer all of them are read: this much time for each."""
LOOK_MOST_NS: Final = 5_000 * NS_PER_MS


def amounts_together(candidates: Iterable[tuple[Principal, int]], *, cycle_ns: int, round_ns: int) -> dict[str, int]:
    """How much each of the candidates (with its allowance) may use together with others; empty if nobody may.

    cycle_ns: CPU time of a cycle. round_ns: longest that one of them may have to wait for the last.
    """
    reserve = min(1.0, round_ns / cycle_ns)
    fits: list[tuple[float, int, Principal]] = []  # time for it alone, were it one thread; amount; who
    for principal, allowance_ns in candidates:
        amount_ns = allowance_ns - round(reserve * principal.allotment_ns)
        if amount_ns >= LEAST_NS:
            fits.append((amount_ns / principal.spec.parallelism, amount_ns, principal))
    fits.sort(key=lambda entry: entry[0])
    for first in range(len(fits) - 1):
        members = fits[first:]
        # Threads run at equal pace: when the shortest is done, each thread has used as much as it has.
        total_ns = sum(amount_ns for _, amount_ns, _ in members)
        spread_ns = total_ns - members[0][0] * sum(p.spec.parallelism for _, _, p in members)
        fraction = min(1.0, round_ns / spread_ns) if spread_ns > 0 else 1.0
        if fraction < 1.0 and len(members) < MANY:
            return {}
        if fraction * members[0][1] >= LEAST_NS:
            return {p.spec.name: int(fraction * amount_ns) for _, amount_ns, p in members}
    return {}


def pace(members: Iterable[Principal]) -> int:
    """Threads that divide the core."""
    return sum(principal.spec.parallelism for principal in members)


def expected_ns(principal: Principal, threads: int) -> int:
    """When ``principal`` is expected to have used its part, from now, if ``threads`` divide the core."""
    return (principal.allowance_ns - principal.turn_floor_ns) * threads // principal.spec.parallelism


def sleep_together_ns(members: Mapping[str, Principal], longest_ns: int) -> int:
    """Time until the members should be looked at: the first are then about done."""
    threads = pace(members.values())
    first_ns = min(expected_ns(principal, threads) for principal in members.values())
    return min(LOOK_MOST_NS, max(longest_ns, LOOK_EACH_NS * len(members)), max(NEAR_NS // 2, first_ns))
