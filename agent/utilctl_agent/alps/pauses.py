"""From eligibility to pauses: the bound that no share overrides.

A core says who is eligible. This module decides who is paused for that, and sees to it that no pause outlasts
``max_pause_ns``: a principal paused that long is let go for one *breath* and then paused again. What it uses in a
breath is charged to it like everything else, so shares still come out right. Pure, like the cores.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from utilctl_agent.alps.model import Decision, Turn
from utilctl_common.quantities import NS_PER_MS, NS_PER_S

BREATH_NS: Final = 2 * NS_PER_MS
"""How long a breath lasts. Arbitrary: mostly long enough to be scheduled at once, 0.2 % of the default bound."""
LONGEST_BREATH_NS: Final = 20 * NS_PER_MS
"""How long it lasts at most for one that has not got a CPU in it: on a full host, being let go is not yet running."""


@dataclass(frozen=True, slots=True)
class PauseSettings:
    """max_pause_ns: no pause lasts longer. margin_ns: breaths start this much earlier, for late wake-ups."""

    max_pause_ns: int = NS_PER_S
    margin_ns: int = 60 * NS_PER_MS


class Switches(NamedTuple):
    """Pauses to begin and to end now, and when to come back for breaths at the latest (None: no pause in force)."""

    pause: Sequence[str]
    resume: Sequence[str]
    next_wake_ns: int | None


@dataclass(slots=True)
class PauseGovernor:
    """Tracks who should be and who is paused. Feed it every Decision, and call ``tick`` when it asks for it."""

    settings: PauseSettings = field(default_factory=PauseSettings)
    now_ns: int = 0  # of the last decision
    _due_ns: int | None = None  # when the next breath begins or ends
    _paused_since_ns: dict[str, int] = field(default_factory=dict)
    _breath_until_ns: dict[str, int] = field(default_factory=dict)
    _breath_since_ns: dict[str, int] = field(default_factory=dict)  # of all whose last pause ended with a breath
    _paused_total_ns: dict[str, int] = field(default_factory=dict)

    def apply(self, decision: Decision, now_ns: int) -> Switches:
        """Turn a decision into pauses and resumes."""
        self.now_ns = now_ns
        pause: list[str] = []
        resume: list[str] = []
        paused_since_ns = self._paused_since_ns
        for name in decision.eligible:
            if name in paused_since_ns:
                self._end(name, now_ns)
                resume.append(name)
            elif self._breath_until_ns.pop(name, None) is not None:
                self._due_ns = None
        for name in decision.ineligible:
            if name not in paused_since_ns:
                if self._breath_until_ns.pop(name, None) is not None:
                    self._due_ns = None
                paused_since_ns[name] = now_ns
                pause.append(name)
        if not resume and self._due_ns is not None and now_ns < self._due_ns:
            # A pause that began now is due after all others. Only an end of one can move what is due first.
            return Switches(pause, resume, self._due_ns)
        return self._breathe(now_ns, pause, resume)

    def tick(self, now_ns: int) -> Switches:
        """Begin and end the breaths that are due."""
        return self._breathe(now_ns, [], [])

    def ending(self, now_ns: int) -> list[str]:
        """Whose breath is over: what they used in it can be read now, before they are paused again."""
        ended: list[str] = []
        for name, until_ns in self._breath_until_ns.items():
            if now_ns < until_ns:
                break
            ended.append(name)
        return ended

    def breathes(self, name: str) -> bool:
        """Whether ``name`` runs for a breath only."""
        return name in self._breath_until_ns

    def prolong(self, name: str, now_ns: int) -> bool:
        """``name``, whose breath is over, has not got a CPU in it: let it last longer. False if it lasted too long."""
        until_ns = now_ns + BREATH_NS
        if until_ns - self._breath_since_ns[name] > LONGEST_BREATH_NS:
            return False
        # At the end: nobody's breath that began before ends later.
        del self._breath_until_ns[name]
        self._breath_until_ns[name] = until_ns
        self._due_ns = None
        return True

    def reach_ns(self, plan: Sequence[Turn]) -> int | None:
        """How far ``plan`` may be carried out before a breath is due; None: to its end."""
        if self._breath_until_ns:
            return self.now_ns
        longest_ns = self.settings.max_pause_ns - self.settings.margin_ns
        since_ns = dict(self._paused_since_ns)
        for at, turn in enumerate(plan):
            due_ns = next(iter(since_ns.values()), turn.until_ns) + longest_ns
            if due_ns < turn.until_ns:
                return due_ns
            if at + 1 < len(plan) and plan[at + 1].name != turn.name:
                for name in plan[at + 1].names:
                    since_ns.pop(name, None)
                since_ns.update(dict.fromkeys(turn.names, turn.until_ns))
        return None

    def switch(self, paused: Iterable[str], resumed: Iterable[str], now_ns: int) -> None:
        """A planned switch was carried out at ``now_ns``, before any breath was due."""
        self.now_ns = now_ns
        for name in resumed:
            if name in self._paused_since_ns:
                self._end(name, now_ns)
        for name in paused:
            self._paused_since_ns[name] = now_ns
        self._due_ns = None

    def forget(self, name: str, now_ns: int) -> bool:
        """Drop a principal that goes away; True if it is paused and must be resumed by the caller."""
        self._breath_until_ns.pop(name, None)
        self._breath_since_ns.pop(name, None)
        self._due_ns = None
        was_paused = name in self._paused_since_ns
        if was_paused:
            self._end(name, now_ns)
        return was_paused

    def paused(self) -> frozenset[str]:
        """Who is paused now."""
        return frozenset(self._paused_since_ns)

    def since_ns(self) -> Mapping[str, int]:
        """Who is paused, and since when; the oldest pause first. A view, true until the next call."""
        return self._paused_since_ns

    def paused_ns(self, name: str, now_ns: int) -> int:
        """Time that ``name`` has spent paused, in total."""
        since_ns = self._paused_since_ns.get(name)
        return self._paused_total_ns.get(name, 0) + (now_ns - since_ns if since_ns is not None else 0)

    def _end(self, name: str, now_ns: int) -> None:
        since_ns = self._paused_since_ns.pop(name)
        self._paused_total_ns[name] = self._paused_total_ns.get(name, 0) + now_ns - since_ns

    def _breathe(self, now_ns: int, pause: list[str], resume: list[str]) -> Switches:
        # Both tables are in the order of time, because an entry is only ever added at the present: the first is due
        # first, and nothing behind one that is not due needs a look.
        breaths, pauses = self._breath_until_ns, self._paused_since_ns
        wake_ns: int | None = None
        while breaths:
            name, until_ns = next(iter(breaths.items()))
            if now_ns < until_ns:
                wake_ns = until_ns
                break
            del breaths[name]
            pauses[name] = now_ns
            pause.append(name)
        longest_ns = self.settings.max_pause_ns - self.settings.margin_ns
        while pauses:
            name, since_ns = next(iter(pauses.items()))
            end_ns = since_ns + longest_ns
            if now_ns < end_ns:
                self._due_ns = end_ns if wake_ns is None or end_ns < wake_ns else wake_ns
                return Switches(pause, resume, self._due_ns)
            self._end(name, now_ns)
            breaths[name] = now_ns + BREATH_NS
            self._breath_since_ns[name] = now_ns
            resume.append(name)
            wake_ns = now_ns + BREATH_NS if wake_ns is None else wake_ns
        self._due_ns = wake_ns
        return Switches(pause, resume, wake_ns)
