"""One step of capping by quotas: read, let the core decide, write the quota. Time is an argument.

The counterpart of ``engine.Engine`` for cgroups that the kernel holds back, so that a few looks a second are enough.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from utilctl_agent.alps.model import CycleRecord, PrincipalSpec, Reading
from utilctl_agent.alps.quota import LAST_LOOK_NS, QuotaScheduler
from utilctl_agent.engine import Step
from utilctl_agent.holding import Faults
from utilctl_agent.host.port import ForeignWeightError, Group, GroupGoneError, MechanismError
from utilctl_agent.host.quotas import QuotaGroup
from utilctl_common.errors import FailedError


@dataclass(slots=True)
class _Capped:
    group: QuotaGroup
    core: QuotaScheduler
    base_ns: int  # CPU time of the group before it was ours
    base_wait_ns: int
    due_ns: int = 0


@dataclass(slots=True)
class QuotaEngine:
    """Implements stepper.Stepper. Not thread-safe; owned by the loop. cores: CPUs that there are."""

    cores: int
    wakeups: int = 0
    foreign_writes: int = 0
    problems: dict[str, str] = field(default_factory=dict)
    _capped: dict[str, _Capped] = field(default_factory=dict)

    @property
    def stretch(self) -> float:
        """See stepper.Stepper."""
        return 1.0

    @property
    def faults(self) -> Faults:
        """See stepper.Stepper."""
        return Faults(foreign_writes=self.foreign_writes)

    def put(self, spec: PrincipalSpec, now_ns: int, group: Group | None = None, *, observe: bool = False) -> None:
        """See engine.Engine.put. Raises MechanismError for a group without a quota. Nobody is only observed."""
        cap = spec.cap_cores if spec.cap_cores is not None else float(self.cores)
        if group is None:
            self._capped[spec.name].core.change(cap, self.cores)
            self._capped[spec.name].due_ns = now_ns
            return
        if not isinstance(group, QuotaGroup) or observe:
            raise MechanismError(f"{spec.name} has no quota", hint="use mode freezer or signal")
        reading = group.read()
        self.remove(spec.name, now_ns)
        core = QuotaScheduler(cap, self.cores, now_ns, reading)
        self._capped[spec.name] = _Capped(group, core, reading.cpu_ns, reading.wait_ns or 0, now_ns)

    def remove(self, name: str, now_ns: int) -> None:
        """Lift a principal's quota and forget it. Unknown names are ignored."""
        one = self._capped.pop(name, None)
        self.problems.pop(name, None)
        if one is not None:
            one.group.close()

    def names(self) -> tuple[str, ...]:
        """The principals under control, in the order in which they joined."""
        return tuple(self._capped)

    def group(self, name: str) -> Group:
        """The group of a principal. Raises KeyError."""
        return self._capped[name].group

    def paused_ns(self, name: str, now_ns: int) -> int:
        """For how long it was ready and got no CPU, by the quota or by others: the kernel does not tell these apart."""
        try:
            one = self._capped[name]
            reading, held_ns = one.group.read(), one.group.held_ns()
        except (KeyError, FailedError):
            return 0
        return max((reading.wait_ns or 0) - one.base_wait_ns, held_ns - (reading.cpu_ns - one.base_ns))

    def switch(self, now_ns: int) -> int | None:
        """See stepper.Stepper. ``step`` does everything here."""
        return None

    def settle(self) -> tuple[CycleRecord, ...]:
        """See stepper.Stepper. There are no cycles."""
        return ()

    def step(self, now_ns: int) -> Step:
        """See stepper.Stepper."""
        self.wakeups += 1
        gone: list[str] = []
        for name, one in list(self._capped.items()):
            if now_ns < one.due_ns:
                continue
            try:
                quota = one.core.decide(now_ns, one.group.read(), one.group.held_ns())
                one.due_ns = quota.next_look_ns
                one.group.set_quota(quota.quota_ns, quota.period_ns)
                self.problems.pop(name, None)
            except GroupGoneError:
                self.remove(name, now_ns)
                gone.append(name)
            except ForeignWeightError as error:
                self.foreign_writes += name not in self.problems
                self.problems[name] = str(error)
            except MechanismError as error:
                self.problems[name] = str(error)
        wake_ns = min((one.due_ns for one in self._capped.values()), default=now_ns + LAST_LOOK_NS)
        return Step(wake_ns, (), tuple(gone))

    def readings(self) -> Mapping[str, Reading]:
        """See stepper.Stepper."""
        result: dict[str, Reading] = {}
        for name, one in self._capped.items():
            try:
                reading = one.group.read()
            except FailedError:
                continue
            result[name] = reading._replace(cpu_ns=reading.cpu_ns - one.base_ns)
        return result

    def close(self) -> None:
        """Lift all quotas. Idempotent."""
        for one in self._capped.values():
            one.group.close()
        self._capped.clear()
