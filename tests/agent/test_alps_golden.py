"""Scenarios with golden traces: every change of state and every cycle, in golden/NAME.txt.

A change of the scheduler that changes a trace shows here as a diff to be judged. If it is wanted, rewrite the traces:
``UTILCTL_REWRITE_GOLDEN=1 pytest tests/agent/test_alps_golden.py``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from support.simulated import MS, Alps, run_for
from utilctl_agent.alps.model import CoreSettings, CycleRecord
from utilctl_agent.alps.paper import PaperScheduler
from utilctl_agent.alps.turns import TurnScheduler
from utilctl_agent.testing import Bursts, SimulatedHost, Spin

GOLDEN = Path(__file__).parent / "golden"
QUANTUM_NS = 10 * MS


class Script:
    """A scenario that writes its own trace."""

    def __init__(self, alps: Alps) -> None:
        self.alps = alps
        self.lines: list[str] = []
        self._told = 0

    def say(self, what: str) -> None:
        self.lines.append(f"{_ms(self.alps.host.now_ns())}  {what}")

    def add(self, name: str, share: float, *behaviours: Spin | Bursts, cap_cores: float | None = None) -> None:
        what = ", ".join(str(behaviour) for behaviour in behaviours or (Spin(),))
        self.say(f"put {name} share {share:g}{f' cap {cap_cores:g}' if cap_cores else ''}: {what}")
        self.alps.add(name, share, *behaviours, cap_cores=cap_cores)

    def change(self, name: str, share: float) -> None:
        self.say(f"change {name} share {share:g}")
        self.alps.change(name, share)

    def leave(self, name: str) -> None:
        self.say(f"leave {name}")
        self.alps.leave(name)

    def run(self, duration_ms: int) -> None:
        run_for(self.alps.host, duration_ms * MS, self.alps)
        for now_ns, decision in self.alps.core.decisions[self._told :]:
            signs = [f"-{name}" for name in sorted(decision.ineligible)]
            signs += [f"+{name}" for name in sorted(decision.eligible)]
            signs += [_cycle(record) for record in decision.closed]
            if signs:
                self.lines.append(f"{_ms(now_ns)}  {' '.join(signs)}")
        self._told = len(self.alps.core.decisions)


def _ms(instant_ns: int) -> str:
    return f"{instant_ns / MS:10.3f}"


def _cycle(record: CycleRecord) -> str:
    amounts = " ".join(f"{name}={cpu_ns / MS:.3f}" for name, cpu_ns in sorted(record.cpu_ns.items()))
    return f"[cycle {record.index}: {amounts}]"


def paper_with_io() -> Sequence[str]:
    """Section 3.3 of the paper: B of 1:2:3 sleeps 240 ms after every 80 ms of CPU time."""
    script = Script(Alps(PaperScheduler(CoreSettings(quantum_ns=QUANTUM_NS)), SimulatedHost()))
    script.add("A", 1)
    script.add("B", 2, Bursts(80 * MS, 240 * MS))
    script.add("C", 3)
    script.run(900)
    return script.lines


def turns_with_changes() -> Sequence[str]:
    """One core: a join, a new share and a leave, each in the middle of a cycle, with wake-ups 0.05 ms late."""
    core = TurnScheduler(CoreSettings(quantum_ns=QUANTUM_NS))
    script = Script(Alps(core, SimulatedHost(), latency_ns=50_000))
    script.add("A", 1)
    script.add("B", 2)
    script.run(233)
    script.add("C", 3)
    script.run(233)
    script.change("A", 4)
    script.run(333)
    script.leave("B")
    script.run(200)
    return script.lines


def turns_on_two_cores() -> Sequence[str]:
    """Two cores: a group, a capped spinner, a spinner, and one that comes and goes."""
    core = TurnScheduler(CoreSettings(quantum_ns=QUANTUM_NS, cores=2))
    script = Script(Alps(core, SimulatedHost(cores=2)))
    script.add("group", 3, Spin(), Spin(), Spin())
    script.add("capped", 1, cap_cores=0.25)
    script.add("spinner", 2)
    script.add("bursty", 1, Bursts(5 * MS, 45 * MS, asleep_first=True))
    script.run(600)
    return script.lines


@pytest.mark.parametrize("scenario", [paper_with_io, turns_with_changes, turns_on_two_cores])
def test_the_decisions_are_those_of_the_golden_trace(scenario: Callable[[], Sequence[str]]) -> None:
    path = GOLDEN / f"{scenario.__name__}.txt"
    trace = "\n".join([f"# {scenario.__doc__}", *scenario(), ""])
    if os.environ.get("UTILCTL_REWRITE_GOLDEN") == "1":
        path.write_text(trace)
    assert trace.splitlines() == path.read_text().splitlines()
