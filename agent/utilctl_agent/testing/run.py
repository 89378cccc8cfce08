"""Run an engine on the simulated host and keep what the paper's log keeps: consumption a cycle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from utilctl_agent.alps.allotment import rms_relative_error
from utilctl_agent.alps.model import CycleRecord
from utilctl_agent.engine import Engine
from utilctl_agent.testing.host import SimulatedHost


@dataclass(slots=True)
class CycleLog:
    """The cycles of a run, oldest first."""

    cycles: list[CycleRecord] = field(default_factory=list)

    def mean_rms_error(self, shares: Mapping[str, float], skip: int = 1) -> float:
        """The paper's accuracy figure (section 3.1), over all cycles but the first ``skip``."""
        errors = [rms_relative_error(record.cpu_ns, shares) for record in self.cycles[skip:]]
        return sum(errors) / len(errors)

    def totals_ns(self, skip: int = 0) -> dict[str, int]:
        """Consumption by principal, summed over all cycles but the first ``skip``."""
        totals: dict[str, int] = {}
        for record in self.cycles[skip:]:
            for name, cpu_ns in record.cpu_ns.items():
                totals[name] = totals.get(name, 0) + cpu_ns
        return totals


def run_engine(
    engine: Engine, host: SimulatedHost, until_ns: int, *, latency_ns: int = 0, log: CycleLog | None = None
) -> CycleLog:
    """Step the engine when it asks for it, ``latency_ns`` late each time, until the host's clock is ``until_ns``."""
    log = log if log is not None else CycleLog()
    while host.now_ns() < until_ns:
        step = engine.step(host.now_ns())
        log.cycles.extend(step.closed)
        host.advance_to(min(max(step.next_wake_ns + latency_ns, host.now_ns() + 1), until_ns))
    log.cycles.extend(engine.settle())
    return log
