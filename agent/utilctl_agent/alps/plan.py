"""Turns planned ahead, so that whoever carries them out need not ask at every switch.

Where everybody is known to want all the CPU there is, what the default core will decide is known too: whose turn
comes next, how long it takes, and when the cycle ends. A wake-up that only switches costs a fraction of one that
decides, most of all because the interpreter's code for deciding has left the caches by then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
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
"""Part of a turn that must have been used for the plan to go on; as much beyond it is too much. What was missed in
earlier turns counts as well: a plan must not carry small misses on for long."""


@dataclass(frozen=True, slots=True)
class PlannedTurn:
    """A turn of the plan. floor_ns: allowance at its end. turns: of it in its cycle, with this one. closes: a cycle
    ends where it begins."""

    turn: Turn
    principal: Principal
    floor_ns: int
    turns: int
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
    floor_ns: Callable[[int, int], int],
    round_now: int,
    threshold_ns: Callable[[Principal], int],
    together_from_ns: int,
    together: Callable[[Iterable[tuple[Principal, int]]], Mapping[str, int]],
) -> list[PlannedTurn]:
    """The turn of ``current`` (until its ``due_ns``) and those that follow it, in order; empty if none can follow.

    queue: who comes after it in this cycle. everybody: the order of turns in the next cycles. lead_ns: time that a
    turn takes beyond its allowance. slack_ns: how much more or less than expected may have been used. aim_ns: how
    much later the last one is to end. longest_ns: a turn longer than this is divided.
    closings_left: how many more cycles are wanted; a decision closes the last (None: no end).
    floor_ns(allowance, turns): where a turn that begins with this allowance, after that many in the cycle, ends.
    round_now: most turns that anybody has begun in this cycle; who has had fewer has missed them.
    threshold_ns(principal): allowance below which there is no turn. together(candidates with allowances), asked once a
    cycle if ``together_from_ns`` are left of it: who shares a turn with others, which ends the plan.
    """
    allowance_ns = {id(p): p.left_ns for p in everybody}
    waiting = list(queue)
    turns = {id(p): max(p.turns, round_now - 1) for p in everybody}
    turns[id(current)] = current.turns
    left_ns = current.left_ns + sum(p.left_ns for p in waiting)
    expected_ns = {id(p): p.last_cpu_ns + p.pending_ns for p in everybody}  # consumption, as the plan goes on
    plan: list[PlannedTurn] = []
    asked = False
    principal, floor, begin_ns, until_ns, closes = current, current.turn_floor_ns, now_ns, current.due_ns, False
    while True:
        key = id(principal)
        used_ns = max(0, allowance_ns[key] - floor)
        pieces = max(1, -(-(until_ns - begin_ns) // longest_ns))
        for piece in range(1, pieces + 1):
            end_ns = begin_ns + (until_ns - begin_ns) * piece // pieces
            piece_ns = used_ns // pieces
            expected_ns[key] += piece_ns
            tolerance_ns = round((1 - FULL_USE) * piece_ns) + slack_ns
            turn = Turn(principal.spec.name, end_ns, expected_ns[key] - tolerance_ns, expected_ns[key] + tolerance_ns)
            plan.append(PlannedTurn(turn, principal, floor, turns[key], closes))
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
                turns[id(other)] = 0
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
        floor = floor_ns(allowance_ns[id(principal)], turns[id(principal)])
        turns[id(principal)] += 1
        if principal is plan[-1].principal:
            break
        begin_ns = until_ns
        until_ns += (allowance_ns[id(principal)] - floor) // cores + lead_ns
    if len(plan) < 2:
        return []
    last = plan[-1]
    last_turn = last.turn._replace(until_ns=last.turn.until_ns + aim_ns)
    plan[-1] = replace(last, turn=last_turn)
    return plan
