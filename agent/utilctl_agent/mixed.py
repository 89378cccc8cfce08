"""Pausing and weighing on one host: every principal is under the engine that fits its group.

Who is paused counts as a bystander for the weights, so that those who are weighed get their part of all that both
kinds got together. Time is an argument.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from utilctl_agent.alps.model import CycleRecord, PrincipalSpec, Reading
from utilctl_agent.engine import Step
from utilctl_agent.holding import Faults
from utilctl_agent.host.port import Group
from utilctl_agent.stepper import Stepper
from utilctl_agent.weight_engine import Weighable, WeightEngine
from utilctl_common.quantities import NS_PER_MS

IDLE_NS: Final = 200 * NS_PER_MS
"""Until when to sleep with nobody under control."""


@dataclass(slots=True)
class MixedEngine:
    """Implements stepper.Stepper over the engine that pauses and the one that weighs.

    specs: of those who may be paused; at first of those whom ``pausing`` controls already.
    """

    pausing: Stepper
    weighing: WeightEngine
    specs: dict[str, PrincipalSpec] = field(default_factory=dict)
    _past_ns: dict[str, int] = field(default_factory=dict)  # CPU time counted by the other engine before a change
    _pausing_due_ns: int = 0
    _weighing_due_ns: int = 0

    @property
    def wakeups(self) -> int:
        """See stepper.Stepper."""
        return self.pausing.wakeups + self.weighing.wakeups

    @property
    def problems(self) -> Mapping[str, str]:
        """See stepper.Stepper."""
        return {**self.pausing.problems, **self.weighing.problems}

    @property
    def stretch(self) -> float:
        """See stepper.Stepper."""
        return self.pausing.stretch

    @property
    def faults(self) -> Faults:
        """See stepper.Stepper."""
        return Faults(*map(sum, zip(self.pausing.faults, self.weighing.faults, strict=True)))

    def put(self, spec: PrincipalSpec, now_ns: int, group: Group | None = None, *, observe: bool = False) -> None:
        """See engine.Engine.put; an exchanged group may be of the other kind."""
        weighed = spec.name in self.weighing.names() if group is None else isinstance(group, Weighable)
        other: Stepper = self.pausing if weighed else self.weighing
        if group is not None and spec.name in other.names():
            reading = other.readings().get(spec.name)
            self._past_ns[spec.name] = self._past_ns.get(spec.name, 0) + (reading.cpu_ns if reading is not None else 0)
            other.remove(spec.name, now_ns)
        (self.weighing if weighed else self.pausing).put(spec, now_ns, group, observe=observe)
        if weighed or observe:
            self.specs.pop(spec.name, None)
        else:
            self.specs[spec.name] = spec
        self._pausing_due_ns = self._weighing_due_ns = 0

    def remove(self, name: str, now_ns: int) -> None:
        """See stepper.Stepper."""
        self.specs.pop(name, None)
        self._past_ns.pop(name, None)
        self.pausing.remove(name, now_ns)
        self.weighing.remove(name, now_ns)

    def names(self) -> tuple[str, ...]:
        """See stepper.Stepper."""
        return (*self.pausing.names(), *self.weighing.names())

    def group(self, name: str) -> Group:
        """See stepper.Stepper."""
        return (self.weighing if name in self.weighing.names() else self.pausing).group(name)

    def paused_ns(self, name: str, now_ns: int) -> int:
        """See stepper.Stepper."""
        return self.pausing.paused_ns(name, now_ns)

    def switch(self, now_ns: int) -> int | None:
        """See stepper.Stepper. ``step`` does everything here."""
        return None

    def step(self, now_ns: int) -> Step:
        """Step whichever is due. Cycles are those of the weights if anybody is weighed: they cover everybody."""
        wake_ns = now_ns + IDLE_NS
        closed: tuple[CycleRecord, ...] = ()
        gone: tuple[str, ...] = ()
        if self.pausing.names():
            if now_ns >= self._pausing_due_ns:
                step = self.pausing.step(now_ns)
                self._pausing_due_ns = step.next_wake_ns
                closed, gone = step.closed, step.gone
            wake_ns = min(wake_ns, self._pausing_due_ns)
        if self.weighing.names():
            closed = ()
            if now_ns >= self._weighing_due_ns:
                others: Mapping[str, Reading] = {}
                if self.specs:
                    others = {
                        name: self._as_wanted(name, reading, now_ns)
                        for name, reading in self.pausing.readings().items()
                        if name in self.specs
                    }
                self.weighing.beside(self.specs, others, now_ns)
                step = self.weighing.step(now_ns, others)
                self._weighing_due_ns = step.next_wake_ns
                closed, gone = step.closed, gone + step.gone
            wake_ns = min(wake_ns, self._weighing_due_ns)
        for name in gone:
            self.specs.pop(name, None)
            self._past_ns.pop(name, None)
        return Step(wake_ns, closed, gone)

    def _as_wanted(self, name: str, reading: Reading, now_ns: int) -> Reading:
        """Who is paused wants CPU no less: a pause counts as waiting, and looks like blocking."""
        paused_ns = self.pausing.paused_ns(name, now_ns)
        if not paused_ns:
            return reading
        return Reading(reading.cpu_ns, reading.wait_ns + paused_ns if reading.wait_ns is not None else None)

    def settle(self) -> tuple[CycleRecord, ...]:
        """See stepper.Stepper."""
        closed = self.pausing.settle()
        return () if self.weighing.names() else closed

    def readings(self) -> Mapping[str, Reading]:
        """See stepper.Stepper."""
        result = {**self.pausing.readings(), **self.weighing.readings()}
        for name, past_ns in self._past_ns.items():
            if name in result:
                result[name] = result[name]._replace(cpu_ns=result[name].cpu_ns + past_ns)
        return result

    def close(self) -> None:
        """See stepper.Stepper."""
        self.pausing.close()
        self.weighing.close()
