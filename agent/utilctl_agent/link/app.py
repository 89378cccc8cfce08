"""The link put together: loop on one side, controller on the other, discovery and telemetry beside them."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import logging
import os
import time
import uuid
from collections.abc import Collection
from typing import Any, Final

from opentelemetry.trace import Span

from utilctl_agent.channel import Channel, ChannelClosedError, Message
from utilctl_agent.discovery.facts import LabelSource, NoLabels
from utilctl_agent.dispatch import Dispatcher
from utilctl_agent.host.abilities import host_abilities
from utilctl_agent.host.alarm import Alarm
from utilctl_agent.host.clock import boottime_ns
from utilctl_agent.kubernetes.watch import PodWatch
from utilctl_agent.link import codec
from utilctl_agent.link.handover import succeed
from utilctl_agent.link.health import HealthServer
from utilctl_agent.link.hoststat import CpuTimes, busy_cores, read_cpu_times
from utilctl_agent.link.membership import MembershipScanner
from utilctl_agent.link.metrics import AgentMetrics, Standing
from utilctl_agent.link.pods import follow_pods
from utilctl_agent.link.quiet import INTERVALS, Quiet
from utilctl_agent.link.report import Reporter
from utilctl_agent.link.roster import make_orders
from utilctl_agent.link.session import ControllerSession
from utilctl_agent.link.settings import AgentSettings
from utilctl_agent.link.targets import TargetKeeper, TargetSet
from utilctl_agent.link.waiting import readable
from utilctl_agent.link.watch import MembershipWatch
from utilctl_agent.mechanism import choose
from utilctl_agent.orders import LoopReport, LoopSettings
from utilctl_agent.safety.deputy import Deputy
from utilctl_agent.safety.journal import Journal
from utilctl_agent.safety.thaw import open_process, thaw_journal
from utilctl_common.policy import SeePolicy
from utilctl_common.quantities import NS_PER_MS, NS_PER_S
from utilctl_common.telemetry import context_of, in_context, setup

_LOG = logging.getLogger(__name__)

LOOP_TIMEOUT_S: Final = 10.0
LEASE_CHECK_NS: Final = 500 * NS_PER_MS
SECOND_LOOK_S: Final = 0.25
"""How soon processes are looked at again after the loop was told to control somebody who had ended by then."""
END_S: Final = 1.0
"""What tasks get to end once the loop or the guard is gone."""


class LinkApp:
    """One link. ``run`` returns when the loop or the guard is gone; everything is resumed then.

    Made in the event loop that runs it. guard_fd becomes readable when the guard is gone, alarm_fd when it is to act
    (see safety.deputy).
    """

    def __init__(
        self, settings: AgentSettings, channel: Channel, guard_fd: int, alarm_fd: int, journal: Journal
    ) -> None:
        self._settings = settings
        self._channel = channel
        self._guard_fd = guard_fd
        self._alarm_fd = alarm_fd
        self._journal = journal
        self._deputy: Deputy | None = None
        self._telemetry = setup("utilctl-agent", scraped_at=settings.metrics)
        self._metrics = AgentMetrics(self._telemetry, settings.host, self._standing)
        abilities = host_abilities()
        self._choice = choose(settings.mode, abilities)
        self._freezer = settings.mode != "signal" and abilities.freezer is None
        self._keeper = TargetKeeper()
        self._reporter = Reporter(len(settings.cpus))
        self._quiet = Quiet()
        self._sequence = 0
        self._times = read_cpu_times(settings.cpus)
        self._scanner: MembershipScanner | None = None
        self._watch: MembershipWatch | None = None
        self._order_problems: dict[str, str] = {}
        self._dispatcher = Dispatcher()
        self._told: set[tuple[int, int, bool]] = set()
        self._spans: dict[tuple[int, int, bool], Span] = {}
        self._report_interval_ns = NS_PER_S
        self._second_look: asyncio.TimerHandle | None = None
        self._done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._session = ControllerSession(
            settings.controllers, self._hello, self._on_targets, self._on_interval, self._on_renewal
        )
        self._instance_id = uuid.uuid4().hex
        self._pods: PodWatch | None = None
        self._labels: LabelSource = NoLabels()
        self._waiting_of: tuple[tuple[int, int, int], dict[str, int]] | None = None
        if settings.kubernetes:
            self._labels, self._pods = follow_pods(settings, self._on_pods)
        self._health = HealthServer(settings.health) if settings.health else None

    async def run(self) -> int:
        """Serve until the loop or the guard ends, or ``stop``; returns the exit status."""
        events = asyncio.get_running_loop()
        events.add_reader(self._guard_fd, self._finish)
        self._send(
            {
                "op": "settings",
                "settings": LoopSettings(
                    algorithm="none" if self._settings.mode == "observe" else "default",
                    quantum_ns=self._settings.quantum_ns,
                    cycle_ns=self._settings.cycle_ns * len(self._settings.cpus),
                    cpus=self._settings.cpus,
                    max_pause_ns=self._settings.max_pause_ns,
                    cycle_log=False,
                    announce_first_cycle=True,
                    weight_period_ns=self._settings.weight_period_ns,
                ).to_json(),
            }
        )
        ready: asyncio.Future[int] = events.create_future()
        events.add_reader(self._channel.fileno(), self._on_loop_messages, ready)
        tasks: list[asyncio.Task[None]] = []
        try:
            first: list[asyncio.Future[Any]] = [self._done, ready]
            await asyncio.wait(first, timeout=LOOP_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED)
            if self._done.done():
                return 0
            if not ready.done():
                raise TimeoutError(f"the loop did not get ready within {LOOP_TIMEOUT_S:.0f} s")
            own = frozenset({os.getpid(), os.getppid(), ready.result()})
            self._scanner = MembershipScanner(
                self._settings.scope,
                own,
                self._settings.scan_ns,
                weigh=self._choice.mechanism == "weight",
                labels=self._labels,
            )
            self._watch = MembershipWatch(self._scanner, self._wanted_policies, self._instruct)
            tasks = [
                asyncio.create_task(self._serve(), name="session"),
                asyncio.create_task(self._watch.run(), name="membership"),
                asyncio.create_task(self._report_forever(), name="report"),
                asyncio.create_task(self._watch_lease(), name="lease"),
            ]
            if self._pods is not None:
                tasks.append(asyncio.create_task(self._pods.run(), name="pods"))
            if self._health is not None:
                tasks.append(asyncio.create_task(self._health.run(lambda: self._session.connected), name="health"))
            await asyncio.wait([self._done, *tasks], return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                if task.done():
                    task.result()
        finally:
            await _end(tasks)
            events.remove_reader(self._guard_fd)
            with contextlib.suppress(ValueError, OSError):
                events.remove_reader(self._channel.fileno())
            # The loop resumes everything when it ends; if it could not, this does.
            self._channel.close()
            if self._deputy is not None:
                self._deputy.close()
            else:
                thaw_journal(self._journal)
            self._telemetry.shutdown()
        return 0

    def stop(self) -> None:
        """Let ``run`` return."""
        if not self._done.done():
            self._done.set_result(None)

    def _standing(self) -> Standing:
        """Asked from a thread of the telemetry: reads only."""
        current = self._keeper.current
        return Standing(
            connected=self._session.connected,
            leased=self._keeper.lease_left_ns(boottime_ns()) is not None,
            disabled=self._keeper.disabled,
            stale_targets=self._keeper.stale,
            connects=self._session.connects,
            entitlements={one.policy.name: one.entitlement_cores for one in current.targets} if current else {},
            pods=len(self._pods.labels.pods()) if self._pods else 0,
            pod_watch_restarts=self._pods.restarts if self._pods else 0,
        )

    def _finish(self) -> None:
        asyncio.get_running_loop().remove_reader(self._guard_fd)  # at its end it would be readable for ever
        self.stop()

    # -- the loop's side ----------------------------------------------------------------------------------------

    def _send(self, message: Message) -> None:
        try:
            self._channel.send(message)
        except ChannelClosedError:
            self._finish()

    def _on_loop_messages(self, ready: asyncio.Future[int]) -> None:
        try:
            messages = self._channel.receive()
        except ChannelClosedError:
            asyncio.get_running_loop().remove_reader(self._channel.fileno())
            self._finish()
            return
        for message in messages:
            if message["op"] == "ready" and not ready.done():
                self._appoint(int(message["pid"]), int(message["start_ticks"]))
                ready.set_result(int(message["pid"]))
            elif message["op"] == "gone":
                self._dispatcher.forget()  # what comes next in its place may look the same, and must be ordered anew
                self._rescan()
            elif message["op"] == "resend":
                self._dispatcher.forget()
                self._instruct()
            elif message["op"] == "report":
                self._on_report(LoopReport.from_json(message["report"]))

    def _appoint(self, pid: int, start_ticks: int) -> None:
        """Before the loop knows of anybody whom it could pause."""
        try:
            loop_fd = open_process(pid, start_ticks)
        except ProcessLookupError:
            self._finish()  # it has ended
            return
        self._deputy = Deputy(self._journal, self._alarm_fd, loop_fd)

    def _on_report(self, loop: LoopReport) -> None:
        sent = self._dispatcher.sent
        current = sent is not None and (sent.epoch, sent.generation) == (loop.epoch, loop.generation)
        if sent is not None and current and any(order.name not in loop.principals for order in sent.principals):
            # Gone before the loop came to it. What has taken its place since may look the same to us.
            self._dispatcher.forget()
            if self._second_look is None:
                self._second_look = asyncio.get_running_loop().call_later(SECOND_LOOK_S, self._look_again)
        scanner = self._scanner
        members = scanner.members if scanner is not None else {}
        problems = {**(scanner.problems if scanner is not None else {}), **self._order_problems}
        times = read_cpu_times(self._settings.cpus)
        report = self._reporter.make(loop, times, members, problems, self._waiting())
        self._quiet.reported(report, self._busy_cores(times), time.monotonic_ns())
        self._sequence = report.sequence
        self._metrics.update(loop, report)
        self._session.send(codec.report_message(report))
        self._confirm(loop)

    def _waiting(self) -> dict[str, int]:
        """Pods by the service without a share that they name. Unknown, so none, before targets came."""
        current = self._keeper.current
        if self._pods is None or current is None:
            return {}
        of = (self._pods.labels.revision, current.epoch, current.generation)
        if self._waiting_of is None or self._waiting_of[0] != of:
            self._waiting_of = of, self._pods.labels.waiting([policy.name for policy in self._keeper.policies()])
        return self._waiting_of[1]

    def _on_pods(self) -> None:
        self._quiet.disturb()  # who waits for a share is told with the next report
        self._rescan()

    def _look_again(self) -> None:
        self._second_look = None
        self._rescan()

    def _busy_cores(self, times: CpuTimes) -> float:
        """CPUs in use since the last call."""
        last, self._times = self._times, times
        return busy_cores(last, times, len(self._settings.cpus))

    def _confirm(self, loop: LoopReport) -> None:
        """Tell the controller, once each, that a decision is applied and that its first cycle is over."""
        for first_cycle_done in (False, True):
            step = (loop.epoch, loop.generation, first_cycle_done)
            if not loop.generation or step in self._told or (first_cycle_done and not loop.cycles_since_roster):
                continue
            self._told.add(step)
            span = self._spans.pop(step, None)
            if span is not None:
                span.end()
            self._session.send(
                codec.applied(loop.epoch, loop.generation, first_cycle_done=first_cycle_done, at_unix_ns=time.time_ns())
            )

    # -- the controller's side ----------------------------------------------------------------------------------

    async def _serve(self) -> None:
        """Serve the controller, once no other agent manages the same."""
        await succeed(self._journal.path, take_over=self._settings.take_over, ready=self._session.reachable)
        await self._session.run()

    def _hello(self) -> codec.ConnectRequest:
        current = self._keeper.current
        identity = codec.Identity(
            host=self._settings.host,
            capacity_cores=float(len(self._settings.cpus)),
            version=importlib.metadata.version("utilctl"),
            instance_id=self._instance_id,
            mechanism=self._choice.mechanism,
            mechanism_reason=self._choice.reason,
        )
        return codec.hello(identity, current.epoch if current else 0, current.generation if current else 0)

    def _on_interval(self, interval_ns: int) -> None:
        self._quiet.disturb()  # a controller that has just been connected to knows nothing yet
        if interval_ns > 0:
            self._report_interval_ns = interval_ns

    def _on_renewal(self, epoch: int, generation: int, lease_ns: int) -> bool:
        return self._keeper.renew(epoch, generation, lease_ns, boottime_ns())

    def _on_targets(self, offered: TargetSet) -> None:
        # What is logged meanwhile belongs to the trace of the decision, whether or not spans are exported.
        with in_context(offered.traceparent):
            self._take_targets(offered)

    def _take_targets(self, offered: TargetSet) -> None:
        policies_before, disabled_before = self._keeper.policies(), self._keeper.disabled
        changed = self._keeper.offer(offered, boottime_ns())
        if not changed:
            return
        if disabled_before != self._keeper.disabled:
            _LOG.warning("shares are %s by an operator", "disabled" if self._keeper.disabled else "enabled again")
        self._begin_spans(offered)
        if self._keeper.policies() != policies_before:
            self._rescan()
        self._instruct()

    def _begin_spans(self, offered: TargetSet) -> None:
        self._told = {step for step in self._told if step[:2] == (offered.epoch, offered.generation)}
        for span in self._spans.values():
            span.set_attribute("utilctl.superseded", True)
            span.end()
        self._spans.clear()
        context = context_of(offered.traceparent)
        for first_cycle_done, name in ((False, "apply targets"), (True, "first enforced cycle")):
            span = self._telemetry.tracer.start_span(name, context)
            span.set_attribute("utilctl.host", self._settings.host)
            span.set_attribute("utilctl.epoch", offered.epoch)
            span.set_attribute("utilctl.generation", offered.generation)
            if not first_cycle_done:
                for target in offered.targets[:50]:
                    span.set_attribute(f"utilctl.target.{target.policy.name}", target.weight)
            self._spans[(offered.epoch, offered.generation, first_cycle_done)] = span

    def _instruct(self) -> None:
        """Tell the loop what to control now; nothing if nothing changed."""
        current = self._keeper.current
        if current is None:
            return
        orders, self._order_problems = make_orders(
            self._keeper.weights(boottime_ns()),
            self._scanner.members if self._scanner is not None else {},
            freezer=self._freezer,
            observe=self._settings.mode == "observe" or self._keeper.disabled,
            cores=len(self._settings.cpus),
            weigh=self._choice.mechanism == "weight",
        )
        message = self._dispatcher.message(current.epoch, current.generation, orders)
        if message is None:
            return
        self._quiet.disturb()
        self._send(message)
        if message["op"] == "roster":
            self._send({"op": "report"})

    def _rescan(self) -> None:
        if self._watch is not None:
            self._watch.rescan()

    def _wanted_policies(self) -> tuple[SeePolicy, ...] | None:
        return self._keeper.policies() if self._keeper.current is not None else None

    # -- periodic work ------------------------------------------------------------------------------------------

    async def _report_forever(self) -> None:
        while True:
            intervals = INTERVALS if self._quiet.settled else 1
            await asyncio.sleep(intervals * self._report_interval_ns / NS_PER_S)
            if self._quiet.settled:
                busy = self._busy_cores(read_cpu_times(self._settings.cpus))
                if self._quiet.repeats(busy, time.monotonic_ns()):
                    self._session.send(codec.unchanged(self._sequence))
                    continue
            self._send({"op": "report"})

    async def _watch_lease(self) -> None:
        """When the lease ends, static shares take over; when it is renewed, targets do.

        It goes on while this host is suspended: the controller gives to others meanwhile what this one does not use.
        """
        expired = False
        with contextlib.closing(Alarm(clock=time.CLOCK_BOOTTIME)) as alarm:
            while True:
                left_ns = self._keeper.lease_left_ns(boottime_ns())
                alarm.put_off(LEASE_CHECK_NS if left_ns is None else left_ns)
                await readable(alarm.fileno())
                now_expired = self._keeper.expired(boottime_ns())
                if now_expired != expired:
                    expired = now_expired
                    _LOG.warning("targets %s", "expired: static shares hold now" if expired else "hold again")
                    self._instruct()


async def _end(tasks: Collection[asyncio.Task[None]]) -> None:
    """Cancel ``tasks``; one that misses its cancellation, as a library's may, is told again, and then left behind."""
    pending = set(tasks)
    for _ in range(10):
        for task in pending:
            task.cancel()
        if pending:
            _, pending = await asyncio.wait(pending, timeout=END_S / 10)
    for task in pending:
        _LOG.error("%s does not end: %s", task.get_name(), task.get_stack())
