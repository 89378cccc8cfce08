"""Long cycles: everybody gets several turns, one a round, so that nobody waits paused for too long.

What a principal has left is divided among the rounds that are left, so that small errors (a turn that began late, a
debt) make its later turns shorter, and it has one in every round.
"""

from __future__ import annotations

from typing import Final

from utilctl_agent.alps.carry import MIN_TURN_NS

ROUND_NS: Final = 880_000_000
"""Time in which everybody has had a turn, if all cores are theirs. Below the longest pause, with room for others."""


def rounds_in(cycle_ns: int, cores: int) -> int:
    """How many rounds a cycle of ``cycle_ns`` CPU time has on ``cores``; at least 1."""
    return max(1, -(-cycle_ns // (ROUND_NS * cores)))


def floor_ns(allowance_ns: int, turns: int, rounds: int) -> int:
    """The allowance at which the turn ends that begins with ``allowance_ns`` after ``turns`` others in this cycle."""
    left = rounds - turns
    if left <= 1:
        return 0
    portion_ns = max(MIN_TURN_NS, allowance_ns // left)
    floor = allowance_ns - portion_ns
    return floor if floor > portion_ns // 2 else 0  # a small rest is not worth a turn of its own


def turns_used(left_ns: int, allotment_ns: int, rounds: int) -> int:
    """How many of its turns a principal has had that has ``left_ns`` of its allotment left and will have another."""
    if allotment_ns <= 0:
        return rounds - 1
    return max(0, rounds - max(1, round(left_ns * rounds / allotment_ns)))
