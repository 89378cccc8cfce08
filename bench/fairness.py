"""F1: how equal services are per share when their processes are not spread equally. No published figures.

The demo's fleet: two hosts of one CPU, web only on the first, etl only on the second, batch on both, everybody wanting
all the CPU there is. Fair is what maximises the smallest ``X / share``, X the cores of a service over the fleet; in the
demo's first phase all can be equal, so the smallest over the largest is 1. Beside it what static shares on each host
would give.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

from bench.harness import Case, environment, new_mark, sweep
from bench.metrics import spread
from bench.plots import bars

REPEATS: Final = 5
TIMEOUT_S: Final = 300.0


def cases(*, quick: bool) -> dict[str, Case]:
    """One row: what is measured takes the time it takes."""
    return {"two hosts": partial(_case, 1 if quick else REPEATS)}


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
