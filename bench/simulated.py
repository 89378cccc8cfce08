"""The multi-core scenarios on simulated hosts with more CPUs than this machine has.

The only experiment that uses the agent's code directly, by the pieces that embedding programs use: engine, scheduler
and the simulated host of ``utilctl_agent.testing``. The simulated kernel runs one round-robin queue; there is no noise
and waking up is ``LATENCY_NS`` late, so the figures show what the algorithm can do, not what a machine would.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from bench.metrics import mean_error_pct, rounded, sums, worst_deviation_pct
from utilctl_agent.alps.model import CoreSettings, PrincipalSpec, Scheduler
from utilctl_agent.alps.paper import PaperScheduler
from utilctl_agent.alps.turns import TurnScheduler
from utilctl_agent.engine import Engine
from utilctl_agent.testing import SimulatedHost, Spin, run_engine
from utilctl_common.quantities import NS_PER_MS

if TYPE_CHECKING:
    from bench.multicore import Scenario

LATENCY_NS: Final = 50_000
"""How late the loop wakes; as measured on real hosts with a private slice."""
RUN_S: Final = 10.0
QUICK_RUN_S: Final = 2.0
SKIP_CYCLES: Final = 2


def simulated(scenario: Scenario, cores: int, quick: bool) -> dict[str, Any]:
    """The default and the paper's algorithm on ``cores`` simulated CPUs."""
    cycle_ns = round(scenario.cycle_ms * NS_PER_MS) if scenario.cycle_ms is not None else None
    settings = CoreSettings(quantum_ns=round(scenario.quantum_ms * NS_PER_MS), cycle_ns=cycle_ns, cores=cores)
    schedulers: dict[str, Scheduler] = {
        "default": TurnScheduler(settings),
        "paper": PaperScheduler(settings, lazy=True),
    }
    return {
        "simulated": True,
        "shares": scenario.shares,
        "processes": scenario.processes,
        "due": [value / sum(scenario.due) for value in scenario.due],
        "algorithms": {
            name: _run(scenario, cores, scheduler, QUICK_RUN_S if quick else RUN_S)
            for name, scheduler in schedulers.items()
        },
    }


def _run(scenario: Scenario, cores: int, scheduler: Scheduler, run_s: float) -> dict[str, Any]:
    host = SimulatedHost(cores)
    engine = Engine(scheduler)
    names = [f"s{index}" for index in range(len(scenario.shares))]
    for name, share, count in zip(names, scenario.shares, scenario.processes, strict=True):
        engine.put(PrincipalSpec(name, share, count), 0, host.group(name, *[Spin()] * count))
    started = time.process_time()
    log = run_engine(engine, host, round(run_s * 1e9), latency_ns=LATENCY_NS)
    cycles = [[record.cpu_ns[name] for name in names] for record in log.cycles[SKIP_CYCLES:]]
    used_ns = sums(cycles) or [0] * len(names)
    return {
        "cycles": len(cycles),
        "error_log_pct": rounded(mean_error_pct(cycles, scenario.due)),
        "fractions_log": [round(value / max(1, sum(used_ns)), 5) for value in used_ns],
        "worst_deviation_log_pct": rounded(worst_deviation_pct(used_ns, scenario.due)),
        "idle_pct": round(100 * host.idle_ns / (run_s * 1e9 * cores), 4),
        "wakeups_per_s": round(engine.wakeups / run_s, 1),
        "simulation_cpu_s": round(time.process_time() - started, 2),
    }
