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

from utilctl_agent.alps.crowd import amounts as crowd_amounts
from utilctl_agent.alps.principal import LOOK_NS, TRUSTED, Principal
from utilctl_common.quantities import NS_PER_MS

TOGETHER_FROM: Final = 1.2
"""Rounds that must be left of a cycle before its end is anything but exact turns."""
LEAST_NS: Final = 12 * NS_PER_MS
"""Amounts smaller than this are left to exact turns: the kernel's fairness is a matter of slices of some 3 ms."""
NEAR_NS: Final = 40 * NS_PER_MS
"""Members expected to be done within this time end together. Arbitrary: half of the longest sleep."""
FULL: Final = 0.9
"""Part of the core that members use at least if they are hungry."""
OVERRUN_NS: Final = 2 * NS_PER_MS
"""What a member may use beyond its part because others were done earlier than foreseen. Within the reserve."""
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
    left_out = 0
    for principal, allowance_ns in candidates:
        amount_ns = allowance_ns - round(reserve * principal.allotment_ns)
        if amount_ns >= LEAST_NS:
            fits.append((amount_ns / principal.spec.parallelism, amount_ns, principal))
        else:
            left_out += 1
    if left_out and len(fits) < MANY:
        return {}  # they would have to wait for the end of it
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


class SharedTurn:
    """A turn of several. Threads that share a core move on at equal pace, so who will be done when is foreseen from
    one reading of each, and only those are read again who should be about done.

    Members are marked by ``Principal.together``; ``finish_ns`` is the progress of a thread at which one is done.
    """

    def __init__(self, longest_ns: int) -> None:
        """longest_ns: the longest sleep of the core."""
        self._longest_ns = longest_ns
        self.crowd = False
        self._members: Mapping[str, Principal] = {}
        self._had_part: set[str] = set()  # of this turn
        self._threads = 1
        self._progress_ns = 0  # of each thread since the turn began
        self._last_ns = 0
        self._used_ns = 0  # by all since all of them were last read
        self._looked_ns = 0
        self._look_ns = 0  # when all are to be read next
        self._end_ns: int | None = None  # when the cycle of a crowd is expected to be used up

    def __bool__(self) -> bool:
        """Whether such a turn goes on."""
        return bool(self._members) and next(iter(self._members.values())).together

    def begin(self, members: Mapping[str, Principal], now_ns: int, *, crowd: bool = False) -> None:
        """``members``, who stay current, share the core from now on until each is at its ``turn_floor_ns``, or, in a
        ``crowd``, until the cycle is over."""
        self._members = members
        self.crowd = crowd
        self._had_part = set(members)
        self._progress_ns = self._used_ns = 0
        self._last_ns = self._looked_ns = now_ns
        self._look_ns = now_ns + self._period_ns()
        self._end_ns = None
        for principal in members.values():
            principal.together = True
            self._foresee(principal)
        self._threads = self._pace()

    def joins(self, candidates: Iterable[Principal], *, cycle_ns: int, round_ns: int) -> list[Principal]:
        """Of those who came after the turn began the ones that still join it: outside they would have to wait for its
        end. They may use no more than lets them be done with the last of the others. Their ``turn_floor_ns`` is set;
        they must become members. In a crowd all join who have allowance left, also those who were taken to be
        asleep for a while."""
        longest_ns = max(p.finish_ns - self._progress_ns for p in self._members.values())
        joining: list[Principal] = []
        for principal in candidates:
            if self.crowd:
                amount_ns = crowd_amounts([(principal, principal.allowance_ns)]).get(principal.spec.name, 0)
            elif principal.spec.name in self._had_part:
                continue
            else:
                amount_ns = principal.allowance_ns - round(min(1.0, round_ns / cycle_ns) * principal.allotment_ns)
                amount_ns = min(amount_ns, longest_ns * principal.spec.parallelism)
            if amount_ns >= (1 if self.crowd else LEAST_NS):
                principal.turn_floor_ns = principal.allowance_ns - amount_ns
                self._had_part.add(principal.spec.name)
                joining.append(principal)
        return joining

    def _pace(self) -> int:
        return sum(principal.spec.parallelism for principal in self._members.values())

    def _period_ns(self) -> int:
        return min(LOOK_MOST_NS, max(self._longest_ns, LOOK_EACH_NS * len(self._members)))

    def _foresee(self, principal: Principal) -> None:
        left_ns = principal.allowance_ns - principal.turn_floor_ns
        principal.finish_ns = self._progress_ns + left_ns // principal.spec.parallelism

    def _near_ns(self, now_ns: int) -> int:
        return self._progress_ns + (now_ns - self._last_ns + NEAR_NS) // self._threads

    def due(self, now_ns: int) -> dict[str, bool]:
        """Whom to read, and whether to observe."""
        if now_ns >= self._look_ns or self.ends(now_ns):
            return {name: p.observe_at_ns == 0 for name, p in self._members.items()}
        near_ns = self._near_ns(now_ns)
        return {
            name: p.observe_at_ns == 0
            for name, p in self._members.items()
            if p.finish_ns <= near_ns or p.observe_at_ns == 0
        }

    def ends(self, now_ns: int) -> bool:
        """Whether the cycle of a crowd should be used up; then all were to be read."""
        return self._end_ns is not None and now_ns >= self._end_ns

    def account(self, read: Iterable[tuple[Principal, int]], now_ns: int) -> bool:
        """Take in who was read and what it had used since it was read last. True if, as far as is known, they use all
        of the core: then none of them needs to be observed."""
        self._progress_ns += (now_ns - self._last_ns) // self._threads
        self._last_ns = now_ns
        for principal, used_ns in read:
            self._used_ns += used_ns
            self._foresee(principal)
        if now_ns < self._look_ns:
            return all(principal.observe_at_ns > 0 for principal in self._members.values())
        full = self._used_ns >= FULL * (now_ns - self._looked_ns)
        self._looked_ns, self._used_ns = now_ns, 0
        self._look_ns = now_ns + self._period_ns()
        for principal in self._members.values():
            if not full:
                principal.observe_at_ns = 0
            else:
                principal.observed_ns = principal.observed_used_ns = principal.observed_others_ns = 0
                principal.observe_at_ns = now_ns + LOOK_NS
                principal.streak = TRUSTED  # should it have been one of the few who wanted less, its own turn tells
        return full

    def over(self) -> list[Principal]:
        """Those who are about done; those who could be were read just now."""
        near_ns = self._near_ns(self._last_ns)
        return [principal for principal in self._members.values() if principal.finish_ns <= near_ns]

    def _left_ns(self, principal: Principal) -> int:
        """What a member has probably left of its allowance by now."""
        return (principal.finish_ns - self._progress_ns) * principal.spec.parallelism + principal.turn_floor_ns

    def sleep_ns(self, now_ns: int, others_left_ns: int) -> int:
        """Time until some of the members, of whom some may have gone since ``account``, should be read.

        others_left_ns: what those have left of the cycle who are no members.
        """
        self._threads = self._pace()
        for principal in self._members.values():
            if not principal.together:  # it joined, or was admitted beside the others because one of them blocked
                principal.together = True
                self._foresee(principal)
        if any(principal.observe_at_ns == 0 for principal in self._members.values()):
            return min(self._longest_ns, NEAR_NS // 2)
        first_ns = min(principal.finish_ns for principal in self._members.values()) - self._progress_ns
        least_ns = min(NEAR_NS // 2, OVERRUN_NS * self._threads)
        sleep_ns = min(max(0, self._look_ns - now_ns), max(least_ns, first_ns * self._threads))
        if self.crowd:
            self._end_ns = now_ns + others_left_ns + sum(map(self._left_ns, self._members.values()))
        return sleep_ns if self._end_ns is None else min(sleep_ns, max(0, self._end_ns - now_ns))
