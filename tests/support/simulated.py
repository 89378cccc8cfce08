"""Schedulers at work on the simulated host: what they read, what they decided, what everybody got."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from utilctl_agent.alps.model import CoreSettings, CycleRecord, Decision, PrincipalSpec, Reading, Scheduler, Switch
from utilctl_agent.alps.pauses import PauseSettings
from utilctl_agent.alps.turns import TurnScheduler
from utilctl_agent.engine import Engine
from utilctl_agent.testing import Bursts, CycleLog, SimulatedGroup, SimulatedHost, Spin
from utilctl_common.quantities import NS_PER_MS


@dataclass
class WatchedCore:
    """Passes everything on to a core and keeps a record of it. Implements model.Scheduler."""

    core: Scheduler
    reads: int = 0
    decisions: list[tuple[int, Decision]] = field(default_factory=list)

    @property
    def stretch(self) -> float:
        return self.core.stretch

    def put(self, spec: PrincipalSpec, now_ns: int, reading: Reading) -> None:
        self.core.put(spec, now_ns, reading)

    def remove(self, name: str) -> None:
        self.core.remove(name)

    def due(self, now_ns: int) -> Mapping[str, bool]:
        due = self.core.due(now_ns)
        self.reads += len(due)
        return due

    def follow(self, switches: Sequence[Switch], *, failed: bool) -> tuple[CycleRecord, ...]:
        plan = self.decisions[-1][1].plan
        closed = self.core.follow(switches, failed=failed)
        for switch, ended, begun in zip(switches, plan, plan[1:], strict=False):
            same = ended.name == begun.name
            ineligible, eligible = ((), ()) if same else (ended.names, begun.names)
            self.decisions.append((switch.now_ns, Decision(ineligible, eligible, begun.until_ns)))
        return closed

    def decide(self, now_ns: int, readings: Mapping[str, Reading]) -> Decision:
        decision = self.core.decide(now_ns, readings)
        self.decisions.append((now_ns, decision))
        return decision

    def switches(self, until_ns: int | None = None) -> list[tuple[int, frozenset[str], frozenset[str]]]:
        """(instant, who became ineligible, who became eligible) of the decisions that changed anything."""
        return [
            (now_ns, frozenset(d.ineligible), frozenset(d.eligible))
            for now_ns, d in self.decisions
            if (d.ineligible or d.eligible) and (until_ns is None or now_ns < until_ns)
        ]


class Alps:
    """One scheduler with its principals. Several may share a host. It is stepped ``latency_ns`` late each time."""

    def __init__(self, core: Scheduler, host: SimulatedHost, *, latency_ns: int = 0) -> None:
        self.core = WatchedCore(core)
        self.host = host
        # Breaths would blur what the core decides; module pauses has tests of its own.
        self.engine = Engine(self.core, PauseSettings(max_pause_ns=10**15))
        self.log = CycleLog()
        self.groups: dict[str, SimulatedGroup] = {}
        self.shares: dict[str, float] = {}
        self.latency_ns = latency_ns
        self.next_ns = host.now_ns()
        self._base_ns: dict[str, int] = {}

    def add(
        self,
        name: str,
        share: float,
        *behaviours: Spin | Bursts,
        parallelism: int | None = None,
        cap_cores: float | None = None,
    ) -> SimulatedGroup:
        """A new principal, a single spinner by default."""
        processes = behaviours or (Spin(),)
        group = self.host.group(name, *processes)
        self.groups[name] = group
        self.shares[name] = share
        spec = PrincipalSpec(name, share, parallelism or len(processes), cap_cores)
        self.engine.put(spec, self.host.now_ns(), group)
        self.next_ns = self.host.now_ns()
        return group

    def change(self, name: str, share: float, *, cap_cores: float | None = None) -> None:
        """Change a share."""
        self.shares[name] = share
        parallelism = len(self.groups[name].processes)
        self.engine.put(PrincipalSpec(name, share, parallelism, cap_cores), self.host.now_ns())
        self.next_ns = self.host.now_ns()

    def leave(self, name: str) -> None:
        """A principal ends."""
        self.engine.remove(name, self.host.now_ns())
        self.groups.pop(name).end()
        del self.shares[name]
        self.next_ns = self.host.now_ns()

    def step(self) -> None:
        """One wake-up, now."""
        step = self.engine.step(self.host.now_ns())
        self.log.cycles.extend(step.closed)
        self.next_ns = max(step.next_wake_ns + self.latency_ns, self.host.now_ns() + 1)

    def mark(self) -> None:
        """Fractions count from now on."""
        self._base_ns = {name: group.used_ns for name, group in self.groups.items()}

    def used_ns(self) -> dict[str, int]:
        """CPU time since the last mark."""
        return {name: group.used_ns - self._base_ns.get(name, 0) for name, group in self.groups.items()}

    def fractions(self, names: Sequence[str] | None = None) -> dict[str, float]:
        """How the CPU time since the last mark was split among ``names`` (all of them)."""
        used_ns = self.used_ns()
        total_ns = sum(used_ns[name] for name in names or used_ns)
        return {name: used_ns[name] / total_ns for name in names or used_ns}


def run_for(host: SimulatedHost, duration_ns: int, *alps: Alps) -> None:
    """Let time pass, waking every scheduler when it asks for it."""
    end_ns = host.now_ns() + duration_ns
    while host.now_ns() < end_ns:
        for one in alps:
            if one.next_ns <= host.now_ns():
                one.step()
        host.advance_to(min(end_ns, *(one.next_ns for one in alps)))
    for one in alps:
        one.log.cycles.extend(one.engine.settle())


def run(core: Scheduler, shares: Mapping[str, float], duration_ns: int, *, cores: int = 1) -> Alps:
    """Spinners with ``shares`` under one scheduler on an otherwise idle host."""
    host = SimulatedHost(cores)
    alps = Alps(core, host)
    for name, share in shares.items():
        alps.add(name, share)
    run_for(host, duration_ns, alps)
    return alps


MS = NS_PER_MS


def make(
    *, cores: int = 1, quantum_ms: int = 10, slice_ms: int = 3, latency_ns: int = 0, core: Scheduler | None = None
) -> Alps:
    """A host, and the default core on it unless another one is given."""
    host = SimulatedHost(cores, slice_ns=slice_ms * MS)
    default = TurnScheduler(CoreSettings(quantum_ns=quantum_ms * MS, cores=cores))
    return Alps(core or default, host, latency_ns=latency_ns)


def spinners(alps: Alps, shares: list[int]) -> Alps:
    """One principal that spins for each share."""
    for number, share in enumerate(shares):
        alps.add(f"p{number}", share)
    return alps
