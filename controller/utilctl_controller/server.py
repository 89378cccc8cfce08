"""The controller program put together: store, rebalancer, gRPC server and the loop that decides."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
import uuid
from collections.abc import AsyncIterator
from typing import Final

import grpc
from opentelemetry import trace
from opentelemetry.trace import Link, Span

from utilctl_common.errors import FailedError, UtilctlError
from utilctl_common.health import Health
from utilctl_common.quantities import parse_address
from utilctl_common.telemetry import Telemetry, context_of, setup, trace_id_of, traceparent_of
from utilctl_common.telemetry_grpc import TracingServerInterceptor
from utilctl_controller.allocation.model import Allocation, AllocationProblem
from utilctl_controller.allocation.solver import Allocator
from utilctl_controller.control import ControllerState, ControlPlane
from utilctl_controller.election import Elector
from utilctl_controller.explain import DISABLED
from utilctl_controller.fleet import Push
from utilctl_controller.metrics import ControllerMetrics, Gauge
from utilctl_controller.noise import NoiseInterceptor
from utilctl_controller.policies import PolicyKeeper
from utilctl_controller.rebalance import Rebalancer
from utilctl_controller.sessions import AgentSessions
from utilctl_controller.settings import ControllerSettings
from utilctl_controller.status import service_views, waiting_views
from utilctl_controller.store.port import PolicyStore
from utilctl_controller.workers import DaemonWorkers
from utilctl_proto.v1 import agent_pb2_grpc, control_pb2_grpc

_LOG = logging.getLogger(__name__)

READY: Final = "ready"
"""Service of the health protocol that serves once this controller leads, or knows who does."""

SERVICE_NAME: Final = "utilctl-controller"
_STOP_GRACE_S: Final = 0.3
MOST_PAUSE_S: Final = 0.01
"""Longest pause between two parts of a decision."""
REST: Final = 4
"""After a decision that took long, the next one waits for so many times as long, unless policy was changed."""
_MAX_LINKS: Final = 32
"""Writes named by one decision besides the first. Arbitrary: a bulk change has one trace for each write."""


class Trail:
    """A decision's open spans. ``hosts`` counts those that are told something new."""

    def __init__(self, decide: Span, push: Span) -> None:
        self._decide, self._push = decide, push
        self.traceparent = traceparent_of(push)
        self.hosts = 0

    def end(self) -> None:
        """All is handed over."""
        self._push.set_attribute("utilctl.hosts", self.hosts)
        self._push.end()
        self._decide.end()


class Controller:
    """One controller. ``start`` once, ``stop`` once; the store and the telemetry belong to the caller."""

    def __init__(self, settings: ControllerSettings, store: PolicyStore, telemetry: Telemetry) -> None:
        self.controller_id: Final = f"{socket.gethostname()}-{uuid.uuid4().hex[:8]}"
        self.address = ""
        self._settings = settings
        self._tracer = telemetry.tracer
        self._metrics = ControllerMetrics(telemetry)
        self._keeper = PolicyKeeper(
            store, telemetry.tracer, self._policy_changed, self._metrics.store_answered, settings.probe_ns
        )
        self._allocator = Allocator()
        self._solver = DaemonWorkers("allocation", 1)
        self._questions = DaemonWorkers("what-if", 1)  # no decision waits for an answer
        self._wake = asyncio.Event()
        self._urgent = asyncio.Event()
        self._causes: list[str] = []
        self._trouble = ""
        self._decided_unix_ns = 0
        self._trace_id = ""
        self._loop_task: asyncio.Task[None] | None = None
        self._server = grpc.aio.server(
            interceptors=[NoiseInterceptor(self._metrics.malformed), TracingServerInterceptor(telemetry.tracer)],
            options=_server_options(settings),
        )
        self._health = Health(self._server)
        self._rebalancer: Rebalancer  # of the time in which it leads, or last led
        self._sessions = AgentSessions(settings, self.controller_id, self._metrics, self._wake.set)
        self._control = ControlPlane(
            self._keeper,
            self,
            self._metrics,
            lambda problem: self._questions.run(self._allocator.like_the_last, problem),
        )
        self._elector = Elector(
            store, self, self.controller_id, ttl_ns=settings.seat_ttl_ns, doubt_ns=settings.lease_ns
        )

    async def start(self) -> str:
        """Serve, as the leader or as a follower. Returns HOST:PORT.

        Raises StoreUnavailableError, and FailedError if the address is taken.
        """
        await self._keeper.start()
        agent_pb2_grpc.add_AgentSessionServiceServicer_to_server(self._sessions, self._server)
        control_pb2_grpc.add_ControlServiceServicer_to_server(self._control, self._server)
        host, port = parse_address(self._settings.listen)
        try:
            port = self._server.add_insecure_port(f"{host}:{port}")
        except RuntimeError:
            port = 0
        if port == 0:
            raise FailedError(
                f"cannot listen on {self._settings.listen}",
                hint="is another program there? choose another --listen",
            )
        self.address = f"{host}:{port}"
        await self._health.set(READY, serves=False)
        # Claimed before anything is served, so that nobody is refused by a controller that is about to lead.
        await self._elector.start(self._settings.advertise or reachable(host, port))
        await self._health.set("", serves=True)
        await self._server.start()
        return self.address

    async def stop(self) -> None:
        """Stop serving: agents are told to look elsewhere, calls in progress get a moment. Idempotent."""
        self._sessions.stop()
        await self._stop_deciding()
        await self._elector.stop()
        await self._server.stop(_STOP_GRACE_S)
        await self._keeper.stop()
        self._solver.close()
        self._questions.close()

    # Election

    async def lead(self, epoch: int) -> None:
        """See election.Office."""
        await self._keeper.catch_up()  # what was acknowledged by the leader before is known to this one
        self._metrics.elected()
        if self._loop_task is not None:
            self._rebalancer.advance(epoch)
            self._wake.set()
            return
        self._rebalancer = Rebalancer(self._settings, epoch, self._allocator, time.monotonic_ns())
        self._rebalancer.on_policies(self._keeper.policies(time.time_ns()))
        self._rebalancer.on_switch(disabled=self._disabled)
        self._sessions.lead(self._rebalancer)
        self._control.lead(self._rebalancer)
        self._loop_task = asyncio.create_task(self._decide_forever(), name="decide")
        await self._health.set(READY, serves=True)

    async def follow(self, leader: str) -> None:
        """See election.Office."""
        await self._stop_deciding()
        self._sessions.follow(leader)
        self._control.follow(leader)
        await self._health.set(READY, serves=bool(leader))
        if self._metrics.enabled:
            self._metrics.publish((Gauge("utilctl_controller_leading_ratio", 0.0),))

    async def doubt(self) -> None:
        """See election.Office."""
        self._sessions.look_elsewhere()

    async def _stop_deciding(self) -> None:
        if self._loop_task is not None:
            self._loop_task.cancel()
            await asyncio.gather(self._loop_task, return_exceptions=True)
            self._loop_task = None

    def state(self) -> ControllerState:
        """The controller's state now, for status."""
        status = self._keeper.status
        reasons = [self._trouble] if self._trouble else []
        if (switch := self._keeper.switch) is not None and switch.disabled:
            why = f" ({switch.change.reason})" if switch.change.reason else ""
            reasons.insert(0, f"{DISABLED}, by {switch.change.who}{why}; utilctl enable lets them hold again")
        if not status.available:
            reasons.append(f"the policy store is unavailable ({status.reason}): writes are refused")
        if self._rebalancer.learning(time.monotonic_ns()):
            reasons.append("just begun to lead: shares move when the fleet has reported")
        return ControllerState(self.controller_id, "; ".join(reasons), self._decided_unix_ns, self._trace_id)

    def _policy_changed(self, traceparent: str) -> None:
        if traceparent:
            self._causes.append(traceparent)
        if self._loop_task is not None and self._rebalancer.on_switch(disabled=self._disabled):
            # At once, also while an allocation is on its way: it is for emergencies.
            causes = [traceparent] if traceparent else []
            self._send(self._rebalancer.conclude(None, None, time.monotonic_ns()), causes, time.time_ns(), None)
        self._wake.set()
        self._urgent.set()

    @property
    def _disabled(self) -> bool:
        switch = self._keeper.switch
        return switch is not None and switch.disabled

    async def _decide_forever(self) -> None:
        """Decide at every report interval, and at once when something happened, though not in a rush."""
        interval_s = self._settings.report_interval_ns / 1e9
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(interval_s):  # wait_for of Python 3.11 may lose a cancellation
                    await self._wake.wait()
            self._wake.clear()
            self._urgent.clear()
            begun_s = time.monotonic()
            try:
                await self._decide()
            except Exception as error:  # noqa: BLE001 - the last targets stay in force, and status says why
                self._failed(error)
            took_s = time.monotonic() - begun_s
            await asyncio.sleep(self._settings.coalesce_ns / 1e9)
            with contextlib.suppress(TimeoutError):
                # Thousands of agents that connect may not keep it deciding; an operator does not wait.
                async with asyncio.timeout(max(0.0, REST * took_s - self._settings.coalesce_ns / 1e9)):
                    await self._urgent.wait()

    def _failed(self, error: Exception) -> None:
        known = isinstance(error, UtilctlError)
        if not self._trouble:
            _LOG.error("the decision failed, the last targets stay in force: %s", error, exc_info=not known)
        self._metrics.failed()
        self._trouble = f"the last decision failed ({error if known else type(error).__name__}): targets are held back"

    async def _allocate(self, problem: AllocationProblem, causes: list[str]) -> Allocation | None:
        """The allocation, or None if there is none; leases are renewed for as long as it takes."""
        running = asyncio.create_task(self._solver.run(self._allocator, problem))
        try:
            while not (await asyncio.wait({running}, timeout=self._settings.report_interval_ns / 1e9))[0]:
                pushes = self._rebalancer.conclude(None, None, time.monotonic_ns())
                changed = any(not push.renewal for push in pushes)
                self._send(pushes, causes if changed else [], time.time_ns(), None)
            allocation = running.result()
        except Exception as error:  # noqa: BLE001 - whatever it is, the last targets stay in force and are renewed
            self._failed(error)
            return None
        finally:
            running.cancel()
        return allocation

    async def _decide(self) -> None:
        started_unix_ns = time.time_ns()
        causes, self._causes = self._causes, []
        self._rebalancer.on_policies(self._keeper.policies(time.time_ns()))
        self._rebalancer.on_switch(disabled=self._disabled)
        problem = self._rebalancer.plan(time.monotonic_ns())
        allocation: Allocation | None = None
        allocated: tuple[int, int] | None = None
        if problem is not None:
            before_ns = time.time_ns()
            allocation = await self._allocate(problem, causes)
            allocated = (before_ns, time.time_ns())
            self._metrics.decided((allocated[1] - before_ns) / 1e9)
        trail: Trail | None = None
        begun_s = time.monotonic()
        try:
            for part in self._rebalancer.conclude_in_parts(problem, allocation, time.monotonic_ns()):
                if trail is None and (causes or any(not push.renewal for push in part)):
                    trail = self._begin_trail(causes, started_unix_ns, allocated)
                self._deliver(part, trail)
                # A large fleet's reports are heard in between. The library's own thread, which brings them, must get
                # the interpreter for that, and does so only while nothing else wants it: so as long as this took.
                await asyncio.sleep(min(MOST_PAUSE_S, time.monotonic() - begun_s))
                begun_s = time.monotonic()
        finally:
            if trail is not None:
                trail.end()
        if problem is None or allocation is not None:
            self._trouble = ""
        if self._metrics.enabled:
            self._metrics.publish(self._gauges())

    def _send(
        self, pushes: list[Push], causes: list[str], started_unix_ns: int, allocated: tuple[int, int] | None
    ) -> None:
        trail: Trail | None = None
        if causes or any(not push.renewal for push in pushes):
            trail = self._begin_trail(causes, started_unix_ns, allocated)
        self._deliver(pushes, trail)
        if trail is not None:
            trail.end()

    def _deliver(self, pushes: list[Push], trail: Trail | None) -> None:
        for push in pushes:
            self._sessions.deliver(push, trail.traceparent if trail is not None else "")
        if trail is not None:
            trail.hosts += sum(not push.renewal for push in pushes)

    def _begin_trail(self, causes: list[str], started_unix_ns: int, allocated: tuple[int, int] | None) -> Trail:
        """Spans of a decision, made once there is something to send because most turn out to change nothing. The first
        write that led to it is the parent, the others are linked.
        """
        links = [Link(_span_context(cause)) for cause in causes[1 : _MAX_LINKS + 1]]
        parent = context_of(causes[0] if causes else "")
        decide = self._tracer.start_span("decide", context=parent, links=links, start_time=started_unix_ns)
        inside = trace.set_span_in_context(decide)
        if allocated is not None:
            self._tracer.start_span("allocate", context=inside, start_time=allocated[0]).end(allocated[1])
        trail = Trail(decide, self._tracer.start_span("push", context=inside))
        self._decided_unix_ns, self._trace_id = time.time_ns(), trace_id_of(trail.traceparent)
        return trail

    def _gauges(self) -> tuple[Gauge, ...]:
        now_ns, limit = time.monotonic_ns(), self._settings.series_limit
        gauges = [
            Gauge("utilctl_controller_agents", self._sessions.connected),
            Gauge("utilctl_controller_leading_ratio", 1.0),
            Gauge("utilctl_controller_store_available_ratio", float(self._keeper.status.available)),
            Gauge("utilctl_controller_enabled_ratio", float(not self._rebalancer.disabled)),
            Gauge(
                "utilctl_controller_held_services",
                sum(policy.hold is not None for policy in self._rebalancer.policies.values()),
            ),
        ]
        behind = sum(
            host.connected and host.pushed is not None and host.applied_generation < host.pushed.generation
            for host in self._rebalancer.hosts.values()
        )
        gauges.append(Gauge("utilctl_controller_hosts_behind", behind))
        waiting = sum(view.pods for view in waiting_views(self._rebalancer, now_ns))
        gauges.append(Gauge("utilctl_controller_waiting_pods", waiting))
        views = service_views(self._rebalancer, self._keeper.records, now_ns)
        for name, view in list(views.items())[:limit]:
            of = (("service", name),)
            gauges += [
                Gauge("utilctl_service_share", view.record.policy.share, of),
                Gauge("utilctl_service_entitlement_cores", view.entitlement_cores, of),
                Gauge("utilctl_service_demand_cores", view.demand_cores, of),
                Gauge("utilctl_service_consumption_cores", view.consumption_cores, of),
            ]
        for name, host in sorted(self._rebalancer.hosts.items())[:limit]:
            if not self._rebalancer.counts(host, now_ns) or host.reading is None:
                continue
            of = (("host", name),)
            loop = host.reading.loop
            gauges += [
                Gauge("utilctl_host_capacity_cores", host.total_cores, of),
                Gauge("utilctl_host_unclaimed_cores", host.reading.unclaimed_cores, of),
                Gauge("utilctl_host_relative_error_ratio", loop.rms_relative_error_ratio if loop else 0.0, of),
                Gauge("utilctl_host_overhead_ratio", host.overhead_ratio, of),
            ]
        return tuple(gauges)


def reachable(host: str, port: int) -> str:
    """Where others reach what listens on ``host``, if nothing better is said: this machine's name for a wildcard."""
    return f"{socket.getfqdn() if host in ('0.0.0.0', '[::]') else host}:{port}"  # noqa: S104 - compared, not bound


def _span_context(traceparent: str) -> trace.SpanContext:
    return trace.get_current_span(context_of(traceparent)).get_span_context()


def _server_options(settings: ControllerSettings) -> list[tuple[str, int]]:
    keepalive_ms = settings.keepalive_ns // 1_000_000
    return [
        ("grpc.max_receive_message_length", settings.max_message_bytes),
        ("grpc.max_send_message_length", settings.max_message_bytes),
        ("grpc.keepalive_time_ms", keepalive_ms),
        ("grpc.keepalive_timeout_ms", keepalive_ms // 2),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        # Agents probe their side too; without this a server answers frequent probes by closing the
        # connection.
        ("grpc.http2.min_ping_interval_without_data_ms", keepalive_ms // 2),
        # Two controllers on one port would each get half of the agents.
        ("grpc.so_reuseport", 0),
    ]


@contextlib.asynccontextmanager
async def serving(
    settings: ControllerSettings, store: PolicyStore, telemetry: Telemetry | None = None
) -> AsyncIterator[str]:
    """Run a controller inside this process and event loop; yields its address, HOST:PORT.

    The store, and a telemetry that is handed in, stay open for the caller to close. Raises as
    Controller.start.
    """
    own = None
    if telemetry is None:
        own = telemetry = setup(SERVICE_NAME, always_sdk=True)
    controller = Controller(settings, store, telemetry)
    try:
        yield await controller.start()
    finally:
        await controller.stop()
        if own is not None:
            own.shutdown()
