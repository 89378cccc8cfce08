"""How an agent looks for the controller that leads, against real gRPC servers with scripted answers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest

from utilctl_agent.link import session as link_session
from utilctl_agent.link.session import ControllerSession
from utilctl_common.redirect import redirection
from utilctl_proto.v1 import agent_pb2, agent_pb2_grpc

OWN_ADDRESS = "own"


class Scripted(agent_pb2_grpc.AgentSessionServiceServicer):
    """Refuses every stream and names ``leader``; None: it leads, and serves."""

    def __init__(self, leader: str | None) -> None:
        self.leader = leader
        self.address = ""
        self.asked = 0

    async def Connect(  # noqa: N802 - the name of the RPC
        self, request_iterator: Any, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[agent_pb2.ConnectResponse]:
        self.asked += 1
        if self.leader is not None:
            named = self.address if self.leader == OWN_ADDRESS else self.leader
            await context.abort(grpc.StatusCode.UNAVAILABLE, "does not lead", redirection(named))
        yield agent_pb2.ConnectResponse(welcome=agent_pb2.Welcome(controller_id="c", report_interval_ns=1))
        await asyncio.sleep(60)


@contextlib.asynccontextmanager
async def serving(*controllers: Scripted) -> AsyncIterator[None]:
    async with contextlib.AsyncExitStack() as stack:
        for controller in controllers:
            server = grpc.aio.server()
            agent_pb2_grpc.add_AgentSessionServiceServicer_to_server(controller, server)
            controller.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
            await server.start()
            stack.push_async_callback(server.stop, None)
        yield


@contextlib.asynccontextmanager
async def looking(*addresses: str) -> AsyncIterator[ControllerSession]:
    hello = agent_pb2.ConnectRequest(hello=agent_pb2.Hello(host="h", capacity_cores=1, instance_id="x"))
    session = ControllerSession(addresses, lambda: hello, lambda _: None, lambda _: None, lambda *_: False)
    running = asyncio.create_task(session.run())
    try:
        yield session
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


def test_while_controllers_answer_and_none_leads_it_asks_on_without_ever_longer_pauses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(link_session, "FIRST_RETRY_S", 0.02)
    monkeypatch.setattr(link_session, "LEADERLESS_RETRY_S", 0.05)
    monkeypatch.setattr(link_session, "LAST_RETRY_S", 60.0)

    async def scenario() -> None:
        followers = (Scripted(""), Scripted(""))
        async with serving(*followers), looking(*(one.address for one in followers)) as session:
            async with asyncio.timeout(30):
                while min(one.asked for one in followers) < 15:  # noqa: ASYNC110 - counted by the server
                    await asyncio.sleep(0.01)
                followers[1].leader = None
                while not session.connected:  # noqa: ASYNC110 - the session has no event for it
                    await asyncio.sleep(0.01)

    asyncio.run(scenario())


@pytest.mark.parametrize("names", [OWN_ADDRESS, "127.0.0.1:1"])
def test_a_controller_that_names_itself_or_one_that_is_dead_does_not_keep_it_from_the_others(names: str) -> None:
    async def scenario() -> None:
        wrong, leader = Scripted(names), Scripted(None)
        async with serving(wrong, leader), looking(wrong.address, leader.address) as session:
            async with asyncio.timeout(30):
                while not session.connected:  # noqa: ASYNC110 - the session has no event for it
                    await asyncio.sleep(0.01)
            assert wrong.asked <= 3

    asyncio.run(scenario())


def test_it_goes_to_the_leader_that_a_follower_names_though_nobody_configured_it() -> None:
    async def scenario() -> None:
        leader = Scripted(None)
        async with serving(leader):
            follower = Scripted(leader.address)
            async with serving(follower), looking(follower.address) as session, asyncio.timeout(30):
                while not session.connected:  # noqa: ASYNC110 - the session has no event for it
                    await asyncio.sleep(0.01)
        assert (leader.asked, follower.asked) == (1, 1)

    asyncio.run(scenario())
