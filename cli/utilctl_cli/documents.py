"""The JSON that ``-o json`` prints: its keys, their units, what null means. Operators' scripts rely on them.

Keys are only ever added. Cores are fractions of one CPU; ``*_ns`` are nanoseconds, ``*_unix_ns`` since 1970;
``*_at`` are the same instants as ISO 8601 in UTC, null where there was none.
"""

from __future__ import annotations

from typing import TypedDict


class PolicyDocument(TypedDict):
    """What was asked for one service. ``cap_cores`` null: no cap. ``match`` empty: what is labelled so.

    ``held_until_*`` null: not held. An instant that is past means nothing any more.
    """

    see: str
    share: float
    floor_cores: float
    cap_cores: float | None
    mode: str
    match: list[dict[str, str]]
    held_until_at: str | None
    held_until_unix_ns: int | None


class RecordDocument(PolicyDocument):
    """A stored policy. ``version`` counts the writes to this service from 1."""

    version: int
    store_revision: int
    changed_at: str | None
    changed_unix_ns: int
    changed_by: str
    reason: str


class HostShareDocument(TypedDict):
    """One service on one host. ``problem`` empty, or what keeps the agent from enforcing the share."""

    host: str
    see: str
    weight: float
    entitlement_cores: float
    demand_cores: float
    consumption_cores: float
    consumed_total_ns: int
    paused_total_ns: int
    processes: int
    problem: str


class ServiceDocument(RecordDocument):
    """A policy and what comes of it now: fleet-wide totals, then each host. ``hosts`` counts the hosts."""

    entitlement_cores: float
    demand_cores: float
    consumption_cores: float
    consumed_total_ns: int
    hosts: int
    per_host: list[HostShareDocument]


class ExplainDocument(ServiceDocument):
    """Why the service gets what it gets. ``lenders`` and ``borrowers`` name services."""

    binding_constraint: str
    lenders: list[str]
    borrowers: list[str]
    decided_at: str | None
    decided_unix_ns: int
    trace_id: str
    sentence: str


class FleetSwitchDocument(TypedDict):
    """Whether shares are disabled on the whole fleet, and who said so last."""

    disabled: bool
    changed_at: str | None
    changed_unix_ns: int
    changed_by: str
    reason: str


class ControllerDocument(TypedDict):
    """The controller that answered. ``degraded_reason``: empty, or why it refuses writes or holds targets.

    ``fleet_switch`` null: shares have never been disabled.
    """

    controller_id: str
    epoch: int
    store_revision: int
    store_available: bool
    degraded_reason: str
    fleet_switch: FleetSwitchDocument | None


class ShareDocument(ServiceDocument):
    """``utilctl get share``."""

    controller: ControllerDocument


class HostDocument(TypedDict):
    """One host as its agent last reported it. ``rms_relative_error_ratio`` 0.01 is 1 %. ``waiting``: its pods by the
    service without a share that they name."""

    host: str
    connected: bool
    capacity_cores: float
    unclaimed_cores: float
    consumption_cores: float
    mechanism: str
    mechanism_reason: str
    agent_version: str
    pushed_generation: int
    applied_generation: int
    last_report_at: str | None
    last_report_unix_ns: int
    rms_relative_error_ratio: float
    overhead_ratio: float
    sees: int
    waiting: dict[str, int]


class WaitingOnHostDocument(TypedDict):
    """Pods on one host."""

    host: str
    pods: int


class WaitingDocument(TypedDict):
    """A service without a share, and pods that name it. ``per_host`` has ten hosts at most, the fullest first."""

    see: str
    pods: int
    hosts: int
    per_host: list[WaitingOnHostDocument]


class ServicesDocument(TypedDict):
    """``utilctl get services``."""

    services: list[ServiceDocument]
    waiting: list[WaitingDocument]
    controller: ControllerDocument


class HostsDocument(TypedDict):
    """``utilctl get hosts``."""

    hosts: list[HostDocument]
    controller: ControllerDocument


class SetShareDocument(TypedDict):
    """``utilctl set-share``. ``previous`` null: the service is new. ``changed`` false: stored already.
    ``warnings``: what the fleet cannot give."""

    see: str
    changed: bool
    dry_run: bool
    trace_id: str
    record: RecordDocument
    previous: RecordDocument | None
    warnings: list[str]


class DeleteDocument(TypedDict):
    """``utilctl delete``."""

    see: str
    dry_run: bool
    previous: RecordDocument


class HistoryEntryDocument(TypedDict):
    """One change. ``old`` null: created; ``new`` null: deleted.

    ``fleet_disabled`` null, except where the whole fleet was disabled (true) or enabled (false); ``see`` is empty
    there.
    """

    see: str
    changed_at: str | None
    changed_unix_ns: int
    changed_by: str
    reason: str
    old: PolicyDocument | None
    new: PolicyDocument | None
    store_revision: int
    fleet_disabled: bool | None


class HistoryDocument(TypedDict):
    """``utilctl history``: newest first."""

    entries: list[HistoryEntryDocument]


class PolicyChangeDocument(TypedDict):
    """One service of a policy file. ``action`` is ``create``, ``update`` or ``delete``."""

    see: str
    action: str
    old: PolicyDocument | None
    new: PolicyDocument | None


class ApplyDocument(TypedDict):
    """``utilctl apply`` and ``utilctl diff``: what was, or would be, changed, by service.

    ``unchanged`` counts services that are stored so already; ``unnamed`` are not in the file and left alone.
    """

    changed: bool
    dry_run: bool
    revision: int
    trace_id: str
    changes: list[PolicyChangeDocument]
    unchanged: int
    unnamed: list[str]


class ExportDocument(TypedDict):
    """``utilctl export``: every policy at one revision of the store."""

    revision: int
    services: list[RecordDocument]


class HeldShareDocument(TypedDict):
    """What is kept of a held service on one host: parts of the cores that the host has for services."""

    host: str
    weight_ratio: float
    entitlement_ratio: float


class HoldDocument(TypedDict):
    """``utilctl hold``."""

    see: str
    dry_run: bool
    record: RecordDocument
    held: list[HeldShareDocument]


class ReleaseDocument(TypedDict):
    """``utilctl release``. ``changed`` false: it was not held."""

    see: str
    changed: bool
    dry_run: bool
    record: RecordDocument


class SwitchDocument(TypedDict):
    """``utilctl disable`` and ``utilctl enable``. ``hosts`` are connected and told at once."""

    disabled: bool
    changed: bool
    hosts: int
    fleet_switch: FleetSwitchDocument | None


class PlannedShareDocument(TypedDict):
    """A service on one host, before and after."""

    host: str
    before_cores: float
    after_cores: float


class PlannedServiceDocument(TypedDict):
    """One service of a plan. ``old`` null: it would be new; ``new`` null: it would be deleted.

    ``bottleneck``: what would keep it from more.
    """

    see: str
    old: PolicyDocument | None
    new: PolicyDocument | None
    demand_cores: float
    before_cores: float
    after_cores: float
    bottleneck: str
    per_host: list[PlannedShareDocument]


class LivePlanDocument(TypedDict):
    """``utilctl plan --live``: the services that are named or affected, compared with the decision of ``decided_*``.

    ``unaffected`` counts the other services, ``hosts`` the hosts of that decision. ``warnings``: what the fleet could
    not give, and what cannot be known.
    """

    services: list[PlannedServiceDocument]
    unaffected: int
    warnings: list[str]
    hosts: int
    decided_at: str | None
    decided_unix_ns: int


class PredictedWorkloadDocument(TypedDict):
    """A workload's mean response time in seconds, and that over its service time. null: it grows without bound."""

    name: str
    response_time_s: float | None
    slowdown: float | None


class PredictionDocument(TypedDict):
    """``utilctl predict``. The mean is weighted by the CPU that workloads use; null: one of them has no bound."""

    workloads: list[PredictedWorkloadDocument]
    mean_response_time_s: float | None
    notes: list[str]


class SweepPointDocument(TypedDict):
    """The prediction for one value of what is swept."""

    value: float
    workloads: list[PredictedWorkloadDocument]
    mean_response_time_s: float | None


class SweepDocument(TypedDict):
    """``utilctl predict --sweep``. ``field`` is ``share``, ``floor`` or ``cap``."""

    name: str
    field: str
    points: list[SweepPointDocument]


class SettingDocument(TypedDict):
    """What to set to meet a goal. ``cores``: what the value stands for beside the other workloads' numbers."""

    name: str
    field: str
    value: float
    cores: float


class PredictionForGoalsDocument(PredictionDocument):
    """``utilctl predict --goal``: the smallest settings, and what they do to everybody."""

    settings: list[SettingDocument]


class LivePredictedHostDocument(TypedDict):
    """A service on one host: cores it uses itself, and seconds that one CPU-second of its work takes."""

    host: str
    utilization_cores: float
    response_time_s: float | None
    now_response_time_s: float | None


class LivePredictedWorkloadDocument(PredictedWorkloadDocument):
    """A service on all hosts that are not full: means weighted by the CPU it uses. ``now_*``: without ``--set``."""

    now_response_time_s: float | None
    utilization_cores: float
    per_host: list[LivePredictedHostDocument]


class LivePredictionDocument(TypedDict):
    """``utilctl predict --live``."""

    workloads: list[LivePredictedWorkloadDocument]
    mean_response_time_s: float | None
    notes: list[str]
