"""Turns planned ahead, so that whoever carries them out need not ask at every switch.

Where everybody is known to want all the CPU there is, what the default core will decide is known too: whose turn
comes next, how long it takes, and when the cycle ends. A wake-up that only switches costs a fraction of one that
decides, most of all because the interpreter's code for deciding has left the caches by then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from utilctl_agent.alps.model import Turn
from utilctl_agent.alps.principal import Principal
from utilctl_common.quantities import NS_PER_MS

HORIZON_NS: Final = 1000 * NS_PER_MS
"""How far ahead turns are planned, in whole turns. Arbitrary: longer saves little, and errors are only corrected, and
cycles only reported, when the plan is over."""
MOST_TURNS: Final = 100
"""Turns in a plan. Arbitrary: planning one costs some 10 us, and when the plan is off, the rest is planned in vain."""
FULL_USE: Final = 0.9
"""Part of a turn that must have been used for the plan to go on; as much beyond it is too much."""


@dataclass(frozen=True, slots=True)
class PlannedTurn:
    """A turn of the plan. floor_ns: allowance at its end. closes: a cycle ends where it begins."""

    turn: Turn
    principal: Principal
    floor_ns: int
    closes: bool


def plan_turns(
    current: Principal,
    queue: Iterable[Principal],
    everybody: Sequence[Principal],
    *,
    now_ns: int,
    cores: int,
    lead_ns: int,
    slack_ns: int,
    aim_ns: int,
    horizon_ns: int,
    closings_left: int | None,
    longest_ns: int,
    floor_ns: Callable[[Principal, int], int],
    threshold_ns: Callable[[Principal], int],
    together_from_ns: int,
    together: Callable[[Iterable[tuple[Principal, int]]], Mapping[str, int]],
) -> list[PlannedTurn]:
    """The turn of ``current`` (until its ``due_ns``) and those that follow it, in order; empty if none can follow.

    queue: who comes after it in this cycle. everybody: the order of turns in the next cycles. lead_ns: time that a
    turn takes beyond its allowance. slack_ns: how much less than expected may have been used of a turn. aim_ns: how
    much later the last one is to end. longest_ns: a turn longer than this is divided.
    closings_left: how many more cycles are wanted; a decision closes the last (None: no end).
    floor_ns(principal, allowance): where a turn that begins with this allowance ends.
    threshold_ns(principal): allowance below which there is no turn. together(candidates with allowances), asked once a
    cycle if ``together_from_ns`` are left of it: who shares a turn with others, which ends the plan.
    """
    allowance_ns = {id(p): p.left_ns for p in everybody}
    waiting = list(queue)
    left_ns = current.left_ns + sum(p.left_ns for p in waiting)
    least_ns: dict[int, int] = {}
    most_ns: dict[int, int] = {}
    plan: list[PlannedTurn] = []
    asked = False
    principal, floor, begin_ns, until_ns, closes = current, current.turn_floor_ns, now_ns, current.due_ns, False
    while True:
        key = id(principal)
        used_ns = max(0, allowance_ns[key] - floor)
        pieces = max(1, -(-(until_ns - begin_ns) // longest_ns))
        for piece in range(1, pieces + 1):
            end_ns = begin_ns + (until_ns - begin_ns) * piece // pieces
            seen_ns = least_ns.get(key, principal.last_cpu_ns + principal.pending_ns)
            least_ns[key] = seen_ns + int(FULL_USE * used_ns / pieces) - slack_ns
            seen_ns = most_ns.get(key, principal.last_cpu_ns + principal.pending_ns)
            most_ns[key] = seen_ns + int((2 - FULL_USE) * used_ns / pieces) + slack_ns
            turn = Turn(principal.spec.name, end_ns, least_ns[key], most_ns[key])
            plan.append(PlannedTurn(turn, principal, floor, closes))
            closes = False
        allowance_ns[key] -= used_ns
        if until_ns - now_ns >= horizon_ns or len(plan) >= MOST_TURNS:
            break
        if floor > 0:
            waiting.append(principal)
        closes = not waiting
        if closes:
            if closings_left is not None:
                closings_left -= 1
                if closings_left <= 0:
                    break
            for other in everybody:
                allowance_ns[id(other)] += other.allotment_ns
            waiting = [p for p in everybody if allowance_ns[id(p)] > threshold_ns(p)]
            if not waiting:
                break
        left_ns -= used_ns
        if closes:
            left_ns = sum(allowance_ns[id(p)] for p in waiting)
        if left_ns >= together_from_ns and (closes or not asked):
            asked = True
            if together((p, allowance_ns[id(p)]) for p in waiting):
                break
        principal = waiting.pop(0)
        floor = floor_ns(principal, allowance_ns[id(principal)])
        if principal is plan[-1].principal:
            break
        begin_ns = until_ns
        until_ns += (allowance_ns[id(principal)] - floor) // cores + lead_ns
    if len(plan) < 2:
        return []
    last = plan[-1]
    last_turn = last.turn._replace(until_ns=last.turn.until_ns + aim_ns)
    plan[-1] = PlannedTurn(last_turn, last.principal, last.floor_ns, last.closes)
    return plan
