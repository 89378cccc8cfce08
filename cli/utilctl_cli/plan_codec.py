"""Between the command line's values and the wire, for ``utilctl plan --live``. Wire types stop here."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from utilctl_cli.codec import iso_time, policy_document
from utilctl_cli.documents import LivePlanDocument, PlannedServiceDocument
from utilctl_proto.v1 import control_pb2


@dataclass(slots=True)
class PlannedChange:
    """What might be changed of one service. None keeps what is stored; ``clear_cap`` removes the cap."""

    see: str
    share: float | None = None
    floor_cores: float | None = None
    cap_cores: float | None = None
    clear_cap: bool = False
    delete: bool = False


def plan_live_request(changes: Iterable[PlannedChange]) -> control_pb2.PlanLiveRequest:
    """The wire form of the question."""
    return control_pb2.PlanLiveRequest(
        changes=[
            control_pb2.PlannedChange(
                see=change.see,
                share=change.share,
                floor_cores=change.floor_cores,
                cap_cores=change.cap_cores,
                clear_cap=change.clear_cap,
                delete=change.delete,
            )
            for change in changes
        ]
    )


def live_plan_document(response: control_pb2.PlanLiveResponse) -> LivePlanDocument:
    """The answer."""
    return {
        "services": [_planned(service) for service in response.services],
        "unaffected": response.unaffected,
        "warnings": list(response.warnings),
        "hosts": response.hosts,
        "decided_at": iso_time(response.decided_unix_ns),
        "decided_unix_ns": response.decided_unix_ns,
    }


def _planned(service: control_pb2.PlannedService) -> PlannedServiceDocument:
    return {
        "see": service.see,
        "old": policy_document(service.old) if service.HasField("old") else None,
        "new": policy_document(service.new) if service.HasField("new") else None,
        "demand_cores": service.demand_cores,
        "before_cores": service.before_cores,
        "after_cores": service.after_cores,
        "bottleneck": service.bottleneck,
        "per_host": [
            {"host": share.host, "before_cores": share.before_cores, "after_cores": share.after_cores}
            for share in service.per_host
        ],
    }
