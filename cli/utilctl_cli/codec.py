"""Between the command line's values and the wire: requests out, JSON documents in. Wire types stop here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypedDict

from utilctl_cli.documents import (
    ApplyDocument,
    ControllerDocument,
    DeleteDocument,
    ExplainDocument,
    ExportDocument,
    FleetSwitchDocument,
    HistoryDocument,
    HistoryEntryDocument,
    HoldDocument,
    HostDocument,
    HostsDocument,
    HostShareDocument,
    PolicyChangeDocument,
    PolicyDocument,
    RecordDocument,
    ReleaseDocument,
    ServiceDocument,
    ServicesDocument,
    SetShareDocument,
    ShareDocument,
    SwitchDocument,
    WaitingDocument,
)
from utilctl_common.matchers import Matcher, matcher_from_mapping
from utilctl_common.policy import SeePolicy
from utilctl_common.quantities import NS_PER_S, NS_PER_US
from utilctl_proto.v1 import common_pb2, control_pb2

if TYPE_CHECKING:
    from utilctl_common.policy_file import PolicyFileContent


@dataclass(frozen=True, slots=True)
class WriteTerms:
    """Who writes, why, and when to refuse: unless the stored version is ``if_version`` (None: never)."""

    changed_by: str
    reason: str
    if_version: int | None
    dry_run: bool


class _TermFields(TypedDict):
    """The fields that requests for a write of one SEE have in common."""

    changed_by: str
    reason: str
    if_version: int | None
    dry_run: bool


def _term_fields(terms: WriteTerms) -> _TermFields:
    return {
        "changed_by": terms.changed_by,
        "reason": terms.reason,
        "if_version": terms.if_version,
        "dry_run": terms.dry_run,
    }


@dataclass(frozen=True, slots=True)
class ShareChange:
    """What to change of one SEE. None keeps what is stored; ``clear_cap`` removes the cap; empty ``matchers``
    returns to the default ones."""

    see: str
    share: float | None
    floor_cores: float | None
    cap_cores: float | None
    clear_cap: bool
    mode: str | None
    matchers: Sequence[Matcher] | None


def set_share_request(change: ShareChange, terms: WriteTerms) -> control_pb2.SetShareRequest:
    """The wire form of a change; fields that stay as stored are absent."""
    request = control_pb2.SetShareRequest(
        see=change.see,
        share=change.share,
        floor_cores=change.floor_cores,
        cap_cores=change.cap_cores,
        clear_cap=change.clear_cap,
        mode=change.mode,
        set_matchers=change.matchers is not None,
        **_term_fields(terms),
    )
    request.matchers.extend(_matcher_message(matcher) for matcher in change.matchers or ())
    return request


def _matcher_message(matcher: Matcher) -> common_pb2.Matcher:
    return common_pb2.Matcher(conditions=[common_pb2.Condition(key=c.key, value=c.value) for c in matcher.conditions])


def apply_request(file: PolicyFileContent, *, prune: bool, terms: WriteTerms) -> control_pb2.ApplyRequest:
    """The wire form of a whole policy file; its version is the store's revision."""
    return control_pb2.ApplyRequest(
        policies=[
            common_pb2.Policy(
                see=policy.name,
                share=policy.share,
                floor_cores=policy.floor_cores,
                cap_cores=policy.cap_cores,
                mode=policy.mode,
                matchers=[_matcher_message(matcher) for matcher in policy.matchers],
            )
            for policy in file.policies
        ],
        groups=file.groups,
        prune=prune,
        changed_by=terms.changed_by,
        reason=terms.reason,
        if_revision=terms.if_version,
        dry_run=terms.dry_run,
    )


def hold_request(see: str, duration_ns: int, terms: WriteTerms) -> control_pb2.HoldRequest:
    """The wire form of a hold."""
    return control_pb2.HoldRequest(see=see, duration_ns=duration_ns, **_term_fields(terms))


def release_request(see: str, terms: WriteTerms) -> control_pb2.ReleaseRequest:
    """The wire form of a release."""
    return control_pb2.ReleaseRequest(see=see, **_term_fields(terms))


def delete_request(see: str, terms: WriteTerms) -> control_pb2.DeleteSeeRequest:
    """The wire form of a deletion."""
    return control_pb2.DeleteSeeRequest(see=see, **_term_fields(terms))


def set_share_document(response: control_pb2.SetShareResponse) -> SetShareDocument:
    """What a write did."""
    return {
        "see": response.record.policy.see,
        "changed": response.changed,
        "dry_run": response.dry_run,
        "trace_id": response.trace_id,
        "record": _record(response.record),
        "previous": _record(response.previous) if response.HasField("previous") else None,
        "warnings": list(response.warnings),
    }


def delete_document(response: control_pb2.DeleteSeeResponse) -> DeleteDocument:
    """What a deletion removed."""
    return {
        "see": response.previous.policy.see,
        "dry_run": response.dry_run,
        "previous": _record(response.previous),
    }


def apply_document(response: control_pb2.ApplyResponse) -> ApplyDocument:
    """What a policy file changed, or would change."""
    return {
        "changed": bool(response.changes) and not response.dry_run,
        "dry_run": response.dry_run,
        "revision": response.revision,
        "trace_id": response.trace_id,
        "changes": [_policy_change(change) for change in response.changes],
        "unchanged": response.unchanged,
        "unnamed": list(response.unnamed),
    }


def _policy_change(change: control_pb2.PolicyChange) -> PolicyChangeDocument:
    old = policy_document(change.old) if change.HasField("old") else None
    new = policy_document(change.new) if change.HasField("new") else None
    return {
        "see": change.see,
        "action": "create" if old is None else "delete" if new is None else "update",
        "old": old,
        "new": new,
    }


def export_document(response: control_pb2.ListPoliciesResponse) -> ExportDocument:
    """Every policy."""
    return {"revision": response.revision, "services": [_record(record) for record in response.records]}


def exported_policies(response: control_pb2.ListPoliciesResponse) -> list[SeePolicy]:
    """Every policy, for a policy file."""
    return [
        SeePolicy(
            name=record.policy.see,
            share=record.policy.share,
            floor_cores=record.policy.floor_cores,
            cap_cores=record.policy.cap_cores if record.policy.HasField("cap_cores") else None,
            mode=record.policy.mode,
            matchers=tuple(
                matcher_from_mapping({c.key: c.value for c in matcher.conditions}) for matcher in record.policy.matchers
            ),
        )
        for record in response.records
    ]


def hold_document(response: control_pb2.HoldResponse) -> HoldDocument:
    """What is held."""
    return {
        "see": response.record.policy.see,
        "dry_run": response.dry_run,
        "record": _record(response.record),
        "held": [
            {"host": held.host, "weight_ratio": held.weight_ratio, "entitlement_ratio": held.entitlement_ratio}
            for held in response.held
        ],
    }


def release_document(response: control_pb2.ReleaseResponse) -> ReleaseDocument:
    """What a release did."""
    return {
        "see": response.record.policy.see,
        "changed": response.changed,
        "dry_run": response.dry_run,
        "record": _record(response.record),
    }


def switch_document(response: control_pb2.SetEnabledResponse) -> SwitchDocument:
    """Whether shares hold now."""
    switch = _switch(response.fleet_switch) if response.HasField("fleet_switch") else None
    return {
        "disabled": switch is not None and switch["disabled"],
        "changed": response.changed,
        "hosts": response.hosts,
        "fleet_switch": switch,
    }


def _switch(switch: control_pb2.FleetSwitch) -> FleetSwitchDocument:
    return {
        "disabled": switch.disabled,
        "changed_at": iso_time(switch.changed_unix_ns),
        "changed_unix_ns": switch.changed_unix_ns,
        "changed_by": switch.changed_by,
        "reason": switch.reason,
    }


def services_document(response: control_pb2.ListServicesResponse) -> ServicesDocument:
    """Every service and the controller."""
    return {
        "services": [service_document(service) for service in response.services],
        "waiting": [_waiting(service) for service in response.waiting],
        "controller": _controller(response.controller),
    }


def hosts_document(response: control_pb2.ListHostsResponse) -> HostsDocument:
    """Every host and the controller."""
    return {
        "hosts": [_host(host) for host in response.hosts],
        "controller": _controller(response.controller),
    }


def service_document(service: control_pb2.ServiceStatus) -> ServiceDocument:
    """One service: policy, totals, hosts."""
    return {
        **_record(service.record),
        "entitlement_cores": service.entitlement_cores,
        "demand_cores": service.demand_cores,
        "consumption_cores": service.consumption_cores,
        "consumed_total_ns": service.consumed_total_ns,
        "hosts": service.hosts,
        "per_host": [_host_share(share) for share in service.per_host],
    }


def share_document(response: control_pb2.GetShareResponse) -> ShareDocument:
    """One service and the controller."""
    return {**service_document(response.service), "controller": _controller(response.controller)}


def explain_document(response: control_pb2.ExplainResponse) -> ExplainDocument:
    """One service and why it gets what it gets."""
    return {
        **service_document(response.service),
        "binding_constraint": response.binding_constraint,
        "lenders": list(response.lenders),
        "borrowers": list(response.borrowers),
        "decided_at": iso_time(response.decided_unix_ns),
        "decided_unix_ns": response.decided_unix_ns,
        "trace_id": response.trace_id,
        "sentence": response.sentence,
    }


def history_document(response: control_pb2.ListHistoryResponse) -> HistoryDocument:
    """Changes, in the controller's order: newest first."""
    return {"entries": [_history_entry(entry) for entry in response.entries]}


def iso_time(unix_ns: int) -> str | None:
    """Nanoseconds since 1970 as ISO 8601 in UTC with microseconds; None for 0, which means never."""
    if unix_ns == 0:
        return None
    seconds, rest_ns = divmod(unix_ns, NS_PER_S)
    moment = datetime.fromtimestamp(seconds, UTC).replace(microsecond=rest_ns // NS_PER_US)
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def policy_document(policy: common_pb2.Policy) -> PolicyDocument:
    """One policy."""
    return {
        "see": policy.see,
        "share": policy.share,
        "floor_cores": policy.floor_cores,
        "cap_cores": policy.cap_cores if policy.HasField("cap_cores") else None,
        "mode": policy.mode,
        "match": [{c.key: c.value for c in matcher.conditions} for matcher in policy.matchers],
        "held_until_at": iso_time(policy.held_until_unix_ns),
        "held_until_unix_ns": policy.held_until_unix_ns if policy.HasField("held_until_unix_ns") else None,
    }


def _record(record: control_pb2.PolicyRecord) -> RecordDocument:
    return {
        **policy_document(record.policy),
        "version": record.version,
        "store_revision": record.store_revision,
        "changed_at": iso_time(record.changed_unix_ns),
        "changed_unix_ns": record.changed_unix_ns,
        "changed_by": record.changed_by,
        "reason": record.reason,
    }


def _host_share(share: control_pb2.HostShare) -> HostShareDocument:
    return {
        "host": share.host,
        "see": share.see,
        "weight": share.weight,
        "entitlement_cores": share.entitlement_cores,
        "demand_cores": share.demand_cores,
        "consumption_cores": share.consumption_cores,
        "consumed_total_ns": share.consumed_total_ns,
        "paused_total_ns": share.paused_total_ns,
        "processes": share.processes,
        "problem": share.problem,
    }


def _controller(status: control_pb2.ControllerStatus) -> ControllerDocument:
    return {
        "controller_id": status.controller_id,
        "epoch": status.epoch,
        "store_revision": status.store_revision,
        "store_available": status.store_available,
        "degraded_reason": status.degraded_reason,
        "fleet_switch": _switch(status.fleet_switch) if status.HasField("fleet_switch") else None,
    }


def _host(host: control_pb2.HostStatus) -> HostDocument:
    return {
        "host": host.host,
        "connected": host.connected,
        "capacity_cores": host.capacity_cores,
        "unclaimed_cores": host.unclaimed_cores,
        "consumption_cores": host.consumption_cores,
        "mechanism": host.mechanism,
        "mechanism_reason": host.mechanism_reason,
        "agent_version": host.agent_version,
        "pushed_generation": host.pushed_generation,
        "applied_generation": host.applied_generation,
        "last_report_at": iso_time(host.last_report_unix_ns),
        "last_report_unix_ns": host.last_report_unix_ns,
        "rms_relative_error_ratio": host.rms_relative_error_ratio,
        "overhead_ratio": host.overhead_ratio,
        "sees": host.sees,
        "waiting": {entry.see: entry.pods for entry in host.waiting},
    }


def _waiting(service: control_pb2.WaitingService) -> WaitingDocument:
    return {
        "see": service.see,
        "pods": service.pods,
        "hosts": service.hosts,
        "per_host": [{"host": entry.host, "pods": entry.pods} for entry in service.per_host],
    }


def _history_entry(entry: control_pb2.HistoryEntry) -> HistoryEntryDocument:
    return {
        "see": entry.see,
        "changed_at": iso_time(entry.changed_unix_ns),
        "changed_unix_ns": entry.changed_unix_ns,
        "changed_by": entry.changed_by,
        "reason": entry.reason,
        "old": policy_document(entry.old) if entry.HasField("old") else None,
        "new": policy_document(entry.new) if entry.HasField("new") else None,
        "store_revision": entry.store_revision,
        "fleet_disabled": entry.fleet_disabled if entry.HasField("fleet_disabled") else None,
    }
