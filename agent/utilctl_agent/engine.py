"""One step of the loop: read who is due, let the core decide, pause and resume. Time is an argument.

The engine joins a pure core, the pause governor and groups behind the ``host.port.Group`` port, so that the same
code runs on the real kernel and on the simulated host.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final, NamedTuple

from utilctl_agent.alps.model import CycleRecord, Decision, PrincipalSpec, Reading, Scheduler
from utilctl_agent.alps.pauses import PauseGovernor, PauseSettings
from utilctl_agent.breaths import Breaths
from utilctl_agent.holding import MOST_LOOKS, Faults, HoldWatch
from utilctl_agent.host.port import ForeignStopError, Group, GroupGoneError, MechanismError, Pressure
from utilctl_agent.track import Track
from utilctl_common.errors import FailedError
from utilctl_common.quantities import NS_PER_MS


class Step(NamedTuple):
    """Outcome of a step: when to step again at the latest, cycles that ended, principals whose group is gone."""

    next_wake_ns: int
    closed: tuple[CycleRecord, ...]
    gone: tuple[str, ...]


QUIET_NS: Final = 250 * NS_PER_MS
"""How often a quiet host is asked whether it still is; nobody can be short of CPU for longer without being seen."""
LOOK_NS: Final = 1000 * NS_PER_MS
"""Longest time without a look, for groups that have ended; with many groups LOOK_EACH_NS for each."""
LOOK_EACH_NS: Final = 20 * NS_PER_MS


def _stands_still() -> int:
    return 0


@dataclass(slots=True)
class Engine:
    """Controls a set of principals. Not thread-safe; owned by the loop."""

    scheduler: Scheduler
    pause_settings: PauseSettings = field(default_factory=PauseSettings)
    pressure: Pressure | None = None
    clock_ns: Callable[[], int] = _stands_still  # only to tell how long a switch takes
    wakeups: int = 0
    problems: dict[str, str] = field(default_factory=dict)
    _refused: set[str] = field(default_factory=set)  # whose last pause or resume was: a look at it shows nothing
    _governor: PauseGovernor = field(init=False)
    _breaths: Breaths = field(init=False)
    _holds: HoldWatch = field(default_factory=HoldWatch)
    _groups: dict[str, Group] = field(default_factory=dict)
    _specs: dict[str, PrincipalSpec] = field(default_factory=dict)
    _watched: set[str] = field(default_factory=set)  # measured only
    _last_wait_ns: dict[str, int] = field(default_factory=dict)
    _base_ns: dict[str, int] = field(default_factory=dict)  # CPU time of the group that is not the principal's
    _track: Track | None = None  # the plan that is being carried out
    _idle: bool = False  # nothing to decide unless somebody on the host waits for a CPU
    _look_ns: int = 0  # when to look at everybody all the same
    _closed: tuple[CycleRecord, ...] = ()  # ended by switches, not yet reported

    def __post_init__(self) -> None:
        self._governor = PauseGovernor(self.pause_settings)
        self._breaths = Breaths(self._governor)

    def put(self, spec: PrincipalSpec, now_ns: int, group: Group | None = None, *, observe: bool = False) -> None:
        """Add a principal with its group, change its spec, or exchange its group (the old one is closed).

        observe: only measure it. Raises GroupGoneError if the group has ended; the principal is then not added.
        Raises KeyError for a new principal without a group.
        """
        self._catch_up()
        self._idle = False
        fresh = group is not None
        taken = group if group is not None else self._groups[spec.name]
        reading = taken.read()
        counted_ns = 0
        if fresh and spec.name in self._groups:
            counted_ns = self._counted_ns(spec.name, self._groups[spec.name])
            self._drop(spec.name, now_ns)
        self._specs[spec.name] = spec
        if fresh:
            self._groups[spec.name] = taken
            self._base_ns[spec.name] = reading.cpu_ns - counted_ns
            if not self._holds.on_leave(spec.name):
                self.problems.pop(spec.name, None)
            self._refused.discard(spec.name)
        if observe and spec.name not in self._watched:
            if not fresh:
                self._release(spec.name, now_ns)
            self._watched.add(spec.name)
        elif not observe:
            self._watched.discard(spec.name)
            if not self._holds.on_leave(spec.name):
                self.scheduler.put(spec, now_ns, reading)

    def remove(self, name: str, now_ns: int) -> None:
        """Stop controlling a principal and resume it. Unknown names are ignored."""
        self._drop(name, now_ns)
        self._holds.forget(name)
        self.problems.pop(name, None)
        self._refused.discard(name)

    def _drop(self, name: str, now_ns: int) -> None:
        """Let go of a principal's group. Should another one take its place, its leave goes on."""
        group = self._groups.get(name)
        if group is None:
            return
        self._catch_up()
        self._release(name, now_ns)
        self._watched.discard(name)
        del self._groups[name], self._base_ns[name], self._specs[name]
        self._breaths.forget(name)
        self._last_wait_ns.pop(name, None)
        group.close()

    def _release(self, name: str, now_ns: int) -> None:
        """Take a principal out of the scheduler and let it run; one that is only watched stays as it is."""
        if name in self._watched or self._holds.on_leave(name):
            return
        self.scheduler.remove(name)
        if self._governor.forget(name, now_ns):
            with contextlib.suppress(MechanismError):
                self._groups[name].resume()

    def names(self) -> tuple[str, ...]:
        """The principals under control, in the order in which they joined."""
        return tuple(self._groups)

    def group(self, name: str) -> Group:
        """The group of a principal. Raises KeyError."""
        return self._groups[name]

    def paused(self) -> frozenset[str]:
        """Who is paused now."""
        self._catch_up()
        return self._governor.paused()

    def paused_ns(self, name: str, now_ns: int) -> int:
        """How long a principal has been paused, in total."""
        self._catch_up()
        return self._governor.paused_ns(name, now_ns)

    def settle(self) -> tuple[CycleRecord, ...]:
        """Account for everything done so far; returns the cycles that ended and were not yet reported."""
        self._catch_up()
        closed, self._closed = self._closed, ()
        return closed

    def step(self, now_ns: int) -> Step:
        """Carry out the next switch of the plan; where there is none, read, decide, act."""
        planned_ns = self.switch(now_ns)
        if planned_ns is not None:
            return Step(planned_ns, (), ())
        if self._idle and self.pressure is not None:
            contended = self.pressure.contended(now_ns)
            if not contended and now_ns < self._look_ns:
                return Step(now_ns + QUIET_NS, (), ())
        self.wakeups += 1
        self._look_ns = now_ns + max(LOOK_NS, LOOK_EACH_NS * len(self._groups))
        self._catch_up(deciding=True)
        gone = self._look_after_holds(now_ns)
        readings: dict[str, Reading] = {}
        groups = self._groups
        try:
            readings.update(self._breaths.over(groups, now_ns))
            for name, observe in self.scheduler.due(now_ns).items():
                readings[name] = groups[name].read(observe=observe)
        except (GroupGoneError, MechanismError):
            gone += self._read_what_is_left(now_ns, readings)
        decision = self.scheduler.decide(now_ns, readings)
        wake_ns = decision.next_wake_ns
        holds_ns = self._holds.next_wake_ns(now_ns)
        if holds_ns is not None and holds_ns < wake_ns:
            wake_ns = holds_ns
        self._idle = decision.idle
        pause, resume, breath_ns = self._governor.apply(decision, now_ns)
        # Resume first: on a full host the CPU then always has somebody to run.
        for name in resume:
            self._breaths.begin(name, groups[name])
            if self._act(name, groups[name].resume):
                gone += (name,)
        for name in pause:
            if self._act(name, groups[name].pause):
                gone += (name,)
        closed = decision.closed
        if self._closed:
            closed = (*self.settle(), *closed)
        if decision.plan and not gone and not self._holds.suspicious:
            self._lay_track(decision)
        if self._track is not None:
            return Step(self._track.next_ns, closed, gone)
        if breath_ns is not None and breath_ns < wake_ns:
            wake_ns = breath_ns
        return Step(wake_ns, closed, gone)

    def switch(self, now_ns: int) -> int | None:
        """Switch as planned; returns when to wake next, or None if there is something to decide: then ``step``.

        Does as little as it can: after the work of others has been in the caches, every line counts.
        """
        if self._track is None:
            return None
        next_ns = self._track.switch(now_ns)
        if next_ns is not None:
            self.wakeups += 1
        return next_ns

    def _lay_track(self, decision: Decision) -> None:
        """Prepare the switches of the plan that come before a breath is due."""
        overdue: str | None = None
        if len(self._groups) <= MOST_LOOKS:
            names = dict.fromkeys(name for turn in decision.plan for name in turn.names)
            # Before its turn a decision finds it paused, and looks at it.
            overdue = self._holds.overdue(names, self._governor.now_ns)
        track = Track(
            decision,
            self._groups,
            settles=decision.ineligible[0] if decision.lags and decision.ineligible else None,
            reach_ns=self._governor.reach_ns(decision.plan),
            avoid=overdue,
            clock_ns=self.clock_ns,
        )
        self._track = track or None

    def _catch_up(self, *, deciding: bool = False) -> None:
        """Tell core and governor of the switches that were carried out, and drop what is left of the plan."""
        track, self._track = self._track, None
        if track is None:
            return
        switches = track.told()
        self._closed += self.scheduler.follow(switches, failed=deciding and track.failed)
        for switch, (ended, begun) in zip(switches, pairwise(track.plan), strict=False):
            if ended.name != begun.name:
                self._governor.switch(ended.names, begun.names, switch.now_ns)

    def _look_after_holds(self, now_ns: int) -> tuple[str, ...]:
        """Take back whose leave has ended, and look at some pauses; returns whose group is gone (module holding)."""
        gone: list[str] = []
        for name in self._holds.back(now_ns):
            try:
                if name not in self._watched:
                    self.scheduler.put(self._specs[name], now_ns, self._groups[name].read())
            except (GroupGoneError, MechanismError):
                self._watched.add(name)  # the scheduler does not know it
                self.remove(name, now_ns)
                gone.append(name)
        since_ns = self._governor.since_ns()
        for name in self._holds.due(since_ns, now_ns):
            trouble: FailedError | None = None
            try:
                self._groups[name].check()
            except GroupGoneError:
                continue  # who is gone is found by the next reading
            except FailedError as error:
                trouble = error
            if isinstance(trouble, ForeignStopError):
                self._note_foreign_stop(name, str(trouble))
            if self._holds.found(name, trouble, now_ns - since_ns[name], now_ns):
                self._let_run(name, str(trouble), now_ns)
            elif trouble is None and self.problems and not (self._holds.doubts(name) or name in self._refused):
                self.problems.pop(name, None)
        return tuple(gone)

    def _let_run(self, name: str, problem: str, now_ns: int) -> None:
        """Pausing does not work: for now it is only measured."""
        self.problems[name] = problem
        self.scheduler.remove(name)
        self._governor.forget(name, now_ns)
        with contextlib.suppress(MechanismError):
            self._groups[name].resume()

    def _note_foreign_stop(self, name: str, problem: str) -> None:
        if self.problems.get(name) != problem:
            self._holds.foreign_stop()
        self.problems[name] = problem

    def _read_what_is_left(self, now_ns: int, readings: dict[str, Reading]) -> tuple[str, ...]:
        """Read everybody who is due once more, and drop those whose group is gone; returns their names.

        Who cannot be read is reported, and taken as not measured.
        """
        gone: list[str] = []
        for name, observe in self.scheduler.due(now_ns).items():
            try:
                readings[name] = self._groups[name].read(observe=observe)
            except GroupGoneError:
                gone.append(name)
                readings.pop(name, None)
            except MechanismError as error:
                self.problems[name] = str(error)
                readings.pop(name, None)
        for name in gone:
            self.remove(name, now_ns)
        return tuple(gone)

    def _act(self, name: str, action: Callable[[], None]) -> bool:
        """Run ``action``; True if the group turns out to be gone. Other refusals are noted, the group keeps running."""
        try:
            action()
        except GroupGoneError:
            self.remove(name, self._governor.now_ns)
            return True
        except ForeignStopError as error:
            self._refused.add(name)
            self._note_foreign_stop(name, str(error))
        except MechanismError as error:
            self._refused.add(name)
            self.problems[name] = str(error)
        else:
            self._refused.discard(name)
            if self.problems and not self._holds.doubts(name):
                self.problems.pop(name, None)
        return False

    @property
    def stretch(self) -> float:
        """How many times longer than asked for cycles are, because switching takes so long."""
        return self.scheduler.stretch

    @property
    def faults(self) -> Faults:
        """What went wrong with pauses so far."""
        return self._holds.faults

    def _counted_ns(self, name: str, group: Group) -> int:
        try:
            return group.read().cpu_ns - self._base_ns[name]
        except (GroupGoneError, MechanismError):
            return 0

    def readings(self) -> Mapping[str, Reading]:
        """Progress of every principal since it came under control, for reports; those that are gone are left out."""
        result: dict[str, Reading] = {}
        for name, group in self._groups.items():
            try:
                reading = group.read()
            except (GroupGoneError, MechanismError):
                continue
            if reading.wait_ns is not None:
                self._last_wait_ns[name] = reading.wait_ns
            wait_ns = self._last_wait_ns.get(name)
            result[name] = Reading(reading.cpu_ns - self._base_ns[name], wait_ns, reading.blocked)
        return result

    def close(self) -> None:
        """Resume everything and let go of it. Idempotent."""
        for group in self._groups.values():
            group.close()
        self._groups.clear()
