"""Between wire messages and the controller's own values. Nothing else of the controller sees a wire type.

Decoding raises UsageError for what no correct peer would send; numbers are judged where they are used.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Final

from utilctl_common.errors import UsageError
from utilctl_common.matchers import Matcher, matcher_from_mapping
from utilctl_common.names import parse_see_name
from utilctl_common.policy import Hold, SeePolicy
from utilctl_common.quantities import NS_PER_S
from utilctl_controller.edits import (
    ApplyEdit,
    ApplyPlan,
    DeleteEdit,
    HoldEdit,
    PolicyEdit,
    SwitchEdit,
    WriteTerms,
    check_words,
)
from utilctl_controller.explain import Explanation
from utilctl_controller.fleet import AgentHello, HostReading, LoopReading, SeeReading
from utilctl_controller.reports import MAX_SEES, MAX_WAITING
from utilctl_controller.status import HostShareView, HostView, ServiceView, WaitingView
from utilctl_controller.store.port import HistoryEntry, Record, Snapshot, SwitchRecord
from utilctl_proto.v1 import agent_pb2, common_pb2, control_pb2

UNKNOWN_AUTHOR = "unknown"
"""Recorded as the author of a change whose request names none."""

MAX_MATCH_CHARACTERS: Final = 262_144
"""Longest matchers of one service, all together. Arbitrary: they go to every host, again and again."""

MAX_HOLD_NS: Final = 365 * 86_400 * NS_PER_S
"""Longest hold. Arbitrary; whoever wants it for longer wants another share."""

_Write = (
    control_pb2.SetShareRequest
    | control_pb2.DeleteSeeRequest
    | control_pb2.ApplyRequest
    | control_pb2.HoldRequest
    | control_pb2.ReleaseRequest
)


# Agents


def hello_from(message: agent_pb2.Hello) -> AgentHello:
    """What an agent said of itself, unchecked."""
    return AgentHello(
        host=message.host,
        capacity_cores=message.capacity_cores,
        agent_version=message.agent_version,
        instance_id=message.instance_id,
        mechanism=message.mechanism,
        mechanism_reason=message.mechanism_reason,
        epoch=message.epoch,
        generation=message.generation,
    )


def report_from(message: agent_pb2.Report) -> HostReading:
    """A report, unchecked. Of too many services one more than are looked at, so that it is seen to be too many."""
    loop = message.loop
    return HostReading(
        sequence=message.sequence,
        interval_ns=message.interval_ns,
        capacity_cores=message.capacity_cores,
        unclaimed_cores=message.unclaimed_cores,
        sees=tuple(
            SeeReading(
                see=entry.see,
                consumed_total_ns=entry.consumed_total_ns,
                paused_total_ns=entry.paused_total_ns,
                consumption_cores=entry.consumption_cores,
                demand_cores=entry.demand_cores,
                processes=entry.processes,
                problem=entry.problem,
            )
            for entry in message.sees[: MAX_SEES + 1]
        ),
        loop=LoopReading(
            algorithm=loop.algorithm,
            mechanism=loop.mechanism,
            cycles_total=loop.cycles_total,
            wakeups_total=loop.wakeups_total,
            overhead_total_ns=loop.overhead_total_ns,
            rms_relative_error_ratio=loop.rms_relative_error_ratio,
        )
        if message.HasField("loop")
        else None,
        waiting=tuple((entry.see, entry.pods) for entry in message.waiting[: MAX_WAITING + 1]),
    )


def welcome(epoch: int, report_interval_ns: int, controller_id: str) -> agent_pb2.ConnectResponse:
    """The answer to Hello."""
    return agent_pb2.ConnectResponse(
        welcome=agent_pb2.Welcome(epoch=epoch, report_interval_ns=report_interval_ns, controller_id=controller_id)
    )


# Policies


def matcher_message(matcher: Matcher) -> common_pb2.Matcher:
    """One matcher."""
    return common_pb2.Matcher(conditions=[common_pb2.Condition(key=c.key, value=c.value) for c in matcher.conditions])


def policy_message(policy: SeePolicy) -> common_pb2.Policy:
    """One policy."""
    message = common_pb2.Policy(
        see=policy.name,
        share=policy.share,
        floor_cores=policy.floor_cores,
        mode=policy.mode,
        matchers=[matcher_message(matcher) for matcher in policy.matchers],
    )
    if policy.cap_cores is not None:
        message.cap_cores = policy.cap_cores
    if policy.hold is not None:
        message.held_until_unix_ns = policy.hold.until_unix_ns
    return message


@lru_cache(maxsize=16_384)
def cached_policy(policy: SeePolicy) -> common_pb2.Policy:
    """A policy goes to every host again and again; it is only ever copied from here, never changed."""
    return policy_message(policy)


def record_message(record: Record) -> control_pb2.PolicyRecord:
    """One stored policy."""
    return control_pb2.PolicyRecord(
        policy=policy_message(record.policy),
        version=record.version,
        store_revision=record.revision,
        changed_unix_ns=record.change.at_unix_ns,
        changed_by=record.change.who,
        reason=record.change.reason,
    )


def _matchers_from(messages: Iterable[common_pb2.Matcher]) -> tuple[Matcher, ...]:
    matchers: list[Matcher] = []
    left = MAX_MATCH_CHARACTERS
    for message in messages:
        left -= sum(len(condition.key) + len(condition.value) for condition in message.conditions)
        if left < 0:
            raise UsageError(
                f"the matchers of one service have more than {MAX_MATCH_CHARACTERS} characters",
                hint="match a cgroup, a user or a label instead of one process after the other",
            )
        keys = [condition.key for condition in message.conditions]
        if len(set(keys)) != len(keys):
            raise UsageError("a matcher names a key twice", hint="use two matchers for an OR")
        matchers.append(matcher_from_mapping({c.key: c.value for c in message.conditions}))
    return tuple(dict.fromkeys(matchers))


def edit_from(message: control_pb2.SetShareRequest) -> PolicyEdit:
    """A request to set a policy. Raises UsageError for malformed names, texts and matchers."""
    parse_see_name(message.see)
    if message.matchers and not message.set_matchers:
        raise UsageError("matchers are given but not asked to be set", hint="set set_matchers")
    return PolicyEdit(
        see=message.see,
        share=message.share if message.HasField("share") else None,
        floor_cores=message.floor_cores if message.HasField("floor_cores") else None,
        cap_cores=message.cap_cores if message.HasField("cap_cores") else None,
        clear_cap=message.clear_cap,
        mode=message.mode if message.HasField("mode") else None,
        matchers=_matchers_from(message.matchers) if message.set_matchers else None,
        terms=_terms_from(message),
    )


def delete_from(message: control_pb2.DeleteSeeRequest) -> DeleteEdit:
    """A request to delete an SEE. Raises UsageError for malformed names and texts."""
    return DeleteEdit(parse_see_name(message.see), _terms_from(message))


def apply_from(message: control_pb2.ApplyRequest) -> ApplyEdit:
    """A whole policy file. Raises UsageError for whatever is no policy in it."""
    return ApplyEdit(
        policies=tuple(_policy_from(policy) for policy in message.policies),
        groups=frozenset(parse_see_name(name) for name in message.groups),
        prune=message.prune,
        terms=_terms_from(message),
    )


def _policy_from(message: common_pb2.Policy) -> SeePolicy:
    return SeePolicy(
        name=message.see,
        share=message.share,
        floor_cores=message.floor_cores,
        cap_cores=message.cap_cores if message.HasField("cap_cores") else None,
        mode=message.mode or "auto",
        matchers=_matchers_from(message.matchers),
    )


def hold_from(message: control_pb2.HoldRequest) -> HoldEdit:
    """A request to hold an SEE. Raises UsageError for malformed names and texts and for times out of range."""
    if not 0 < message.duration_ns <= MAX_HOLD_NS:
        raise UsageError("the time to hold for is out of range", hint="use more than nothing and at most 365d")
    return HoldEdit(parse_see_name(message.see), message.duration_ns, _terms_from(message))


def release_from(message: control_pb2.ReleaseRequest) -> tuple[str, WriteTerms]:
    """A request to release an SEE. Raises UsageError for malformed names and texts."""
    return parse_see_name(message.see), _terms_from(message)


def switch_from(message: control_pb2.SetEnabledRequest) -> SwitchEdit:
    """A request to disable or enable the fleet. Raises UsageError for malformed texts."""
    check_words(message.changed_by, message.reason)
    return SwitchEdit(not message.enabled, message.changed_by or UNKNOWN_AUTHOR, message.reason)


def _terms_from(message: _Write) -> WriteTerms:
    check_words(message.changed_by, message.reason)
    if isinstance(message, control_pb2.ApplyRequest):
        version = message.if_revision if message.HasField("if_revision") else None
    else:
        version = message.if_version if message.HasField("if_version") else None
    return WriteTerms(message.changed_by or UNKNOWN_AUTHOR, message.reason, version, message.dry_run)


def set_share_response(
    record: Record,
    previous: Record | None,
    *,
    changed: bool,
    dry_run: bool,
    trace_id: str,
    warnings: tuple[str, ...],
) -> control_pb2.SetShareResponse:
    """The answer to SetShare."""
    return control_pb2.SetShareResponse(
        record=record_message(record),
        previous=record_message(previous) if previous else None,
        changed=changed,
        dry_run=dry_run,
        trace_id=trace_id,
        warnings=warnings,
    )


def delete_response(previous: Record, *, dry_run: bool) -> control_pb2.DeleteSeeResponse:
    """The answer to DeleteSee."""
    return control_pb2.DeleteSeeResponse(previous=record_message(previous), dry_run=dry_run)


def apply_response(plan: ApplyPlan, revision: int, *, dry_run: bool, trace_id: str) -> control_pb2.ApplyResponse:
    """The answer to Apply."""
    return control_pb2.ApplyResponse(
        changes=[
            control_pb2.PolicyChange(
                see=change.see,
                old=policy_message(change.old) if change.old else None,
                new=policy_message(change.new) if change.new else None,
            )
            for change in plan.changes
        ],
        unchanged=plan.unchanged,
        unnamed=plan.unnamed,
        revision=revision,
        dry_run=dry_run,
        trace_id=trace_id,
    )


def policies_message(snapshot: Snapshot) -> control_pb2.ListPoliciesResponse:
    """The answer to ListPolicies."""
    records = [record_message(record) for _, record in sorted(snapshot.records.items())]
    return control_pb2.ListPoliciesResponse(records=records, revision=snapshot.revision)


def hold_response(record: Record, hold: Hold, *, dry_run: bool) -> control_pb2.HoldResponse:
    """The answer to Hold."""
    held = [
        control_pb2.HeldShare(host=host, weight_ratio=kept.weight_ratio, entitlement_ratio=kept.entitlement_ratio)
        for host, kept in sorted(hold.hosts.items())
    ]
    return control_pb2.HoldResponse(record=record_message(record), held=held, dry_run=dry_run)


def switch_message(switch: SwitchRecord | None) -> control_pb2.FleetSwitch | None:
    """The fleet's switch; None if it has never been used."""
    if switch is None:
        return None
    return control_pb2.FleetSwitch(
        disabled=switch.disabled,
        changed_unix_ns=switch.change.at_unix_ns,
        changed_by=switch.change.who,
        reason=switch.change.reason,
    )


# Status


def _host_share(view: HostShareView) -> control_pb2.HostShare:
    return control_pb2.HostShare(
        host=view.host,
        see=view.see,
        weight=view.weight,
        entitlement_cores=view.entitlement_cores,
        demand_cores=view.demand_cores,
        consumption_cores=view.consumption_cores,
        consumed_total_ns=_int64(view.consumed_total_ns),
        paused_total_ns=_int64(view.paused_total_ns),
        processes=min(view.processes, 2**32 - 1),
        problem=view.problem,
    )


MAX_WAITING_HOSTS: Final = 10
"""Hosts that are named with a service that pods wait for."""


def _int64(value: int) -> int:
    """Sums of what agents report pass the wire's range if one of them lies, or after 292 years of one core's time."""
    return min(value, 2**63 - 1)


def service_message(view: ServiceView) -> control_pb2.ServiceStatus:
    """One SEE over the fleet."""
    return control_pb2.ServiceStatus(
        record=record_message(view.record),
        entitlement_cores=view.entitlement_cores,
        demand_cores=view.demand_cores,
        consumption_cores=view.consumption_cores,
        consumed_total_ns=_int64(view.consumed_total_ns),
        hosts=view.hosts,
        per_host=[_host_share(row) for row in view.per_host],
    )


def host_message(view: HostView, now_unix_ns: int) -> control_pb2.HostStatus:
    """One host."""
    host = view.state
    loop = host.reading.loop if host.reading else None
    return control_pb2.HostStatus(
        host=host.name,
        connected=host.connected,
        capacity_cores=host.total_cores,
        unclaimed_cores=host.reading.unclaimed_cores if host.reading else 0.0,
        consumption_cores=view.consumption_cores,
        mechanism=(loop.mechanism if loop else "") or host.hello.mechanism,
        mechanism_reason=host.hello.mechanism_reason,
        agent_version=host.hello.agent_version,
        pushed_generation=host.pushed.generation if host.pushed else 0,
        applied_generation=host.applied_generation,
        last_report_unix_ns=0 if view.silent_ns is None else now_unix_ns - view.silent_ns,
        rms_relative_error_ratio=loop.rms_relative_error_ratio if loop else 0.0,
        overhead_ratio=host.overhead_ratio,
        sees=view.sees,
        waiting=[common_pb2.WaitingPods(see=see, pods=pods) for see, pods in view.waiting.items()],
    )


def waiting_message(view: WaitingView) -> control_pb2.WaitingService:
    """A service that pods wait for."""
    return control_pb2.WaitingService(
        see=view.see,
        pods=view.pods,
        hosts=len(view.by_host),
        per_host=[control_pb2.WaitingOnHost(host=host, pods=pods) for host, pods in view.most_on(MAX_WAITING_HOSTS)],
    )


def controller_message(
    *,
    controller_id: str,
    epoch: int,
    store_revision: int,
    store_available: bool,
    degraded_reason: str,
    switch: SwitchRecord | None,
) -> control_pb2.ControllerStatus:
    """The controller's own state."""
    return control_pb2.ControllerStatus(
        controller_id=controller_id,
        epoch=epoch,
        store_revision=store_revision,
        store_available=store_available,
        degraded_reason=degraded_reason,
        fleet_switch=switch_message(switch),
    )


def explain_message(
    view: ServiceView, explanation: Explanation, decided_unix_ns: int, trace_id: str
) -> control_pb2.ExplainResponse:
    """The answer to Explain."""
    return control_pb2.ExplainResponse(
        service=service_message(view),
        binding_constraint=explanation.binding_constraint,
        lenders=explanation.lenders,
        borrowers=explanation.borrowers,
        decided_unix_ns=decided_unix_ns,
        trace_id=trace_id,
        sentence=explanation.sentence,
    )


def history_message(entries: Iterable[HistoryEntry]) -> control_pb2.ListHistoryResponse:
    """The answer to ListHistory."""
    return control_pb2.ListHistoryResponse(
        entries=[
            control_pb2.HistoryEntry(
                see=entry.see,
                changed_unix_ns=entry.change.at_unix_ns,
                changed_by=entry.change.who,
                reason=entry.change.reason,
                old=policy_message(entry.old) if entry.old else None,
                new=policy_message(entry.new) if entry.new else None,
                store_revision=entry.revision,
                fleet_disabled=entry.fleet_disabled,
            )
            for entry in entries
        ]
    )
