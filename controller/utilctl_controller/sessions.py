"""Agents' streams: who is connected, reports in, target sets out."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, Final, Protocol

import grpc

from utilctl_common.errors import NotLeadingError, UsageError
from utilctl_common.redirect import redirection
from utilctl_controller import codec
from utilctl_controller.fleet import AgentHello, Push
from utilctl_controller.metrics import ControllerMetrics
from utilctl_controller.rebalance import Rebalancer
from utilctl_controller.reports import check_hello, plain_text
from utilctl_controller.rpc_errors import status_of
from utilctl_controller.settings import ControllerSettings
from utilctl_controller.targets_codec import target_set
from utilctl_proto.v1 import agent_pb2, agent_pb2_grpc

_LOG = logging.getLogger(__name__)

HELLO_TIMEOUT_S: Final = 10.0
"""How long a new stream may stay silent. Arbitrary: an agent speaks at once."""

_LOGGED_PROBLEMS: Final = 3
"""Problems of one stream that are logged in words; all are counted."""

Status = tuple[grpc.StatusCode, str]


class _Requests(Protocol):
    def __aiter__(self) -> AsyncIterator[agent_pb2.ConnectRequest]: ...


class Session:
    """One live stream. Holds at most one unsent target set: sets are complete, so only the newest matters."""

    def __init__(self, hello: AgentHello, now_ns: int) -> None:
        self.hello = hello
        self.heard_ns = now_ns
        self.last_sequence: int | None = None
        self.problems_logged = 0
        self._unsent: agent_pb2.ConnectResponse | None = None
        self._end: Status | None = None
        self._finished = False
        self._woken = asyncio.Event()

    def offer(self, message: agent_pb2.ConnectResponse) -> None:
        """Send ``message`` next, in place of one that waits."""
        self._unsent = message
        self._woken.set()

    def end(self, status: Status) -> None:
        """Close the stream with ``status``."""
        self._end = self._end or status
        self._woken.set()

    def finish(self) -> None:
        """The agent has closed its side."""
        self._finished = True
        self._woken.set()

    async def next(self) -> agent_pb2.ConnectResponse | Status | None:
        """What to do next: send a message, close with a status, or (None) end in peace."""
        while True:
            if self._end is not None:
                return self._end
            if self._unsent is not None:
                message, self._unsent = self._unsent, None
                return message
            if self._finished:
                return None
            self._woken.clear()
            await self._woken.wait()


class AgentSessions(agent_pb2_grpc.AgentSessionServiceServicer):
    """The service that agents connect to. Lives on one event loop, as the rebalancer does."""

    def __init__(
        self,
        settings: ControllerSettings,
        controller_id: str,
        metrics: ControllerMetrics,
        wake: Callable[[], None],
    ) -> None:
        self._settings = settings
        self._leads: Rebalancer | None = None
        self._leader = ""
        self._controller_id = controller_id
        self._metrics = metrics
        self._wake = wake
        self._sessions: dict[str, Session] = {}
        self._traces: dict[str, str] = {}
        self._stopping = False
        self._silent_ns = settings.stale_intervals * settings.report_interval_ns

    @property
    def connected(self) -> int:
        """Agents connected now."""
        return len(self._sessions)

    def lead(self, rebalancer: Rebalancer) -> None:
        """Admit agents from now on."""
        self._leads = rebalancer

    def follow(self, leader: str) -> None:
        """Send agents to the address ``leader`` from now on, those that are connected too; empty: to look for it."""
        self._leads, self._leader = None, leader
        self.look_elsewhere()

    def look_elsewhere(self) -> None:
        """Close every stream: agents try the next of their controllers, and come back if no other leads."""
        for session in self._sessions.values():
            session.end(_ELSEWHERE)

    @property
    def _rebalancer(self) -> Rebalancer:
        assert self._leads is not None, "streams are only open while this controller leads"
        return self._leads

    def deliver(self, push: Push, traceparent: str) -> None:
        """Hand a target set to its host's session. A renewal repeats the trace context of its set."""
        if not push.renewal:
            self._traces[push.host] = traceparent
            if len(self._traces) > 2 * len(self._rebalancer.hosts):
                self._traces = {name: kept for name, kept in self._traces.items() if name in self._rebalancer.hosts}
        session = self._sessions.get(push.host)
        if session is not None:
            session.offer(target_set(push, self._traces.get(push.host, traceparent)))
            self._metrics.pushed(renewal=push.renewal)

    def stop(self) -> None:
        """Close every stream; agents keep their targets and look for a controller."""
        self._stopping = True
        for session in self._sessions.values():
            session.end(_STOPPING)

    async def Connect(  # noqa: N802 - the name of the RPC
        self,
        request_iterator: _Requests,
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> AsyncIterator[agent_pb2.ConnectResponse]:
        """Serve one agent for as long as it stays."""
        requests = aiter(request_iterator)
        opened = await self._open(requests)
        if not isinstance(opened, Session):
            await context.abort(*opened, redirection(self._leader) if self._leads is None else ())
        session = opened
        reader = asyncio.create_task(self._read(session, requests), name=f"read-{session.hello.host}")
        try:
            yield codec.welcome(self._rebalancer.epoch, self._settings.report_interval_ns, self._controller_id)
            while (item := await session.next()) is not None:
                if isinstance(item, tuple):
                    reader.cancel()
                    await context.abort(*item, redirection(self._leader) if self._leads is None else ())
                else:
                    yield item
        finally:
            reader.cancel()
            self._closed(session)

    async def _open(self, requests: AsyncIterator[agent_pb2.ConnectRequest]) -> Session | Status:
        """Read Hello and admit the agent, or say why not."""
        try:
            first = await asyncio.wait_for(anext(requests), HELLO_TIMEOUT_S)
        except (TimeoutError, StopAsyncIteration):
            return grpc.StatusCode.INVALID_ARGUMENT, "the stream began without Hello; send it first"
        if first.WhichOneof("body") != "hello":
            return grpc.StatusCode.INVALID_ARGUMENT, "the first message is not Hello; send that first"
        try:
            hello = check_hello(codec.hello_from(first.hello))
        except UsageError as error:
            self._metrics.refused("malformed")
            return status_of(error)
        if self._stopping:
            return _STOPPING
        if self._leads is None:
            self._metrics.refused("not_leading")
            return status_of(NotLeadingError(self._leader))
        if hello.epoch > self._rebalancer.epoch:
            self._metrics.refused("superseded")
            return grpc.StatusCode.FAILED_PRECONDITION, (
                f"{hello.host} enforces epoch {hello.epoch}, this controller has {self._rebalancer.epoch}: a newer one "
                "has taken over; connect to that, or restart the agent if the store was replaced"
            )
        now_ns = time.monotonic_ns()
        other = self._sessions.get(hello.host)
        if other is not None:
            live = now_ns - other.heard_ns <= self._silent_ns
            if live and other.hello.instance_id != hello.instance_id:
                self._metrics.refused("duplicate_host")
                _LOG.warning("refused a second agent that calls itself %s", hello.host)
                return grpc.StatusCode.ALREADY_EXISTS, (
                    f"another agent is connected as {hello.host}; give this one a --host name of its own, "
                    "or stop the other"
                )
            other.end((grpc.StatusCode.ABORTED, f"a newer connection of {hello.host} took over"))
        session = self._sessions[hello.host] = Session(hello, now_ns)
        self._rebalancer.on_hello(hello, now_ns)
        self._wake()
        _LOG.info("%s connected (agent %s, %s)", hello.host, hello.agent_version, hello.mechanism)
        return session

    async def _read(self, session: Session, requests: AsyncIterator[agent_pb2.ConnectRequest]) -> None:
        try:
            async for request in requests:
                if self._sessions.get(session.hello.host) is not session or self._leads is None:
                    return
                session.heard_ns = time.monotonic_ns()
                if (status := self._handle(session, request)) is not None:
                    session.end(status)
                    return
        except (grpc.RpcError, grpc.aio.AbortError):
            pass  # the connection broke or we closed it; the stream's own task ends with it
        except Exception:  # noqa: BLE001 - one agent's stream may fail, not the controller
            _LOG.exception("the stream of %s failed", session.hello.host)
            session.end((grpc.StatusCode.INTERNAL, "internal error; see the controller's log"))
        finally:
            session.finish()

    def _handle(self, session: Session, request: agent_pb2.ConnectRequest) -> Status | None:
        host, kind = session.hello.host, request.WhichOneof("body")
        if kind == "report":
            known = self._rebalancer.hosts[host].reading is not None
            report = codec.report_from(request.report)
            problems = self._rebalancer.on_report(host, report, session.last_sequence, session.heard_ns)
            session.last_sequence = max(report.sequence, session.last_sequence or 0)
            self._metrics.reported(problems)
            for problem in problems:
                if session.problems_logged < _LOGGED_PROBLEMS:
                    session.problems_logged += 1
                    _LOG.warning("report refused in part: %s", problem.detail)
            if not known:
                self._wake()
            return None
        if kind == "unchanged":
            if request.unchanged.sequence == session.last_sequence:
                self._rebalancer.on_unchanged(host, session.heard_ns)
            return None
        if kind == "applied":
            self._rebalancer.on_applied(host, request.applied.epoch, request.applied.generation)
            return None
        what = "a second Hello" if kind == "hello" else "a message without content"
        return grpc.StatusCode.INVALID_ARGUMENT, f"{plain_text(host)} sent {what}; open a new stream for that"

    def _closed(self, session: Session) -> None:
        host = session.hello.host
        if self._sessions.get(host) is session:
            del self._sessions[host]
            if self._leads is not None:
                with contextlib.suppress(KeyError):  # forgotten already, or of the time when it led before
                    self._leads.on_disconnect(host, time.monotonic_ns())
            _LOG.info("%s disconnected", host)


_ELSEWHERE: Final[Status] = (grpc.StatusCode.UNAVAILABLE, "another controller may lead by now; look for it")
_STOPPING: Final[Status] = (
    grpc.StatusCode.UNAVAILABLE,
    "the controller is stopping; connect to another, or again later",
)
