"""What the loop does with its orders and at each wake-up: groups are opened, given to an engine, stepped, reported on.

The process around it (signals, sockets, sleep) is module ``loop``.
"""

from __future__ import annotations

import contextlib
import select
import time
from dataclasses import replace
from pathlib import Path
from typing import Final

from utilctl_agent.alps.allotment import rms_relative_error
from utilctl_agent.alps.model import CoreSettings, CycleRecord, PrincipalSpec, Scheduler
from utilctl_agent.alps.observe import ObservingScheduler
from utilctl_agent.alps.paper import PaperScheduler
from utilctl_agent.alps.pauses import PauseSettings
from utilctl_agent.alps.progress import ProgressScheduler
from utilctl_agent.alps.turns import TurnScheduler
from utilctl_agent.alps.weights import WeightScheduler, WeightSettings
from utilctl_agent.channel import Channel, ChannelClosedError, Message
from utilctl_agent.dispatch import amended
from utilctl_agent.duty import Duty
from utilctl_agent.engine import Engine
from utilctl_agent.host.composite import CompositeGroup
from utilctl_agent.host.family import FamilyGroup
from utilctl_agent.host.opening import open_cgroup
from utilctl_agent.host.port import Group, GroupGoneError
from utilctl_agent.host.pressure import HostPressure
from utilctl_agent.host.processes import ProcessGroup
from utilctl_agent.host.procstat import ProcessId
from utilctl_agent.host.quotas import QuotaGroup
from utilctl_agent.mixed import MixedEngine
from utilctl_agent.orders import (
    LoopReport,
    LoopSettings,
    MembersDelta,
    PrincipalDelta,
    PrincipalOrder,
    PrincipalReport,
    Roster,
)
from utilctl_agent.quota_engine import QuotaEngine
from utilctl_agent.safety.journal import Journal
from utilctl_agent.stepper import Stepper
from utilctl_agent.weight_engine import WeightEngine
from utilctl_common.errors import UtilctlError
from utilctl_common.quantities import NS_PER_MS, NS_PER_S

BEAT_NS: Final = 80 * NS_PER_MS
"""Longest time between heartbeats; the guard acts on more than twice as old (safety.journal.HANG_NS)."""
TICK_NS: Final = NS_PER_S // 250
"""How far CPU times read from another CPU may lag: a scheduler tick at HZ=250, the coarsest common setting."""
CATCH_UP_NS: Final = 5 * NS_PER_MS
"""From one slice of a large change in membership to the next (see host.processes.MOST_AT_ONCE)."""


def make_scheduler(settings: LoopSettings) -> Scheduler:
    """The core that ``settings.algorithm`` names."""
    cores = len(settings.cpus)
    core = CoreSettings(
        quantum_ns=settings.quantum_ns,
        cycle_ns=settings.cycle_ns,
        cores=cores,
        reading_error_ns=0 if cores == 1 else TICK_NS,
        cycles=settings.stop_after_cycles,
    )
    if settings.algorithm == "default":
        return TurnScheduler(core)
    if settings.algorithm == "none":
        return ObservingScheduler(core)
    if settings.algorithm in ("progress", "progress-by-state"):
        return ProgressScheduler(core, use_wait=settings.algorithm == "progress")
    return PaperScheduler(core, lazy=settings.algorithm == "paper")


def make_engine(settings: LoopSettings) -> Stepper:
    """What holds principals back under ``settings``, as long as nobody is weighed."""
    if settings.algorithm == "quota":
        return QuotaEngine(len(settings.cpus))
    pauses = PauseSettings(settings.max_pause_ns)
    return Engine(make_scheduler(settings), pauses, HostPressure(), time.monotonic_ns)


def make_weight_engine(settings: LoopSettings) -> WeightEngine:
    """For principals that are weighed."""
    cycle_ns = settings.cycle_ns if settings.cycle_ns is not None else settings.weight_period_ns
    period_ns = settings.weight_period_ns
    return WeightEngine(WeightScheduler(WeightSettings(period_ns, cycle_ns, len(settings.cpus))))


class Loop:
    """The loop's state between wake-ups."""

    def __init__(self, settings: LoopSettings, channel: Channel, journal: Journal, loop_class: str) -> None:
        self._settings = settings
        self._channel = channel
        self._journal = journal
        self._loop_class = loop_class
        self._engine = make_engine(settings)
        self._orders: dict[str, PrincipalOrder] = {}
        self._roster = Roster(0, 0, ())
        self._refused: dict[str, str] = {}
        self._serial = 0
        self._asked_serial = -1  # the last serial for which a complete roster was asked for
        self._behind: dict[str, ProcessGroup] = {}  # who still has members to take in or let go
        self._shares: dict[str, float] = {}
        self._cycles = 0
        self._cycles_since_roster = 0
        self._rms_error_sum = 0.0
        self._late_sum_ns = 0
        self._late_max_ns = 0
        self._cpu_start_ns = time.process_time_ns()
        self._engine_wake_ns = 0
        self._duty = Duty() if settings.algorithm == "default" else None  # baselines are measured as they are
        self.stopping = False

    # -- orders -------------------------------------------------------------------------------------------------

    def obey(self, message: Message, now_ns: int) -> None:
        """Carry out one order."""
        match message.get("op"):
            case "roster":
                self._apply(Roster.from_json(message["roster"]), now_ns)
            case "members":
                self._amend(MembersDelta.from_json(message["members"]), now_ns)
            case "report":
                self._retry(now_ns)
                self._channel.send({"op": "report", "report": self._report(now_ns).to_json()})
            case "stop":
                self.stopping = True
            case _:
                pass  # an order of a newer version; the sender sees from the report that it was not followed

    def _apply(self, roster: Roster, now_ns: int) -> None:
        self._engine_wake_ns = 0  # decide at once on what changes
        if (roster.epoch, roster.generation) < (self._roster.epoch, self._roster.generation):
            return
        wanted = {order.name: order for order in roster.principals}
        for name in [n for n in self._orders if n not in wanted]:
            self._engine.remove(name, now_ns)
            del self._orders[name]
        self._refused = {n: p for n, p in self._refused.items() if n in wanted}
        for name, order in wanted.items():
            if self._orders.get(name) != order or name not in self._engine.names():
                self._try(order, now_ns)
        if (roster.epoch, roster.generation) != (self._roster.epoch, self._roster.generation):
            self._cycles_since_roster = 0
        self._roster = roster
        self._serial = roster.serial
        self._shares = {name: order.share for name, order in self._orders.items() if not order.observe}

    def _try(self, order: PrincipalOrder, now_ns: int) -> None:
        """Put one under control, or note why that is not possible; it then runs as it likes."""
        try:
            self._put(order, now_ns)
        except GroupGoneError:
            self._engine.remove(order.name, now_ns)
            self._orders.pop(order.name, None)
        except UtilctlError as error:
            self._engine.remove(order.name, now_ns)
            self._orders.pop(order.name, None)
            self._refused[order.name] = str(error)

    def _retry(self, now_ns: int) -> None:
        """What was refused for want of room (descriptors, slots or disk of the journal) may be possible by now."""
        for order in self._roster.principals:
            if order.name in self._refused:
                self._try(order, now_ns)
                if order.name in self._orders and not order.observe:
                    self._shares[order.name] = order.share
                    self._engine_wake_ns = 0
        for name in self._orders:
            loose = _loose_part(self._engine.group(name)) if name in self._engine.names() else None
            if loose is not None and loose.refusal and loose.retry():
                self._behind[name] = loose

    def _amend(self, delta: MembersDelta, now_ns: int) -> None:
        """Let processes join and leave. True of the processes whatever was lost before, so it is done in any case."""
        if delta.serial <= self._serial:
            return
        complete = delta.serial == self._serial + 1
        self._serial = delta.serial
        for change in delta.changes:
            complete &= self._amend_one(change, now_ns)
        if not complete and self._asked_serial < self._roster.serial:
            self._asked_serial = self._roster.serial
            self._channel.send({"op": "resend"})

    def _amend_one(self, change: PrincipalDelta, now_ns: int) -> bool:
        """False if this is not what we have."""
        order = self._orders.get(change.name)
        if order is None or change.name not in self._engine.names():
            return False
        loose = _loose_part(self._engine.group(change.name))
        if loose is None:
            return False
        loose.amend(map(_process_id, change.joined), map(_process_id, change.left))
        self._watch_backlog(order.name, loose)
        changed = replace(order, parallelism=change.parallelism, processes=amended(order.processes, change))
        self._orders[order.name] = changed
        if change.parallelism != order.parallelism:
            self._engine_wake_ns = 0
            try:
                self._engine.put(_spec(changed), now_ns, observe=order.observe)
            except GroupGoneError:
                return False
        return True

    def _watch_backlog(self, name: str, loose: ProcessGroup | None) -> None:
        if loose is not None and loose.behind:
            self._behind[name] = loose

    def _catch_up(self) -> None:
        """A slice of what large changes in membership have left to do, for everybody who has some."""
        for name, loose in list(self._behind.items()):
            if not loose.catch_up():
                del self._behind[name]

    def _put(self, order: PrincipalOrder, now_ns: int) -> None:
        spec = _spec(order)
        known = self._orders.get(order.name)
        under_control = order.name in self._engine.names()
        if order.weight and not isinstance(self._engine, MixedEngine):
            # From now on only: it costs nothing where nobody is weighed.
            specs = {other.name: _spec(other) for other in self._orders.values() if not other.observe}
            self._engine = MixedEngine(self._engine, make_weight_engine(self._settings), specs)
        if known is not None and under_control and (known.cgroups, known.weight) == (order.cgroups, order.weight):
            loose = _loose_part(self._engine.group(order.name))
            if loose is not None and (order.processes or order.cgroups):
                loose.update(map(_process_id, order.processes))
                self._watch_backlog(order.name, loose)
                self._engine.put(spec, now_ns, observe=order.observe)
                self._orders[order.name] = order
                return
            if loose is None and not order.processes:
                self._engine.put(spec, now_ns, observe=order.observe)
                self._orders[order.name] = order
                return
        group = self._open(order)
        try:
            self._engine.put(spec, now_ns, group, observe=order.observe)
        except BaseException:
            group.close()
            raise
        self._orders[order.name] = order
        self._refused.pop(order.name, None)
        self._watch_backlog(order.name, _loose_part(group))

    def _open(self, order: PrincipalOrder) -> Group:
        if self._settings.algorithm == "quota":
            return QuotaGroup(Path(order.cgroups[0]), Path(order.cgroups[-1]), self._journal)
        parts: list[Group] = []
        try:
            for path in order.cgroups:
                with contextlib.suppress(GroupGoneError):
                    parts.append(open_cgroup(Path(path), self._journal, weight=order.weight))
            if order.processes:
                with contextlib.suppress(GroupGoneError):
                    loose = self._open_processes(order)
                    loose.tells_state = self._settings.algorithm == "progress"
                    parts.append(loose)
        except BaseException:
            for part in parts:
                part.close()
            raise
        if not parts:
            raise GroupGoneError(f"{order.name} has no process")
        return parts[0] if len(parts) == 1 else CompositeGroup(parts)

    def _open_processes(self, order: PrincipalOrder) -> ProcessGroup:
        processes = map(_process_id, order.processes)
        if not order.family:
            # What caps one program tells at the end what it used.
            capped = self._settings.algorithm in ("progress", "progress-by-state")
            return ProcessGroup(processes, self._journal, keep_empty=capped)
        reaper = _process_id(order.reaper) if order.reaper is not None else None
        return FamilyGroup(processes, self._journal, reaper=reaper)

    @property
    def behind(self) -> bool:
        """Whether members wait to be taken in or let go; every wake-up does a slice of it."""
        return bool(self._behind)

    # -- one wake-up --------------------------------------------------------------------------------------------

    def wake(self, now_ns: int) -> int:
        """One step if one is due; returns when to wake next."""
        self._journal.beat(now_ns)
        if self._behind:
            self._catch_up()
        if now_ns < self._engine_wake_ns:
            return self._next_wake_ns(now_ns)  # woken for the heartbeat alone
        began_cpu_ns = time.thread_time_ns()
        step = self._engine.step(now_ns)
        for name in step.gone:
            self._orders.pop(name, None)
            self._shares.pop(name, None)
            self._channel.send({"op": "gone", "name": name})
        for record in step.closed:
            self._note_cycle(record)
        self._engine_wake_ns = step.next_wake_ns
        if self._duty is not None:
            ended_ns = time.monotonic_ns()
            rest_ns = self._duty.rest_ns(ended_ns, time.thread_time_ns() - began_cpu_ns)
            if rest_ns:
                self._engine_wake_ns = max(step.next_wake_ns, ended_ns + rest_ns)
        return self._next_wake_ns(now_ns)

    def _next_wake_ns(self, now_ns: int) -> int:
        """When the engine is due, or earlier for a heartbeat, which is asked for only while anybody is paused."""
        if self._behind:
            return min(self._engine_wake_ns, now_ns + CATCH_UP_NS)
        if self._engine_wake_ns - now_ns > BEAT_NS and self._journal.any_in_force():
            return now_ns + BEAT_NS
        return self._engine_wake_ns

    def switch(self, now_ns: int, late_ns: int) -> int | None:
        """Carry out what was planned for this instant; returns when to wake next, or None: then ``wake``."""
        wake_ns = self._engine.switch(now_ns)
        if wake_ns is None or self._behind:
            return None
        self._journal.beat(now_ns)
        self._late_sum_ns += late_ns
        if late_ns > self._late_max_ns:
            self._late_max_ns = late_ns
        self._engine_wake_ns = wake_ns
        return wake_ns if wake_ns - now_ns <= BEAT_NS else now_ns + BEAT_NS

    def late(self, late_ns: int) -> None:
        """A wake-up came ``late_ns`` after it was due."""
        self._late_sum_ns += late_ns
        self._late_max_ns = max(self._late_max_ns, late_ns)

    def _note_cycle(self, record: CycleRecord) -> None:
        self._cycles += 1
        self._cycles_since_roster += 1
        if self._cycles_since_roster == 1 and self._settings.announce_first_cycle:
            self._channel.send({"op": "report", "report": self._report(record.end_ns).to_json()})
        shares = self._shares
        if len(shares) != len(record.cpu_ns):
            shares = {n: self._shares[n] for n in record.cpu_ns if n in self._shares}
        self._rms_error_sum += rms_relative_error(record.cpu_ns, shares)
        if self._settings.cycle_log:
            self._channel.send(
                {"op": "cycle", "cycle": record.index, "end_ns": record.end_ns, "cpu_ns": dict(record.cpu_ns)}
            )
        if self._settings.stop_after_cycles is not None and self._cycles >= self._settings.stop_after_cycles:
            self.stopping = True

    def _report(self, now_ns: int) -> LoopReport:
        for record in self._engine.settle():
            self._note_cycle(record)
        principals: dict[str, PrincipalReport] = {}
        for name, reading in self._engine.readings().items():
            principals[name] = PrincipalReport(
                reading.cpu_ns,
                reading.wait_ns,
                self._engine.paused_ns(name, now_ns),
                self._engine.group(name).mechanism,
                self._engine.problems.get(name) or _refusal(self._engine.group(name)),
            )
        for name, problem in self._refused.items():
            principals[name] = PrincipalReport(0, None, 0, "none", problem)
        return LoopReport(
            now_ns=now_ns,
            epoch=self._roster.epoch,
            generation=self._roster.generation,
            cycles_since_roster=self._cycles_since_roster,
            loop_class=self._loop_class,
            algorithm=self._settings.algorithm,
            wakeups=self._engine.wakeups,
            overhead_ns=time.process_time_ns() - self._cpu_start_ns,
            cycles=self._cycles,
            rms_error_sum=self._rms_error_sum,
            late_sum_ns=self._late_sum_ns,
            late_max_ns=self._late_max_ns,
            **self._engine.faults._asdict(),
            cycle_stretch=self._engine.stretch,
            principals=principals,
        )

    def close(self, now_ns: int) -> None:
        """Resume everything, then send the last report."""
        for name in self._engine.names():
            with contextlib.suppress(UtilctlError):
                self._engine.group(name).resume()  # nobody should wait for the report
        report = self._report(now_ns)
        self._engine.close()
        with contextlib.suppress(ChannelClosedError):
            self._channel.send({"op": "final", "report": report.to_json()})
            _drain(self._channel)


def _spec(order: PrincipalOrder) -> PrincipalSpec:
    return PrincipalSpec(order.name, order.share, max(1, order.parallelism), order.cap_cores)


def _process_id(pair: tuple[int, int]) -> ProcessId:
    return ProcessId(*pair)


def _loose_part(group: Group) -> ProcessGroup | None:
    parts = group.parts if isinstance(group, CompositeGroup) else (group,)
    return next((part for part in parts if isinstance(part, ProcessGroup)), None)


def _refusal(group: Group) -> str:
    loose = _loose_part(group)
    return loose.refusal if loose is not None else ""


def _drain(channel: Channel) -> None:
    """Give the peer a second to take what is queued."""
    deadline_ns = time.monotonic_ns() + NS_PER_S
    while not channel.flush() and time.monotonic_ns() < deadline_ns:
        select.select([], [channel], [], 0.05)
