"""One trace from the command line to the first enforced cycle on every host, as a collector gets it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from support.fleet_machine import HOSTS, SHARES, FleetMachine, possible
from support.otlp_collector import OtlpCollector, ReceivedSpan, enforced_on
from support.processes import WAIT_S, wait_until

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.root,
    pytest.mark.skipif(not possible(), reason="needs root, for cgroups as hosts, and two CPUs"),
]

RPC = "utilctl_proto.v1.ControlService/SetShare"
ON_EVERY_HOST = ("apply targets", "first enforced cycle")


def complete(spans: list[ReceivedSpan]) -> bool:
    """Whether both hosts have said that the change is in force."""
    return all(enforced_on(spans, name) == set(HOSTS) for name in ON_EVERY_HOST)


def test_one_trace_leads_from_set_share_to_its_first_enforced_cycle_on_both_hosts(tmp_path: Path) -> None:
    with (
        OtlpCollector() as collector,
        # Decisions far apart, so that the next one does not overtake the one that is followed.
        FleetMachine(f"sqlite:{tmp_path}/policy.db", report_interval="1s", environment=collector.environment) as fleet,
    ):
        fleet.start_agents()
        for see, share in SHARES.items():
            fleet.utilctl("set-share", see, str(share))
        wait_until(
            lambda: [host["sees"] for host in fleet.client().hosts()["hosts"]] == [2, 2], "both hosts report services"
        )
        spans: list[ReceivedSpan] = []
        for share in (4, 5, 6, 7):  # again, should a later decision overtake this one
            written = fleet.utilctl("set-share", "svc=etl", str(share), "--reason", "traced")
            deadline = time.monotonic() + WAIT_S / 6
            while not complete(spans) and time.monotonic() < deadline:
                time.sleep(0.05)
                spans = collector.trace(written["trace_id"])
            if complete(spans):
                break
        fleet.stop_agents()
    assert complete(spans), [(span.service, span.name, span.attributes) for span in spans]

    by_name: dict[tuple[str, str], list[ReceivedSpan]] = {}
    for span in spans:
        by_name.setdefault((span.service, span.name), []).append(span)
    chain = [
        ("utilctl", "utilctl set-share"),
        ("utilctl", RPC),
        ("utilctl-controller", RPC),
        ("utilctl-controller", "store.put"),
        ("utilctl-controller", "decide"),
        ("utilctl-controller", "push"),
    ]
    parent_id = ""
    for place in chain:
        (span,) = by_name[place]
        assert span.parent_id == parent_id, f"{place} hangs in the air"
        parent_id = span.span_id
    (push,) = by_name["utilctl-controller", "push"]
    assert push.attributes["utilctl.hosts"] == len(HOSTS)
    (root,) = by_name["utilctl", "utilctl set-share"]
    for name in ON_EVERY_HOST:
        on_hosts = by_name["utilctl-agent", name]
        assert sorted(span.attributes["utilctl.host"] for span in on_hosts) == list(HOSTS)
        for span in on_hosts:
            assert span.parent_id == push.span_id
            assert root.start_unix_ns < span.start_unix_ns <= span.end_unix_ns
