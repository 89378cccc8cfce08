"""A plan being carried out: one switch after the other, each at its time, with as little work as possible.

After the work of others has been in the caches every line counts, so everything is looked up beforehand.

Where readings lag, what a turn has missed, or used too much, is made up for by the next turns of the same principal, a
part of it each time. So misses do not add up until the plan is off, and are not evened out all at once, which would
show as an error of that cycle. On one CPU misses are so small that to leave them for the end of the plan is better:
errors a cycle of 1:2:3 were 0.2 % that way, and 0.4 with every turn made up for.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Final, NamedTuple

from utilctl_agent.alps.model import Decision, Switch, Turn
from utilctl_agent.gang import Gang
from utilctl_agent.host.port import Group
from utilctl_common.errors import FailedError

NO_LIMIT_NS: Final = 1 << 62
MADE_UP: Final = 4
"""The next turn makes up for one part in so many of what was missed. Arbitrary: all of it would make two bad cycles of
one, as the turns' misses have nothing to do with each other; a tenth would let a constant miss grow tenfold."""


class _Point(NamedTuple):
    """A switch of the plan: whose turn ends and whose begins (None: that is to be decided).

    read: who is read (None: nobody), and what it must have consumed by then at least and at most.
    until_ns: when the turn that begins ends. again: the switch at which the one that is read has its next turn.
    """

    ending: Group | Gang
    following: Group | Gang | None
    read: Group | Gang | None
    least_ns: int
    most_ns: int
    until_ns: int
    again: int | None


class Track:
    """The plan, and how far it was carried out. Not thread-safe. Made anew for every plan.

    plan: its turns. failed: the turn that goes on does not use what it was expected to. next_ns: when to switch.
    """

    def __init__(
        self,
        decision: Decision,
        groups: dict[str, Group],
        *,
        settles: str | None,
        reach_ns: int | None,
        avoid: str | None,
        clock_ns: Callable[[], int],
    ) -> None:
        """settles: whose turn has just ended. reach_ns: until when it may be carried out. avoid: whose turns are to
        begin with a decision. clock_ns: to tell how long a switch takes.
        """
        self.plan = decision.plan
        self.failed = False
        self._reach_ns = NO_LIMIT_NS if reach_ns is None else reach_ns
        self._cores = decision.cores
        self._clock_ns = clock_ns
        self._done: list[tuple[int, int, int]] = []  # (now_ns, cpu_ns, took_ns) of the switches that were carried out
        self._late_ns = 0  # by how much later than planned turns end
        self._points = self._lay(decision, groups, settles, avoid)
        self._makes_up_ns = [0] * len(self._points)  # by how much longer the turn that begins there is
        self._next = self._points[0]
        self.next_ns = self.plan[0].until_ns

    def __bool__(self) -> bool:
        """Whether there is anything to switch."""
        return len(self._points) > 1

    @property
    def done(self) -> int:
        """How many switches were carried out."""
        return len(self._done)

    def _lay(
        self, decision: Decision, groups: dict[str, Group], settles: str | None, avoid: str | None
    ) -> list[_Point]:
        group_of = _lookup(groups)
        plan = decision.plan
        points: list[_Point] = []
        before = Turn(settles, 0, 0, NO_LIMIT_NS) if settles is not None else None
        for at, (ending, following) in enumerate(pairwise(plan)):
            if following.until_ns > self._reach_ns or avoid in following.names:
                break
            read = before if decision.lags else ending
            again = None
            if decision.lags and read is not None and read.least_cpu_ns > 0:
                again = next((i for i in range(at, len(plan) - 1) if plan[i + 1].names == read.names), None)
            points.append(
                _Point(
                    group_of(ending),
                    group_of(following),
                    group_of(read) if read is not None else None,
                    *((read.least_cpu_ns, read.most_cpu_ns) if read is not None else (0, 0)),
                    following.until_ns,
                    again,
                )
            )
            before = ending
        points.append(_Point(group_of(plan[len(points)]), None, None, 0, 0, 0, None))
        return points

    def switch(self, now_ns: int) -> int | None:
        """Switch as planned; returns when to wake next, or None if there is something to decide."""
        ending, following, read, least_ns, most_ns, until_ns, again = self._next
        if following is None or now_ns < self.next_ns:
            return None
        done = self._done
        at = len(done)
        cpu_ns = took_ns = 0
        try:
            if read is not None:
                cpu_ns = read.cpu_ns()
                if not least_ns <= cpu_ns <= most_ns:
                    self.failed = True
                    return None
                if again is not None and again < len(self._makes_up_ns):
                    missed_ns = (least_ns + most_ns) // 2 - cpu_ns
                    self._makes_up_ns[again] += missed_ns // (MADE_UP * self._cores)
            late_ns = self._late_ns + self._makes_up_ns[at]
            until_ns += late_ns
            if until_ns > self._reach_ns:
                return None
            if following is not ending:
                begin_ns = self._clock_ns()
                following.resume()
                ending.pause()
                took_ns = self._clock_ns() - begin_ns
        except FailedError:
            return None  # the decision that follows tries the same again, and deals with the refusal
        self._late_ns = late_ns
        done.append((now_ns, cpu_ns, took_ns))
        self._next = self._points[at + 1]
        self.next_ns = until_ns
        return until_ns

    def told(self) -> list[Switch]:
        """The switches that were carried out as the core is told of them. Once: readings of gangs are used up."""
        return [_told(*switch, point.read) for switch, point in zip(self._done, self._points, strict=False)]


def _lookup(groups: dict[str, Group]) -> Callable[[Turn], Group | Gang]:
    gangs: dict[tuple[str, ...], Gang] = {}

    def group_of(turn: Turn) -> Group | Gang:
        if not turn.others:
            return groups[turn.name]
        if turn.names not in gangs:
            gangs[turn.names] = Gang([groups[name] for name in turn.names])
        return gangs[turn.names]

    return group_of


def _told(now_ns: int, cpu_ns: int, took_ns: int, read: Group | Gang | None) -> Switch:
    """With the oldest reading of each if several shared the turn."""
    if not isinstance(read, Gang):
        return Switch(now_ns, cpu_ns, took_ns=took_ns)
    first_ns, *others_ns = read.taken.pop(0)
    return Switch(now_ns, first_ns, tuple(others_ns), took_ns)
