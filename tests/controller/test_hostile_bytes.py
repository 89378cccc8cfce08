"""Bytes that are no messages, on every kind of call: they end that call alone."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import cast

import grpc
import pytest

from support.controller_server import RunningController
from utilctl_proto.v1 import agent_pb2, control_pb2

SET_SHARE = "/utilctl_proto.v1.ControlService/SetShare"
APPLY = "/utilctl_proto.v1.ControlService/Apply"
CONNECT = "/utilctl_proto.v1.AgentSessionService/Connect"

HELLO = agent_pb2.ConnectRequest(
    hello=agent_pb2.Hello(host="host-a", capacity_cores=1, agent_version="0", instance_id="x", mechanism="signal")
).SerializeToString()
CHANGE = control_pb2.SetShareRequest(see="svc=web", share=3, changed_by="ada").SerializeToString()


def spoilt(message: bytes, seed: int) -> bytes:
    """Cut short, or with some bytes replaced, or nothing but noise."""
    rng = random.Random(seed)
    match seed % 3:
        case 0:
            return message[: rng.randrange(1, len(message))]
        case 1:
            data = bytearray(message)
            for _ in range(rng.randint(1, 4)):
                data[rng.randrange(len(data))] = rng.randrange(256)
            return bytes(data)
        case _:
            return rng.randbytes(rng.randint(1, 200))


def ended(call: grpc.Call) -> bool:
    """Whether a stream came to its end, in whatever way."""
    try:
        for _ in call:  # type: ignore[attr-defined]  # a call is what iterates over the answers, too
            pass
    except grpc.RpcError:
        pass
    return True


@pytest.mark.parametrize("method", [SET_SHARE, APPLY])
def test_a_request_of_noise_is_answered_with_a_status_and_others_are_served(
    controller: RunningController, method: str
) -> None:
    controller.set_share("svc=web", 3)
    send: Callable[..., bytes] = controller.channel.unary_unary(method)
    codes: list[grpc.StatusCode] = []
    for seed in range(60):
        try:
            send(spoilt(CHANGE, seed), timeout=10)
        except grpc.RpcError as error:
            codes.append(cast("grpc.Call", error).code())
    assert codes, "some of it was no message"
    assert set(codes) <= {grpc.StatusCode.INTERNAL, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.ABORTED}
    assert controller.service("svc=web").record.policy.share > 0
    assert controller.set_share("svc=etl", 1).changed


def test_streams_of_noise_end_and_an_agent_beside_them_goes_on(controller: RunningController) -> None:
    controller.set_share("svc=web", 3)
    connect: Callable[..., grpc.Call] = controller.channel.stream_stream(CONNECT)
    with controller.agent("host-b") as agent:
        agent.reporting_until({"svc=web": 1.0}, lambda: bool(agent.sets), "a first set")
        for seed in range(60):
            after_hello = [HELLO] if seed % 2 else []
            assert ended(connect(iter([*after_hello, spoilt(HELLO, seed), spoilt(CHANGE, seed)]), timeout=10))
        sets = len(agent.sets)
        controller.set_share("svc=web", 5)
        agent.reporting_until({"svc=web": 1.0}, lambda: len(agent.sets) > sets, "the next set")
        assert not agent.ended.is_set()
