"""From ``utilctl set-share`` to the first cycle that is enforced by it, on this machine as two hosts.

Everything is real: the command, the controller, two agents, services that spin. The instants are those of the change's
own trace, as a collector gets it. A change counts when the later of the hosts has ended its first whole cycle under the
new targets. One that a later decision overtakes on its way is counted apart: its trace does not tell when it held.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from typing import Any, Final

from support.fleet_machine import HOSTS, SHARES, FleetMachine, possible
from support.otlp_collector import OtlpCollector, ReceivedSpan, enforced_on
from support.processes import wait_until

SETTLE_S: Final = 5.0
GAP_S: Final = 1.5
GIVE_UP_S: Final = 8.0
SPAN: Final = "first enforced cycle"


def measure(changes: int) -> dict[str, Any]:
    """So many changes of one share, one after the other, and how long each took."""
    if not possible():
        raise RuntimeError("needs root, for cgroups as hosts, and two CPUs")
    from_call_ms: list[float] = []
    from_start_ms: list[float] = []
    overtaken = 0
    with (
        tempfile.TemporaryDirectory(prefix="utilctl-bench-") as folder,
        OtlpCollector() as collector,
        FleetMachine(f"sqlite:{folder}/policy.db", report_interval="1s", environment=collector.environment) as fleet,
    ):
        fleet.start_agents()
        for see, share in SHARES.items():
            fleet.utilctl("set-share", see, str(share))
        wait_until(lambda: _found(fleet) == [2, 2], "both hosts report their services")
        time.sleep(SETTLE_S)
        for number in range(changes):
            started_unix_ns = time.time_ns()
            written = fleet.utilctl("set-share", "svc=etl", str(4 + number % 3))
            spans = _followed(collector, written["trace_id"])
            if enforced_on(spans, SPAN) == set(HOSTS):
                done_ns = max(span.end_unix_ns for span in spans if _in_force(span))
                from_call_ms.append((done_ns - min(span.start_unix_ns for span in spans)) / 1e6)
                from_start_ms.append((done_ns - started_unix_ns) / 1e6)
            else:
                overtaken += 1
            time.sleep(GAP_S)
        fleet.stop_agents()
    if not from_call_ms:
        raise RuntimeError("no change could be followed to its first enforced cycle")
    return {
        "hosts": len(HOSTS),
        "changes": changes,
        "overtaken": overtaken,
        "first_cycle_p50_ms": round(statistics.median(from_call_ms), 1),
        "first_cycle_p90_ms": round(sorted(from_call_ms)[int(0.9 * len(from_call_ms))], 1),
        "first_cycle_max_ms": round(max(from_call_ms), 1),
        "with_start_of_command_max_ms": round(max(from_start_ms), 1),
    }


def _found(fleet: FleetMachine) -> list[int]:
    return [host["sees"] for host in fleet.client().hosts()["hosts"]]


def _in_force(span: ReceivedSpan) -> bool:
    return span.name == SPAN and "utilctl.superseded" not in span.attributes


def _followed(collector: OtlpCollector, trace_id: str) -> list[ReceivedSpan]:
    """The trace, as soon as it is complete, or what there is of it in the end."""
    deadline = time.monotonic() + GIVE_UP_S
    while True:
        spans = collector.trace(trace_id)
        if enforced_on(spans, SPAN) == set(HOSTS) or time.monotonic() > deadline:
            return spans
        time.sleep(0.05)
