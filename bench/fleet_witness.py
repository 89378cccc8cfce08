"""How long a report takes, from the moment an agent sends it, measured by agents that have something to wait for.

A controller answers no report. It does answer a message that makes no sense, in its turn: by ending that stream. So a
witness, which has reported as everybody does, sends a report with a second Hello right behind it; when its stream ends,
the report has waited for its turn and was handled. That includes the way there and back and the end of the stream, so
it is an upper bound. Each witness can tell once.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator
from typing import Final

import grpc
import grpc.aio

from utilctl_agent.link import codec
from utilctl_agent.link.session import OPTIONS
from utilctl_proto.v1 import agent_pb2_grpc

LOCAL: Final = ("grpc.use_local_subchannel_pool", 1)
"""As agents on machines of their own: a connection each."""


class Witness:
    """One agent on a stream of its own."""

    def __init__(self, address: str, number: int, sees: tuple[str, ...], interval_s: float) -> None:
        self._identity = codec.Identity(f"witness-{number:04d}", 8.0, "0", f"witness-{number}", "freezer", "simulated")
        self._sees = sees
        self._interval_s = interval_s
        self._random = random.Random(number)
        self._sequence = 0
        self._outgoing: asyncio.Queue[codec.ConnectRequest] = asyncio.Queue()
        self._channel = grpc.aio.insecure_channel(address, options=[*OPTIONS, LOCAL])
        self._welcome = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def open(self) -> None:
        """Connect, and report once an interval from then on."""
        self._tasks = [asyncio.create_task(self._listen()), asyncio.create_task(self._report_forever())]
        await self._welcome.wait()

    async def report_s(self) -> float:
        """Seconds until a report is handled. The stream is over afterwards."""
        listening, reporting = self._tasks
        reporting.cancel()
        began_s = time.monotonic()
        self._outgoing.put_nowait(self._report())
        self._outgoing.put_nowait(codec.hello(self._identity, 0, 0))
        await listening
        return time.monotonic() - began_s

    async def close(self) -> None:
        """End whatever is open. Idempotent."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._channel.close()

    async def _requests(self) -> AsyncIterator[codec.ConnectRequest]:
        yield codec.hello(self._identity, 0, 0)
        while True:
            yield await self._outgoing.get()

    async def _listen(self) -> None:
        try:
            async for _ in agent_pb2_grpc.AgentSessionServiceStub(self._channel).Connect(self._requests()):
                self._welcome.set()
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.INVALID_ARGUMENT:
                raise RuntimeError(f"a witness was cut off: {error.details()}") from error

    async def _report_forever(self) -> None:
        await self._welcome.wait()
        while True:
            self._outgoing.put_nowait(self._report())
            await asyncio.sleep(self._random.uniform(0.9, 1.1) * self._interval_s)

    def _report(self) -> codec.ConnectRequest:
        self._sequence += 1
        sees = tuple(codec.SeeStatus(see, self._sequence * 10**9, 0, 0.5, 1.0, 4, "") for see in self._sees)
        interval_ns = round(self._interval_s * 1e9)
        loop = ("default", "freezer", self._sequence, self._sequence, self._sequence, 0.005)
        return codec.report_message(codec.HostReport(self._sequence, interval_ns, 8.0, 0.1, sees, *loop))


def report_waits_s(
    address: str, witnesses: int, sees: tuple[str, ...], interval_s: float, settle_s: float, gap_s: float
) -> list[float]:
    """Seconds that a report took, of as many as there are witnesses, one every ``gap_s``, after ``settle_s``."""
    return asyncio.run(_ask(address, witnesses, sees, interval_s, settle_s, gap_s))


async def _ask(
    address: str, witnesses: int, sees: tuple[str, ...], interval_s: float, settle_s: float, gap_s: float
) -> list[float]:
    called = [Witness(address, number, sees, interval_s) for number in range(witnesses)]
    async with contextlib.AsyncExitStack() as stack:
        for witness in called:
            stack.push_async_callback(witness.close)
            await witness.open()
        await asyncio.sleep(settle_s)
        waits_s: list[float] = []
        for witness in called:
            waits_s.append(await witness.report_s())
            await asyncio.sleep(gap_s)
    return waits_s
