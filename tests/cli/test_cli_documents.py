"""The JSON documents: their keys, units and absent values, and that nothing of an answer gets lost."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from utilctl_cli import codec
from utilctl_proto.v1 import common_pb2, control_pb2

Run = Callable[..., subprocess.CompletedProcess[str]]
StartStandIn = Callable[[dict[str, Any]], tuple[str, Any]]

AT_NS = 1_700_000_000_123_456_789
AT = "2023-11-14T22:13:20.123456Z"

RECORD = control_pb2.PolicyRecord(
    policy=common_pb2.Policy(
        see="svc=web", share=3, floor_cores=0.5, cap_cores=4, mode="auto",
        matchers=[common_pb2.Matcher(conditions=[common_pb2.Condition(key="user", value="www-data")])],
    ),
    version=7, store_revision=41, changed_unix_ns=AT_NS, changed_by="alice@ops", reason="launch",
)  # fmt: skip
SERVICE = control_pb2.ServiceStatus(
    record=RECORD, entitlement_cores=1.5, demand_cores=2.5, consumption_cores=1.25, consumed_total_ns=90, hosts=1,
    per_host=[
        control_pb2.HostShare(
            host="a", see="svc=web", weight=0.75, entitlement_cores=1.5, demand_cores=2.5, consumption_cores=1.25,
            consumed_total_ns=90, paused_total_ns=10, processes=4, problem="no permission",
        )
    ],
)  # fmt: skip
CONTROLLER = control_pb2.ControllerStatus(
    controller_id="c1", epoch=2, store_revision=41, store_available=True, degraded_reason="learning"
)

RECORD_JSON = {
    "see": "svc=web", "share": 3.0, "floor_cores": 0.5, "cap_cores": 4.0, "mode": "auto",
    "match": [{"user": "www-data"}], "version": 7, "store_revision": 41, "changed_at": AT, "changed_unix_ns": AT_NS,
    "changed_by": "alice@ops", "reason": "launch", "held_until_at": None, "held_until_unix_ns": None,
}  # fmt: skip
SERVICE_JSON = {
    **RECORD_JSON, "entitlement_cores": 1.5, "demand_cores": 2.5, "consumption_cores": 1.25, "consumed_total_ns": 90,
    "hosts": 1,
    "per_host": [
        {
            "host": "a", "see": "svc=web", "weight": 0.75, "entitlement_cores": 1.5, "demand_cores": 2.5,
            "consumption_cores": 1.25, "consumed_total_ns": 90, "paused_total_ns": 10, "processes": 4,
            "problem": "no permission",
        }
    ],
}  # fmt: skip
CONTROLLER_JSON = {
    "controller_id": "c1", "epoch": 2, "store_revision": 41, "store_available": True, "degraded_reason": "learning",
    "fleet_switch": None,
}  # fmt: skip


def printed(utilctl: Run, stand_in: StartStandIn, method: str, response: Any, *arguments: str) -> Any:
    address, _ = stand_in({method: lambda request, context: response})
    ran = utilctl(*arguments, "-o", "json", "--controller", address)
    assert (ran.returncode, ran.stderr) == (0, "")
    return json.loads(ran.stdout)


def test_get_services(utilctl: Run, stand_in: StartStandIn) -> None:
    waiting = control_pb2.WaitingService(
        see="svc=foo", pods=3, hosts=1, per_host=[control_pb2.WaitingOnHost(host="node-1", pods=3)]
    )
    response = control_pb2.ListServicesResponse(services=[SERVICE], controller=CONTROLLER, waiting=[waiting])
    assert printed(utilctl, stand_in, "ListServices", response, "get", "services") == {
        "services": [SERVICE_JSON],
        "waiting": [{"see": "svc=foo", "pods": 3, "hosts": 1, "per_host": [{"host": "node-1", "pods": 3}]}],
        "controller": CONTROLLER_JSON,
    }


def test_get_share(utilctl: Run, stand_in: StartStandIn) -> None:
    response = control_pb2.GetShareResponse(service=SERVICE, controller=CONTROLLER)
    assert printed(utilctl, stand_in, "GetShare", response, "get", "share", "svc=web") == {
        **SERVICE_JSON,
        "controller": CONTROLLER_JSON,
    }


def test_get_hosts(utilctl: Run, stand_in: StartStandIn) -> None:
    host = {
        "host": "a", "connected": True, "capacity_cores": 4.0, "unclaimed_cores": 0.25, "consumption_cores": 3.5,
        "mechanism": "signal", "mechanism_reason": "no cgroup", "agent_version": "0.1.0", "pushed_generation": 9,
        "applied_generation": 8, "last_report_unix_ns": AT_NS, "rms_relative_error_ratio": 0.5,
        "overhead_ratio": 0.25, "sees": 3,
    }  # fmt: skip
    waiting = [common_pb2.WaitingPods(see="svc=foo", pods=3)]
    status = control_pb2.HostStatus(**host, waiting=waiting)  # type: ignore[arg-type] # a dict of mixed values
    response = control_pb2.ListHostsResponse(hosts=[status], controller=CONTROLLER)
    assert printed(utilctl, stand_in, "ListHosts", response, "get", "hosts") == {
        "hosts": [{**host, "last_report_at": AT, "waiting": {"svc=foo": 3}}],
        "controller": CONTROLLER_JSON,
    }


def test_explain(utilctl: Run, stand_in: StartStandIn) -> None:
    response = control_pb2.ExplainResponse(
        service=SERVICE, binding_constraint="cap", lenders=["svc=a"], borrowers=["svc=b", "svc=c"],
        decided_unix_ns=AT_NS, trace_id="ab" * 16, sentence="So it is.",
    )  # fmt: skip
    assert printed(utilctl, stand_in, "Explain", response, "explain", "svc=web") == {
        **SERVICE_JSON, "binding_constraint": "cap", "lenders": ["svc=a"], "borrowers": ["svc=b", "svc=c"],
        "decided_at": AT, "decided_unix_ns": AT_NS, "trace_id": "ab" * 16, "sentence": "So it is.",
    }  # fmt: skip


def test_what_is_absent_is_null(utilctl: Run, stand_in: StartStandIn) -> None:
    policy = common_pb2.Policy(see="svc=web", share=1, mode="auto")
    bare = control_pb2.ServiceStatus(record=control_pb2.PolicyRecord(policy=policy))
    response = control_pb2.ExplainResponse(service=bare)
    document = printed(utilctl, stand_in, "Explain", response, "explain", "svc=web")
    assert {key for key, value in document.items() if value is None} == {
        "cap_cores", "changed_at", "decided_at", "held_until_at", "held_until_unix_ns",
    }  # fmt: skip


@pytest.mark.parametrize("previous", [RECORD, None])
def test_set_share(utilctl: Run, stand_in: StartStandIn, previous: control_pb2.PolicyRecord | None) -> None:
    response = control_pb2.SetShareResponse(
        record=RECORD, previous=previous, changed=True, dry_run=True, trace_id="cd" * 16, warnings=["far"]
    )
    assert printed(utilctl, stand_in, "SetShare", response, "set-share", "svc=web", "3") == {
        "see": "svc=web", "changed": True, "dry_run": True, "trace_id": "cd" * 16, "record": RECORD_JSON,
        "previous": RECORD_JSON if previous else None, "warnings": ["far"],
    }  # fmt: skip


def test_delete(utilctl: Run, stand_in: StartStandIn) -> None:
    response = control_pb2.DeleteSeeResponse(previous=RECORD)
    assert printed(utilctl, stand_in, "DeleteSee", response, "delete", "svc=web") == {
        "see": "svc=web", "dry_run": False, "previous": RECORD_JSON,
    }  # fmt: skip


def test_history(utilctl: Run, stand_in: StartStandIn) -> None:
    entry = control_pb2.HistoryEntry(
        see="svc=web", changed_unix_ns=AT_NS, changed_by="bob@ops", reason="", new=RECORD.policy, store_revision=3
    )
    response = control_pb2.ListHistoryResponse(entries=[entry])
    policy_keys = (
        "see", "share", "floor_cores", "cap_cores", "mode", "match", "held_until_at", "held_until_unix_ns",
    )  # fmt: skip
    assert printed(utilctl, stand_in, "ListHistory", response, "history") == {
        "entries": [
            {
                "see": "svc=web", "changed_at": AT, "changed_unix_ns": AT_NS, "changed_by": "bob@ops", "reason": "",
                "old": None, "new": {key: RECORD_JSON[key] for key in policy_keys}, "store_revision": 3,
                "fleet_disabled": None,
            }
        ]
    }  # fmt: skip


def test_a_change_of_the_fleets_switch(utilctl: Run, stand_in: StartStandIn) -> None:
    entry = control_pb2.HistoryEntry(changed_unix_ns=AT_NS, changed_by="bob@ops", fleet_disabled=True)
    response = control_pb2.ListHistoryResponse(entries=[entry])
    (told,) = printed(utilctl, stand_in, "ListHistory", response, "history")["entries"]
    assert (told["see"], told["old"], told["new"], told["fleet_disabled"]) == ("", None, None, True)


HELD_JSON = {**RECORD_JSON, "held_until_at": AT, "held_until_unix_ns": AT_NS}
HELD = control_pb2.PolicyRecord()
HELD.CopyFrom(RECORD)
HELD.policy.held_until_unix_ns = AT_NS


def test_hold_and_release(utilctl: Run, stand_in: StartStandIn) -> None:
    held = control_pb2.HoldResponse(
        record=HELD, held=[control_pb2.HeldShare(host="a", weight_ratio=0.75, entitlement_ratio=0.5)]
    )
    assert printed(utilctl, stand_in, "Hold", held, "hold", "svc=web", "--for", "1h") == {
        "see": "svc=web", "dry_run": False, "record": HELD_JSON,
        "held": [{"host": "a", "weight_ratio": 0.75, "entitlement_ratio": 0.5}],
    }  # fmt: skip
    released = control_pb2.ReleaseResponse(record=RECORD, changed=True)
    assert printed(utilctl, stand_in, "Release", released, "release", "svc=web") == {
        "see": "svc=web", "changed": True, "dry_run": False, "record": RECORD_JSON,
    }  # fmt: skip


def test_disable(utilctl: Run, stand_in: StartStandIn) -> None:
    switch = control_pb2.FleetSwitch(disabled=True, changed_unix_ns=AT_NS, changed_by="bob@ops", reason="fire")
    response = control_pb2.SetEnabledResponse(fleet_switch=switch, changed=True, hosts=3)
    assert printed(utilctl, stand_in, "SetEnabled", response, "disable") == {
        "disabled": True, "changed": True, "hosts": 3,
        "fleet_switch": {
            "disabled": True, "changed_at": AT, "changed_unix_ns": AT_NS, "changed_by": "bob@ops", "reason": "fire",
        },
    }  # fmt: skip


def test_json_is_readable_on_any_terminal(utilctl: Run, stand_in: StartStandIn) -> None:
    entry = control_pb2.HistoryEntry(see="svc=web", reason="größer")
    address, _ = stand_in({"ListHistory": lambda *_: control_pb2.ListHistoryResponse(entries=[entry])})
    ran = utilctl("history", "-o", "json", "--controller", address)
    assert ran.stdout.isascii()
    assert json.loads(ran.stdout)["entries"][0]["reason"] == "größer"


@given(st.integers(min_value=1, max_value=2**63 - 1))
def test_times_are_exact_to_the_microsecond(unix_ns: int) -> None:
    text = codec.iso_time(unix_ns)
    assert text is not None
    moment = datetime.fromisoformat(text)
    assert (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) == unix_ns // 1000
