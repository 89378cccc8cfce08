"""The session with a controller: one bidirectional gRPC stream, reopened for ever, with jitter."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncIterator, Callable
from typing import Final

import grpc
import grpc.aio

from utilctl_agent.link import codec
from utilctl_agent.link.targets import TargetSet
from utilctl_common.errors import UsageError
from utilctl_common.redirect import MOST_HOPS, leader_of
from utilctl_proto.v1 import agent_pb2_grpc

_LOG = logging.getLogger(__name__)

FIRST_RETRY_S: Final = 0.2
LAST_RETRY_S: Final = 5.0
LEADERLESS_RETRY_S: Final = 0.75
"""Longest pause while controllers answer and none leads: the next leader is a matter of seconds. With what an election
takes at most (4 s) below 5 s, without asking so often that a fleet keeps the controllers from electing one.
"""
OPTIONS: Final[list[tuple[str, int]]] = [
    ("grpc.max_receive_message_length", 64 * 1024 * 1024),
    ("grpc.max_send_message_length", 64 * 1024 * 1024),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # A channel is opened anew for each attempt; the library's own backoff would only come on top of ours.
    ("grpc.initial_reconnect_backoff_ms", 100),
]


class ControllerSession:
    """Keeps a stream open to the controller that leads: those configured are tried in turn, redirections followed.

    ``on_targets`` gets every target set, ``on_interval`` the report interval that the controller asks for.
    ``on_renewal`` is asked first, with epoch, generation and lease: True if that is all there is to a set, which a
    renewal repeats every few seconds; it is then not even decoded.
    """

    def __init__(
        self,
        controllers: tuple[str, ...],
        make_hello: Callable[[], codec.ConnectRequest],
        on_targets: Callable[[TargetSet], None],
        on_interval: Callable[[int], None],
        on_renewal: Callable[[int, int, int], bool],
    ) -> None:
        self._controllers = controllers
        self._make_hello = make_hello
        self._on_targets = on_targets
        self._on_interval = on_interval
        self._on_renewal = on_renewal
        self._outgoing: asyncio.Queue[codec.ConnectRequest | None] | None = None
        self.connected = False
        self.connects = 0

    def send(self, message: codec.ConnectRequest) -> None:
        """Send if connected. Everything sent is cumulative or repeated, so nothing is queued for later."""
        if self._outgoing is not None and self.connected:
            self._outgoing.put_nowait(message)

    async def reachable(self) -> None:
        """Return once one of the controllers accepts connections."""
        while True:
            for address in self._controllers:
                async with grpc.aio.insecure_channel(address, options=OPTIONS) as channel:
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(channel.channel_ready(), LAST_RETRY_S)
                        return
                _LOG.warning("controller %s does not answer", address)

    async def run(self) -> None:
        """Connect, serve, reconnect; never returns."""
        retry_s = FIRST_RETRY_S
        attempt = hops = soon = 0
        leader = ""
        while True:
            address = leader
            if not leader:
                address = self._controllers[attempt % len(self._controllers)]
                attempt += 1
            leader = ""
            try:
                served = await self._serve(address)
            except grpc.aio.AioRpcError as error:
                served = self.connected
                named = leader_of(error.trailing_metadata())
                if named is not None:
                    soon = len(self._controllers)  # pauses, in which each of them is asked again
                leader = "" if named is None or named == address else named
                level = logging.INFO if leader else logging.WARNING
                _LOG.log(level, "controller %s: %s", address, error.details() or error.code().name)
            finally:
                self.connected = False
                self._outgoing = None
            hops = hops + 1 if leader and not served else 0
            if 0 < hops <= MOST_HOPS:
                continue  # at once: it is one who knows that says so
            if hops:
                leader = ""  # they point at each other: leaders are just changing
            longest_s, soon = (LEADERLESS_RETRY_S, soon - 1) if soon else (LAST_RETRY_S, 0)
            retry_s = FIRST_RETRY_S if served else min(longest_s, retry_s * 1.6)
            # Full jitter, so that a fleet does not come back as one.
            await asyncio.sleep(random.uniform(0.3, 1.0) * retry_s)  # noqa: S311 - jitter, not a secret

    async def _serve(self, address: str) -> bool:
        outgoing: asyncio.Queue[codec.ConnectRequest | None] = asyncio.Queue()
        self._outgoing = outgoing

        async def requests() -> AsyncIterator[codec.ConnectRequest]:
            yield self._make_hello()
            while (message := await outgoing.get()) is not None:
                yield message

        try:
            return await self._converse(address, requests())
        finally:
            outgoing.put_nowait(None)  # the library's task that reads the requests outlives the stream otherwise

    async def _converse(self, address: str, requests: AsyncIterator[codec.ConnectRequest]) -> bool:
        async with grpc.aio.insecure_channel(address, options=OPTIONS) as channel:
            stream = agent_pb2_grpc.AgentSessionServiceStub(channel).Connect(requests)
            async for response in stream:
                kind = response.WhichOneof("body")
                if kind == "welcome":
                    self.connected = True
                    self.connects += 1
                    _LOG.info("connected to controller %s at %s", response.welcome.controller_id, address)
                    self._on_interval(response.welcome.report_interval_ns)
                elif kind == "targets":
                    head = response.targets
                    if self._on_renewal(head.epoch, head.generation, head.lease_ns):
                        continue
                    try:
                        targets = codec.target_set_from(response.targets)
                    except UsageError as error:
                        _LOG.error("refused a target set of %s: %s", address, error)
                        continue
                    self._on_targets(targets)
        return self.connected
