"""A kernel that shares by weights, and wrongly so: each principal has a factor by which the kernel misjudges it.

A fluid: in every period the cores are split by weight times factor among those who want CPU, nobody gets more than its
threads can use, and what one leaves the others get. Whole nanoseconds, nothing is lost and nothing random.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from utilctl_agent.alps.model import PrincipalSpec, Reading
from utilctl_agent.alps.weights import CPU_SHARES, Knob, WeightDecision, WeightScheduler, WeightSettings
from utilctl_common.quantities import NS_PER_MS, NS_PER_S


@dataclass(slots=True)
class Weighed:
    """A principal on the simulated kernel. wants: part of the time in which it wants CPU, by all its threads."""

    spec: PrincipalSpec
    factor: float = 1.0
    wants: float = 1.0
    knob: Knob | None = CPU_SHARES
    weight: int = 1024
    cpu_ns: int = 0
    wait_ns: int = 0

    def most_cores(self, cores: int) -> float:
        return self.wants * min(self.spec.parallelism, cores)


@dataclass(slots=True)
class WeighingKernel:
    """The kernel with a scheduler that steers it. ``log`` has what each principal had used after every period."""

    principals: list[Weighed]
    cores: int = 1
    period_ns: int = 200 * NS_PER_MS
    capacity: float = 1.0  # part of the cores that strangers leave
    now_ns: int = 0
    writes: list[tuple[int, str, int]] = field(default_factory=list)
    decisions: list[WeightDecision] = field(default_factory=list)
    log: list[dict[str, int]] = field(default_factory=list)
    scheduler: WeightScheduler = field(init=False)

    def __post_init__(self) -> None:
        self.scheduler = WeightScheduler(WeightSettings(self.period_ns, self.period_ns, self.cores))
        for principal in self.principals:
            self.scheduler.put(principal.spec, 0, self._reading(principal), principal.knob)
        self._decide()

    def run(self, duration_ns: int) -> None:
        """Let time pass."""
        end_ns = self.now_ns + duration_ns
        while self.now_ns < end_ns:
            self._share()
            self.now_ns += self.period_ns
            self._decide()

    def split(self, start_ns: int, end_ns: int) -> dict[str, float]:
        """Fractions of what all used between two instants."""
        first, last = self.log[start_ns // self.period_ns], self.log[end_ns // self.period_ns]
        used = {name: last[name] - first[name] for name in last}
        return {name: value / sum(used.values()) for name, value in used.items()}

    def _reading(self, principal: Weighed) -> Reading:
        return Reading(principal.cpu_ns, principal.wait_ns, blocked=principal.wants == 0)

    def _decide(self) -> None:
        readings = {principal.spec.name: self._reading(principal) for principal in self.principals}
        decision = self.scheduler.decide(self.now_ns, readings)
        for principal in self.principals:
            if principal.spec.name in decision.weights:
                principal.weight = decision.weights[principal.spec.name]
                self.writes.append((self.now_ns, principal.spec.name, principal.weight))
        self.decisions.append(decision)
        self.log.append({principal.spec.name: principal.cpu_ns for principal in self.principals})

    def _share(self) -> None:
        left = self.cores * self.capacity
        hungry = [p for p in self.principals if p.most_cores(self.cores) > 0]
        got: dict[str, float] = dict.fromkeys((p.spec.name for p in self.principals), 0.0)
        while hungry:
            total = sum(p.weight * p.factor for p in hungry)
            full = [p for p in hungry if p.weight * p.factor / total * left >= p.most_cores(self.cores)]
            for p in full or hungry:
                got[p.spec.name] = min(p.most_cores(self.cores), p.weight * p.factor / total * left)
            left -= sum(got[p.spec.name] for p in full)
            hungry = [p for p in hungry if p not in full] if full else []
        for p in self.principals:
            p.cpu_ns += round(got[p.spec.name] * self.period_ns)
            p.wait_ns += round((p.most_cores(self.cores) - got[p.spec.name]) * self.period_ns)


def spinners(shares: Sequence[float], factors: Sequence[float] = (), *, threads: int = 1) -> list[Weighed]:
    """Principals ``p0``, ``p1``, ... that want all they can get."""
    return [
        Weighed(PrincipalSpec(f"p{index}", share, threads), factors[index] if factors else 1.0)
        for index, share in enumerate(shares)
    ]


MINUTE_NS = 60 * NS_PER_S
