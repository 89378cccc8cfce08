"""Target sets on the wire. A fleet of thousands is sent some hundred targets each, over and over: what many hosts are
sent alike is made once.
"""

from __future__ import annotations

from typing import Final

from utilctl_controller.codec import cached_policy
from utilctl_controller.fleet import HostTarget, Push
from utilctl_proto.v1 import agent_pb2

_MOST_STANDBY: Final = 16_384
_standby: Final[dict[int, tuple[HostTarget, agent_pb2.Target]]] = {}
"""Messages of targets without an entitlement, by identity: most targets of most hosts are of this kind and, up to
``targets.MOST_STANDBY`` sets of them, the same objects."""


def target_set(push: Push, traceparent: str) -> agent_pb2.ConnectResponse:
    """A complete target set."""
    return agent_pb2.ConnectResponse(
        targets=agent_pb2.TargetSet(
            epoch=push.epoch,
            generation=push.generation,
            lease_ns=push.lease_ns,
            traceparent=traceparent,
            targets=[_made(entry) if entry.entitlement_cores else _kept(entry) for entry in push.targets],
            disabled=push.disabled,
        )
    )


def _kept(target: HostTarget) -> agent_pb2.Target:
    known = _standby.get(id(target))
    if known is not None and known[0] is target:
        return known[1]
    if len(_standby) >= _MOST_STANDBY:
        _standby.clear()
    message = _made(target)
    _standby[id(target)] = target, message
    return message


def _made(target: HostTarget) -> agent_pb2.Target:
    message = agent_pb2.Target(
        policy=cached_policy(target.policy), weight=target.weight, entitlement_cores=target.entitlement_cores
    )
    if target.cap_cores is not None:
        message.cap_cores = target.cap_cores
    return message
