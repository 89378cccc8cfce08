"""Between the wire messages of ``utilctl plan --live`` and the controller's own values."""

from __future__ import annotations

from utilctl_common.errors import UsageError
from utilctl_controller.codec import policy_message
from utilctl_controller.edits import DeleteEdit, PolicyEdit, WriteTerms
from utilctl_controller.whatif import Outlook, WhatIf
from utilctl_proto.v1 import control_pb2

_ASKING = WriteTerms(who="", reason="", if_version=None, dry_run=True)


def edits_from(message: control_pb2.PlanLiveRequest) -> list[PolicyEdit | DeleteEdit]:
    """The changes that are asked about. Raises UsageError if there is none."""
    if not message.changes:
        raise UsageError("no change is given", hint="give one, for example --set svc=web=5")
    return [_edit_from(change) for change in message.changes]


def _edit_from(change: control_pb2.PlannedChange) -> PolicyEdit | DeleteEdit:
    if change.delete:
        return DeleteEdit(change.see, _ASKING)
    return PolicyEdit(
        see=change.see,
        share=change.share if change.HasField("share") else None,
        floor_cores=change.floor_cores if change.HasField("floor_cores") else None,
        cap_cores=change.cap_cores if change.HasField("cap_cores") else None,
        clear_cap=change.clear_cap,
        mode=None,
        matchers=None,
        terms=_ASKING,
    )


def response(found: WhatIf, decided_unix_ns: int, hosts: int) -> control_pb2.PlanLiveResponse:
    """The answer."""
    return control_pb2.PlanLiveResponse(
        services=[_planned(outlook) for outlook in found.outlooks],
        unaffected=found.unaffected,
        warnings=found.warnings,
        decided_unix_ns=decided_unix_ns,
        hosts=hosts,
    )


def _planned(outlook: Outlook) -> control_pb2.PlannedService:
    return control_pb2.PlannedService(
        see=outlook.see,
        old=policy_message(outlook.old) if outlook.old is not None else None,
        new=policy_message(outlook.new) if outlook.new is not None else None,
        demand_cores=outlook.demand_cores,
        before_cores=outlook.before_cores,
        after_cores=outlook.after_cores,
        bottleneck=outlook.bottleneck,
        per_host=[
            control_pb2.PlannedShare(host=host, before_cores=before, after_cores=after)
            for host, (before, after) in outlook.hosts.items()
        ],
    )
