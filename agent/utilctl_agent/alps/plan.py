"""Turns planned ahead, so that whoever carries them out need not ask at every switch.

Where everybody is known to want all the CPU there is, what the default core will decide is known too: whose turn
comes next, how long it takes, and when the cycle ends. A wake-up that only switches costs a fraction of one that
decides, most of all because the interpreter's code for deciding has left the caches by then.

On one core, principals that are due for equal parts of their allowance in a round that is not their last of the cycle
take one turn side by side. The kernel divides it among them, give or take a slice, in one wake-up instead of many, and
the exact turn in the last round makes up for the slices.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from utilctl_agent.alps import rounds
from utilctl_agent.alps.carry import threshold_ns
from utilctl_agent.alps.lead import AIM_NS, Lead
from utilctl_agent.alps.model import CoreSettings, Turn
from utilctl_agent.alps.principal import Principal
from utilctl_agent.alps.rounds import ROUND_NS
from utilctl_agent.alps.together import TOGETHER_FROM
from utilctl_common.quantities import NS_PER_MS

HORIZON_NS: Final = 1000 * NS_PER_MS
"""How far ahead turns are planned, in whole turns. Arbitrary: longer saves little, and errors are only corrected, and
cycles only reported, when the plan is over."""
FORESEEN_CYCLES: Final = 4
"""Planned in any case, however long they are: within a plan misses are evened out over several cycles."""
MOST_TURNS: Final = 100
"""Turns in a plan. Arbitrary: planning one costs some 10 us, and when the plan is off, the rest is planned in vain."""
FULL_USE: Final = 0.9
"""Part of a turn that must have been used for the plan to go on; as much beyond it is too much. What was missed in
earlier turns counts as well: a plan must not carry small misses on for long."""
FULL_USE_UNSEEN: Final = 0.75
"""The same where readings lag: with hundreds of processes some of a turn goes to those before, who get on a CPU one by
one to stop, and what one turn lacks is made up for by the next."""

SIDE_BY_SIDE: Final = 1.4
"""Those whose parts differ by less than this share a turn. Arbitrary: the larger, the fewer wake-ups, and the more is
left to the last round by those who would be due for more than the others."""
LESS_NS: Final = NS_PER_MS
"""By so much, or half of it, each part of a shared turn is less than what is due: a slice too much must not use up what
is left for the last round."""
RESERVE_NS: Final = 4 * NS_PER_MS
"""Whoever would have less than this left has exact turns: a slice of the kernel, 2.8 ms, and some more."""


class Place(NamedTuple):
    """A principal in a planned turn. floor_ns: its allowance at the end. turns: of it in its cycle, with this one."""

    principal: Principal
    floor_ns: int
    turns: int


class PlannedTurn(NamedTuple):
    """A turn of the plan. Pieces of one turn have the same ``places``. closes: a cycle ends where it begins."""

    turn: Turn
    places: tuple[Place, ...]
    closes: bool


class Rules(NamedTuple):
    """What the plan is made by.

    cores: CPUs. lead_ns: time that a turn takes beyond its allowance. full_use: part of a turn that must have been
    used. slack_ns: how much more or less may have been used beyond that. aim_ns: how much later the last turn is to
    end. horizon_ns: how far to plan, in whole turns. longest_ns: a turn longer than this is divided.
    floor_ns(allowance, turns): where a turn that begins with this allowance, after that many in the cycle, ends.
    threshold_ns(principal): allowance below which there is no turn.
    together_from_ns, together(candidates with allowances): asked once a cycle if so much is left of it, who shares a
    turn with others until they are done; that ends the plan. side_by_side: whether others may share a turn.
    """

    cores: int
    lead_ns: int
    full_use: float
    slack_ns: int
    aim_ns: int
    horizon_ns: int
    longest_ns: int
    floor_ns: Callable[[int, int], int]
    threshold_ns: Callable[[Principal], int]
    together_from_ns: int
    together: Callable[[Iterable[tuple[Principal, int]]], Mapping[str, int]]
    side_by_side: bool


def rules_for(
    settings: CoreSettings,
    lead: Lead,
    *,
    lagging: bool,
    cycle_ns: int,
    most_ns: int | None,
    together: Callable[[Iterable[tuple[Principal, int]]], Mapping[str, int]],
) -> Rules:
    """The rules of a core. lagging: its readings are late. cycle_ns: CPU time of a cycle. most_ns: how far to plan at
    most, if there is a bound."""
    horizon_ns = max(HORIZON_NS, FORESEEN_CYCLES * cycle_ns // settings.cores)
    rounds_in_cycle = rounds.rounds_in(cycle_ns, settings.cores)
    return Rules(
        cores=settings.cores,
        lead_ns=lead.planned_ns,
        full_use=FULL_USE_UNSEEN if lagging else FULL_USE,
        slack_ns=lead.most_ns * settings.cores,
        aim_ns=AIM_NS,
        horizon_ns=horizon_ns if most_ns is None else min(horizon_ns, most_ns),
        longest_ns=HORIZON_NS if lagging else settings.max_sleep_ns,
        floor_ns=lambda allowance_ns, turns: rounds.floor_ns(allowance_ns, turns, rounds_in_cycle),
        threshold_ns=threshold_ns,
        together_from_ns=round(TOGETHER_FROM * ROUND_NS),
        together=together,
        side_by_side=settings.cores == 1,
    )


def plan_turns(
    current: Principal,
    queue: Iterable[Principal],
    everybody: Sequence[Principal],
    rules: Rules,
    *,
    now_ns: int,
    round_now: int,
    closings_left: int | None,
) -> list[PlannedTurn]:
    """The turn of ``current`` (until its ``due_ns``) and those that follow it, in order; empty if none can follow.

    queue: who comes after it in this cycle. everybody: the order of turns in the next cycles.
    round_now: most turns that anybody has begun in this cycle; who has had fewer has missed them.
    closings_left: how many more cycles are wanted; a decision closes the last (None: no end).
    """
    books = _Books(current, everybody, rules, round_now)
    waiting = list(queue)
    left_ns = current.left_ns + sum(p.left_ns for p in waiting)
    plan: list[PlannedTurn] = []
    asked = False
    places: tuple[Place, ...] = (Place(current, current.turn_floor_ns, current.turns),)
    begin_ns, until_ns, closes = now_ns, current.due_ns, False
    while True:
        pieces = max(1, -(-(until_ns - begin_ns) // rules.longest_ns))
        for piece in range(1, pieces + 1):
            end_ns = begin_ns + (until_ns - begin_ns) * piece // pieces
            plan.append(PlannedTurn(books.turn(places, end_ns, pieces), places, closes))
            closes = False
        left_ns -= books.use(places)
        if until_ns - now_ns >= rules.horizon_ns or len(plan) >= MOST_TURNS:
            break
        waiting += [place.principal for place in places if place.floor_ns > 0]
        closes = not waiting
        if closes:
            if closings_left is not None:
                closings_left -= 1
                if closings_left <= 0:
                    break
            waiting = books.next_cycle(everybody)
            if not waiting:
                break
            left_ns = books.left_ns(waiting)
        if left_ns >= rules.together_from_ns and (closes or not asked):
            asked = True
            if rules.together(books.allowances(waiting)):
                break
        ending = {id(place.principal) for place in places}
        if id(waiting[0]) in ending:
            break
        places = books.next_places(waiting, ending)
        if not places:
            break
        begin_ns = until_ns
        until_ns += books.length_ns(places)
    if len(plan) < 2:
        return []
    last = plan[-1]
    plan[-1] = last._replace(turn=last.turn._replace(until_ns=last.turn.until_ns + rules.aim_ns))
    return plan


class _Books:
    """What everybody will have left and will have used as the plan goes on."""

    def __init__(self, current: Principal, everybody: Sequence[Principal], rules: Rules, round_now: int) -> None:
        self._rules = rules
        self._allowance_ns = {id(p): p.left_ns for p in everybody}
        self._expected_ns = {id(p): p.last_cpu_ns + p.pending_ns for p in everybody}  # consumption
        self._turns = {id(p): max(p.turns, round_now - 1) for p in everybody}
        self._turns[id(current)] = current.turns
        self._vague: set[int] = set()  # what they will have left is known to a slice only

    def turn(self, places: tuple[Place, ...], end_ns: int, pieces: int) -> Turn:
        """The next of so many equal pieces of a turn."""
        piece_ns = expected_ns = 0
        for principal, floor_ns, _ in places:
            part_ns = max(0, self._allowance_ns[id(principal)] - floor_ns) // pieces
            self._expected_ns[id(principal)] += part_ns
            piece_ns += part_ns
            expected_ns += self._expected_ns[id(principal)]
        tolerance_ns = round((1 - self._rules.full_use) * piece_ns) + self._rules.slack_ns
        name, *others = (place.principal.spec.name for place in places)
        return Turn(name, end_ns, expected_ns - tolerance_ns, expected_ns + tolerance_ns, tuple(others))

    def use(self, places: tuple[Place, ...]) -> int:
        """The turn is over; how much was used."""
        used_ns = 0
        for principal, floor_ns, _ in places:
            used_ns += max(0, self._allowance_ns[id(principal)] - floor_ns)
            self._allowance_ns[id(principal)] = min(self._allowance_ns[id(principal)], floor_ns)
        if len(places) > 1:
            self._vague.update(id(place.principal) for place in places)
        return used_ns

    def next_cycle(self, everybody: Sequence[Principal]) -> list[Principal]:
        """A cycle ends; who has a turn in the next one."""
        for principal in everybody:
            self._allowance_ns[id(principal)] += principal.allotment_ns
            self._turns[id(principal)] = 0
        return [p for p in everybody if self._allowance_ns[id(p)] > self._rules.threshold_ns(p)]

    def left_ns(self, principals: Iterable[Principal]) -> int:
        return sum(self._allowance_ns[id(p)] for p in principals)

    def allowances(self, principals: Iterable[Principal]) -> list[tuple[Principal, int]]:
        return [(p, self._allowance_ns[id(p)]) for p in principals]

    def next_places(self, waiting: list[Principal], ending: Collection[int]) -> tuple[Place, ...]:
        """Take those whose turn is next out of ``waiting``; nobody if it is not known well enough how long it takes.

        ending: identities of those whose turn ends then; they share none with the next one.
        """
        first = waiting.pop(0)
        if id(first) in self._vague:
            return ()
        due_ns, floor_ns = self._due_ns(first)
        members, total_ns = [first], due_ns
        if floor_ns > RESERVE_NS and self._rules.side_by_side:
            for other in waiting:
                if self._turns[id(other)] > self._turns[id(first)] or id(other) in self._vague or id(other) in ending:
                    continue
                other_ns, other_floor_ns = self._due_ns(other)
                alike = due_ns <= SIDE_BY_SIDE * other_ns and other_ns <= SIDE_BY_SIDE * due_ns
                if alike and other_floor_ns > RESERVE_NS:
                    members.append(other)
                    total_ns += other_ns
        for member in members:
            self._turns[id(member)] += 1
        if len(members) == 1:
            return (Place(first, floor_ns, self._turns[id(first)]),)
        taken = {id(member) for member in members}
        waiting[:] = [p for p in waiting if id(p) not in taken]
        mean_ns = total_ns // len(members)
        part_ns = mean_ns - min(mean_ns // 2, LESS_NS)
        return tuple(Place(p, self._allowance_ns[id(p)] - part_ns, self._turns[id(p)]) for p in members)

    def _due_ns(self, principal: Principal) -> tuple[int, int]:
        """What is due to it in its next turn, and its floor then."""
        allowance_ns = self._allowance_ns[id(principal)]
        floor_ns = self._rules.floor_ns(allowance_ns, self._turns[id(principal)])
        return allowance_ns - floor_ns, floor_ns

    def length_ns(self, places: tuple[Place, ...]) -> int:
        used_ns = sum(self._allowance_ns[id(place.principal)] - place.floor_ns for place in places)
        return used_ns // self._rules.cores + self._rules.lead_ns
