"""Wire messages of the agent session and the link's own values. The only module of the agent that knows protobuf."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from utilctl_agent.link.targets import LocalTarget, TargetSet
from utilctl_common.matchers import matcher_from_mapping
from utilctl_common.policy import SeePolicy
from utilctl_proto.v1 import agent_pb2, common_pb2

ConnectRequest = agent_pb2.ConnectRequest
"""What an agent sends; opaque to the rest of the link."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who this agent is, as its Hello says."""

    host: str
    capacity_cores: float
    version: str
    instance_id: str
    mechanism: str
    mechanism_reason: str


@dataclass(frozen=True, slots=True)
class SeeStatus:
    """One SEE in a report; totals since the agent's start."""

    see: str
    consumed_total_ns: int
    paused_total_ns: int
    consumption_cores: float
    demand_cores: float
    processes: int
    problem: str


@dataclass(frozen=True, slots=True)
class HostReport:
    """A report of this host. ``waiting``: pods by the service without a share that they name."""

    sequence: int
    interval_ns: int
    capacity_cores: float
    unclaimed_cores: float
    sees: tuple[SeeStatus, ...]
    algorithm: str
    mechanism: str
    cycles_total: int
    wakeups_total: int
    overhead_total_ns: int
    rms_relative_error_ratio: float
    waiting: Mapping[str, int] = field(default_factory=dict)


def hello(identity: Identity, epoch: int, generation: int) -> agent_pb2.ConnectRequest:
    """The first message of a stream."""
    return agent_pb2.ConnectRequest(
        hello=agent_pb2.Hello(
            host=identity.host,
            capacity_cores=identity.capacity_cores,
            agent_version=identity.version,
            instance_id=identity.instance_id,
            mechanism=identity.mechanism,
            mechanism_reason=identity.mechanism_reason,
            epoch=epoch,
            generation=generation,
        )
    )


def unchanged(sequence: int) -> agent_pb2.ConnectRequest:
    """Nothing has changed since the report of this number."""
    return agent_pb2.ConnectRequest(unchanged=agent_pb2.Unchanged(sequence=sequence))


def report_message(report: HostReport) -> agent_pb2.ConnectRequest:
    """A report."""
    return agent_pb2.ConnectRequest(
        report=agent_pb2.Report(
            sequence=report.sequence,
            interval_ns=report.interval_ns,
            capacity_cores=report.capacity_cores,
            unclaimed_cores=report.unclaimed_cores,
            sees=[
                agent_pb2.SeeReport(
                    see=see.see,
                    consumed_total_ns=see.consumed_total_ns,
                    paused_total_ns=see.paused_total_ns,
                    consumption_cores=see.consumption_cores,
                    demand_cores=see.demand_cores,
                    processes=see.processes,
                    problem=see.problem,
                )
                for see in report.sees
            ],
            loop=agent_pb2.LoopReport(
                algorithm=report.algorithm,
                mechanism=report.mechanism,
                cycles_total=report.cycles_total,
                wakeups_total=report.wakeups_total,
                overhead_total_ns=report.overhead_total_ns,
                rms_relative_error_ratio=report.rms_relative_error_ratio,
            ),
            waiting=[common_pb2.WaitingPods(see=see, pods=pods) for see, pods in report.waiting.items()],
        )
    )


def applied(epoch: int, generation: int, *, first_cycle_done: bool, at_unix_ns: int) -> agent_pb2.ConnectRequest:
    """This target set is in force."""
    return agent_pb2.ConnectRequest(
        applied=agent_pb2.Applied(
            epoch=epoch, generation=generation, first_cycle_done=first_cycle_done, at_unix_ns=at_unix_ns
        )
    )


def target_set_from(message: agent_pb2.TargetSet) -> TargetSet:
    """A target set from the wire. Raises UsageError if a policy in it is invalid."""
    return TargetSet(
        epoch=message.epoch,
        generation=message.generation,
        lease_ns=message.lease_ns,
        traceparent=message.traceparent,
        targets=tuple(
            LocalTarget(
                policy=_policy_from(target.policy),
                weight=target.weight,
                entitlement_cores=target.entitlement_cores,
                cap_cores=target.cap_cores if target.HasField("cap_cores") else None,
            )
            for target in message.targets
        ),
        disabled=message.disabled,
    )


def _policy_from(message: common_pb2.Policy) -> SeePolicy:
    return SeePolicy(
        name=message.see,
        share=message.share,
        floor_cores=message.floor_cores,
        cap_cores=message.cap_cores if message.HasField("cap_cores") else None,
        mode=message.mode or "auto",
        matchers=tuple(
            matcher_from_mapping({condition.key: condition.value for condition in matcher.conditions})
            for matcher in message.matchers
        ),
    )
