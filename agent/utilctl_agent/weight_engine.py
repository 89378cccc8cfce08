"""One step of weighing: read everybody, let the core decide, write weights. Time is an argument.

The counterpart of ``engine.Engine`` for principals that are never paused. Others that are (or that are only measured)
can stand beside them as *bystanders*: they count for what is due to whom.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from utilctl_agent.alps.model import CycleRecord, PrincipalSpec, Reading
from utilctl_agent.alps.weights import Knob, WeightScheduler
from utilctl_agent.engine import Step
from utilctl_agent.holding import Faults
from utilctl_agent.host.port import ForeignWeightError, Group, GroupGoneError, MechanismError
from utilctl_common.errors import FailedError

NO_CAPS = "weights do not hold a cap; use mode freezer or signal"
STUCK = "its weight is at its bound and does not bring its share; is its cgroup beside those of the others?"


@runtime_checkable
class Weighable(Group, Protocol):
    """A group with a weight; ``host.weights.WeightGroup`` is one."""

    knob: Knob

    def check(self) -> None:
        """Raise ForeignWeightError or GroupGoneError if the weight is not ours any more."""
        ...

    def set_weight(self, weight: int) -> None:
        """Write the weight. Raises ForeignWeightError, GroupGoneError or MechanismError."""
        ...

    def restore(self) -> None:
        """Write the weight that was found. Raises what ``set_weight`` raises."""
        ...


@dataclass(slots=True)
class WeightEngine:
    """Controls a set of principals by weights. Not thread-safe; owned by the loop.

    foreign_writes: how often somebody else was found to have written a weight.
    """

    scheduler: WeightScheduler = field(default_factory=WeightScheduler)
    wakeups: int = 0
    foreign_writes: int = 0
    problems: dict[str, str] = field(default_factory=dict)
    _specs: dict[str, PrincipalSpec] = field(default_factory=dict)
    _groups: dict[str, Weighable] = field(default_factory=dict)
    _base_ns: dict[str, int] = field(default_factory=dict)  # the group's CPU time that is not the principal's
    _watched: set[str] = field(default_factory=set)  # measured only
    _lost: set[str] = field(default_factory=set)  # their weights are somebody else's
    _refused: set[str] = field(default_factory=set)  # the last write failed
    _bystanders: dict[str, PrincipalSpec] = field(default_factory=dict)

    @property
    def stretch(self) -> float:
        """See stepper.Stepper. To move a weight is one write, however many processes it holds."""
        return 1.0

    @property
    def faults(self) -> Faults:
        """See stepper.Stepper."""
        return Faults(foreign_writes=self.foreign_writes)

    def put(self, spec: PrincipalSpec, now_ns: int, group: Group | None = None, *, observe: bool = False) -> None:
        """See engine.Engine.put. Raises MechanismError for a group without a weight."""
        if group is not None:
            if not isinstance(group, Weighable):
                raise MechanismError(f"{spec.name} has no weight", hint="use mode freezer or signal")
            reading = group.read()
            counted_ns = self._counted_ns(spec.name)
            self.remove(spec.name, now_ns)
            self._groups[spec.name] = group
            self._base_ns[spec.name] = reading.cpu_ns - counted_ns
        else:
            reading = self._groups[spec.name].read()
        self._specs[spec.name] = spec
        self.problems.pop(spec.name, None)
        if spec.cap_cores is not None:
            self.problems[spec.name] = NO_CAPS
        if observe:
            self._unweigh(spec.name)
            self._watched.add(spec.name)
            return
        self._watched.discard(spec.name)
        knob = None if spec.name in self._lost else self._groups[spec.name].knob
        self.scheduler.put(spec, now_ns, reading, knob)

    def remove(self, name: str, now_ns: int) -> None:
        """Stop controlling a principal and put its weight back. Unknown names are ignored."""
        group = self._groups.pop(name, None)
        if group is None:
            return
        if name not in self._watched:
            self.scheduler.remove(name)
        del self._specs[name], self._base_ns[name]
        self._watched.discard(name)
        self._lost.discard(name)
        self._refused.discard(name)
        self.problems.pop(name, None)
        group.close()

    def _unweigh(self, name: str) -> None:
        """Take a principal out of the scheduler and put its weight back; it stays measured."""
        if name in self.scheduler.names():
            self.scheduler.remove(name)
            with contextlib.suppress(FailedError):
                self._groups[name].restore()

    def names(self) -> tuple[str, ...]:
        """The principals under control, in the order in which they joined."""
        return tuple(self._groups)

    def group(self, name: str) -> Group:
        """The group of a principal. Raises KeyError."""
        return self._groups[name]

    def paused_ns(self, name: str, now_ns: int) -> int:
        """Nobody is ever paused."""
        return 0

    def settle(self) -> tuple[CycleRecord, ...]:
        """See stepper.Stepper. Nothing is ever left over."""
        return ()

    def beside(self, specs: Mapping[str, PrincipalSpec], readings: Mapping[str, Reading], now_ns: int) -> None:
        """Who else counts for what is due to whom, by the others' names."""
        for name in [name for name in self._bystanders if name not in specs or name not in readings]:
            self.scheduler.remove(name)
            del self._bystanders[name]
        for name, spec in specs.items():
            if name in readings and self._bystanders.get(name) != spec:
                self.scheduler.put(spec, now_ns, readings[name], None)
                self._bystanders[name] = spec

    def switch(self, now_ns: int) -> int | None:
        """See stepper.Stepper. ``step`` does everything here."""
        return None

    def step(self, now_ns: int, others: Mapping[str, Reading] | None = None) -> Step:
        """Read, decide, write. ``others``: readings of the bystanders."""
        self.wakeups += 1
        readings: dict[str, Reading] = dict(others or {})
        gone: list[str] = []
        for name, group in list(self._groups.items()):
            if name in self._watched:
                continue
            try:
                if name not in self._lost:
                    group.check()
                readings[name] = group.read()
            except ForeignWeightError as error:
                self._lose(name, str(error), now_ns)
                readings[name] = group.read(observe=False)
            except GroupGoneError:
                gone.append(name)
                self.remove(name, now_ns)
            except MechanismError as error:
                self.problems[name] = str(error)
                self._refused.add(name)
        decision = self.scheduler.decide(now_ns, readings)
        for name, weight in decision.weights.items():
            if name in self._groups and not self._act(name, weight, now_ns):
                gone.append(name)
                self.remove(name, now_ns)
        for name in [name for name, problem in self.problems.items() if problem == STUCK]:
            if name not in decision.stuck:
                del self.problems[name]
        for name in decision.stuck:
            if name in self._groups:
                self.problems.setdefault(name, STUCK)
        return Step(decision.next_wake_ns, decision.closed, tuple(gone))

    def _act(self, name: str, weight: int, now_ns: int) -> bool:
        """Write a weight; False if the group turns out to be gone. Other refusals are noted."""
        try:
            self._groups[name].set_weight(weight)
        except GroupGoneError:
            return False
        except ForeignWeightError as error:
            self._lose(name, str(error), now_ns)
        except MechanismError as error:
            self.problems[name] = str(error)
            self._refused.add(name)
        else:
            if name in self._refused:
                self._refused.discard(name)
                self.problems.pop(name, None)
        return True

    def _lose(self, name: str, problem: str, now_ns: int) -> None:
        """Somebody else sets this weight: count it, and leave it to them."""
        self.foreign_writes += 1
        self.problems[name] = problem
        self._lost.add(name)
        self.scheduler.put(self._specs[name], now_ns, Reading(0), None)

    def _counted_ns(self, name: str) -> int:
        try:
            return self._groups[name].read(observe=False).cpu_ns - self._base_ns[name] if name in self._groups else 0
        except GroupGoneError:
            return 0

    def readings(self) -> Mapping[str, Reading]:
        """Progress of every principal since it came under control; those that are gone are left out."""
        result: dict[str, Reading] = {}
        for name, group in self._groups.items():
            try:
                reading = group.read()
            except GroupGoneError:
                continue
            result[name] = reading._replace(cpu_ns=reading.cpu_ns - self._base_ns[name])
        return result

    def close(self) -> None:
        """Put all weights back and let go. Idempotent."""
        for group in self._groups.values():
            group.close()
        self._groups.clear()
