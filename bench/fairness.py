"""F1: how equal services are per share when their processes are not spread equally. No published figures.

Two hosts of one CPU each, real agents, everybody wanting all the CPU there is. The demo's fleet has web only on the
first, etl only on the second and batch on both, shares 3 : 1 : 2, which leaves web no room: its part is all that its
host has. With *room to spare* the shares are 2 : 1 : 2. Fair is what maximises the smallest ``X / share``, X the cores
of a service over the fleet; in both all can be equal, so the smallest over the largest is 1. Beside it static shares on
each host: computed for the demo, measured in the same run for the other. A hundred hosts are simulated.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

from bench.harness import Case, environment, new_mark, sweep
from bench.metrics import spread
from bench.plots import bars
from support.closed_loop import skewed_fleet
from support.fleet_machine import FleetMachine, possible
from support.processes import wait_until

REPEATS: Final = 5
TIMEOUT_S: Final = 300.0
ROOMY_SHARES: Final[Mapping[str, float]] = {"svc=web": 2.0, "svc=etl": 1.0, "svc=batch": 2.0}
SETTLE_S: Final = 8.0
RUN_S: Final = 15.0
INTERVALS: Final = 12
"""Of the simulated fleet, from a cold start."""


def cases(*, quick: bool) -> dict[str, Case]:
    """What is measured takes the time it takes; a quick run does it once."""
    repeats = 1 if quick else REPEATS
    return {
        "two hosts": partial(_case, repeats),
        "two hosts, room to spare": partial(_roomy, repeats),
        "100 hosts, simulated": partial(_simulated, repeats),
    }


def _roomy(repeats: int) -> dict[str, Any]:
    """Fleet-wide and per-host shares in turn, so that both see the same machine."""
    if not possible():
        raise RuntimeError("needs root, for cgroups as hosts, and two CPUs")
    fleet_wide, per_host = [], []
    for _ in range(repeats):
        fleet_wide.append(_measured("fleet"))
        per_host.append(_measured("host"))
    return {
        "repeats": repeats,
        "shares": dict(ROOMY_SHARES),
        "measured_min_max_ratio": spread([_per_share(cores) for cores in fleet_wide]).as_dict(),
        "per_host_min_max_ratio": round(spread([_per_share(cores) for cores in per_host]).median, 4),
        "measured_cores": {see: spread([cores[see] for cores in fleet_wide]).as_dict() for see in ROOMY_SHARES},
        "per_host_cores": {see: spread([cores[see] for cores in per_host]).as_dict() for see in ROOMY_SHARES},
    }


def _measured(mode: str) -> dict[str, float]:
    """Cores by service, as the kernel counts them, once a fleet in this mode has settled."""
    with (
        tempfile.TemporaryDirectory(prefix="utilctl-bench-") as folder,
        FleetMachine(f"sqlite:{folder}/policy.db", mode=mode, report_interval="500ms") as fleet,
    ):
        for see, share in ROOMY_SHARES.items():
            fleet.utilctl("set-share", see, str(share))
        fleet.start_agents()
        wait_until(lambda: [host["sees"] for host in fleet.client().hosts()["hosts"]] == [2, 2], "both hosts report")
        time.sleep(SETTLE_S)
        measured = fleet.measured(RUN_S)
        fleet.stop_agents()
    return {see: sum(cores for (_, of), cores in measured.items() if of == see) for see in ROOMY_SHARES}


def _per_share(cores: Mapping[str, float]) -> float:
    per_share = [cores[see] / share for see, share in ROOMY_SHARES.items()]
    return min(per_share) / max(per_share)


def _simulated(repeats: int) -> dict[str, Any]:
    """The controller's rebalancer and the agents' estimate of demand in a closed loop; a placement a run."""
    fleets = [skewed_fleet(seed) for seed in range(1, repeats + 1)]
    return {
        "repeats": repeats,
        "measured_min_max_ratio": spread([fleet.fleet_wide(INTERVALS) for fleet in fleets]).as_dict(),
        "per_host_min_max_ratio": round(spread([fleet.host_by_host() for fleet in fleets]).median, 4),
    }


def _case(repeats: int) -> dict[str, Any]:
    runs = [_first_phase() for _ in range(repeats)]
    services = runs[0]["services"]
    return {
        "repeats": repeats,
        "shares": {see: service["share"] for see, service in services.items()},
        "measured_min_max_ratio": spread([_ratio(run["services"], "measured_cores") for run in runs]).as_dict(),
        "per_host_min_max_ratio": round(_ratio(services, "per_host_shares_cores"), 4),
        "measured_cores": {
            see: spread([run["services"][see]["measured_cores"] for run in runs]).as_dict() for see in services
        },
    }


def _first_phase() -> dict[str, Any]:
    mark = new_mark()
    try:
        done = subprocess.run(
            [sys.executable, "-m", "utilctl_cli.main", "demo", "-o", "json"],
            env=environment(mark), capture_output=True, text=True, timeout=TIMEOUT_S, check=False,
        )  # fmt: skip
    finally:
        sweep(mark)
    if not done.stdout:
        raise RuntimeError(f"the demo failed: {done.stderr.strip()[-200:]}")
    phase: dict[str, Any] = json.loads(done.stdout)["phases"][0]
    return phase


def _ratio(services: Mapping[str, Mapping[str, float]], what: str) -> float:
    """The smallest over the largest of cores per share."""
    per_share = [service[what] / service["share"] for service in services.values()]
    return min(per_share) / max(per_share)


def plot(results: dict[str, Any], path: Path) -> None:
    """The ratios."""
    series = {
        "fleet-wide shares, measured": {name: row["measured_min_max_ratio"]["median"] for name, row in results.items()},
        "per-host shares": {name: row["per_host_min_max_ratio"] for name, row in results.items()},
    }
    bars(path, series, title="Smallest over largest cores per share", ylabel="ratio", log=False)
