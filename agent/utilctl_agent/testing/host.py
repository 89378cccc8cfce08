"""The simulated host: a clock and a process table that accrues CPU time over M cores.

The simulated kernel is simple on purpose: one run queue, round robin with a fixed slice, no wake-up preemption. It is
deterministic; time moves only in ``advance_to`` and refuses to go backwards.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from utilctl_agent.alps.model import Reading
from utilctl_agent.host.port import (
    ForeignResumeError,
    ForeignStopError,
    GroupGoneError,
    Ledger,
    UnfinishedPauseError,
)
from utilctl_common.errors import FailedError
from utilctl_common.quantities import NS_PER_MS


@dataclass(frozen=True, slots=True)
class Spin:
    """Wants CPU all the time."""


@dataclass(frozen=True, slots=True)
class Bursts:
    """Computes ``compute_ns`` of CPU time, then sleeps ``sleep_ns``, for ever; sleeps first if ``asleep_first``."""

    compute_ns: int
    sleep_ns: int
    asleep_first: bool = False


@dataclass(slots=True, eq=False)
class _Process:
    behaviour: Spin | Bursts
    group: SimulatedGroup
    state: Literal["ready", "running", "asleep", "ended"] = "ready"
    burst_left_ns: int | None = None  # CPU time until it sleeps; None: never
    wake_ns: int = 0  # when it wakes, while asleep
    slice_left_ns: int = 0
    cpu_ns: int = 0
    ticked_ns: int = 0  # its CPU time at the last tick of its CPU


@dataclass(slots=True, eq=False)
class SimulatedGroup:
    """A group of processes on a SimulatedHost; implements host.port.Group.

    Like a frozen cgroup it has one switch, which others can move as well. ledger: where its pauses are noted.
    stubborn: a part of it does not stop when told to.
    """

    host: SimulatedHost
    name: str
    processes: list[_Process] = field(default_factory=list)
    stopped: bool = False  # by us
    stopped_by_user: bool = False
    pauses: int = 0
    wait_ns: int = 0
    queued_ns: int = 0
    removed: bool = False
    ledger: Ledger | None = None
    stubborn: bool = False
    _slot: int | None = None
    _paused: bool = False  # as far as we know

    def __post_init__(self) -> None:
        if self.ledger is not None:
            self._slot = self.ledger.enter_cgroup(self.name, 0)

    @property
    def mechanism(self) -> str:
        """``freezer``: it behaves like a frozen cgroup."""
        return "freezer"

    @property
    def held(self) -> bool:
        """Whether it is stopped, by whomever."""
        return self.stopped or self.stopped_by_user

    @property
    def used_ns(self) -> int:
        """CPU time of all its processes, ended ones included."""
        return sum(process.cpu_ns for process in self.processes)

    def cpu_ns(self) -> int:
        """See host.port.Group. Of what runs it is known up to the last tick only, where the host has ticks."""
        self._call("read")
        if not self.host.tick_ns:
            return self.used_ns
        return sum(p.ticked_ns if p.state == "running" else p.cpu_ns for p in self.processes)

    def read(self, *, observe: bool = True) -> Reading:
        """See host.port.Group."""
        cpu_ns = self.cpu_ns()
        if not observe:
            return Reading(cpu_ns)
        alive = [p for p in self.processes if p.state != "ended"]
        return Reading(cpu_ns, self.wait_ns, all(p.state == "asleep" for p in alive), self.queued_ns)

    def pause(self) -> None:
        """See host.port.Group."""
        if self.removed:
            raise GroupGoneError(f"{self.name} has ended")
        if self._paused:
            return
        self._call("look")
        if self.stopped_by_user:
            raise ForeignStopError(f"{self.name} is stopped by somebody else")
        if self.ledger is not None and self._slot is not None:
            self.ledger.begin(self._slot, self.host.now_ns())
        try:
            self._call("stop")
        except FailedError:
            self._cross_out()
            raise
        self._paused = self.stopped = True
        self.pauses += 1
        self.host.unqueue(self)

    def resume(self) -> None:
        """See host.port.Group."""
        if not self._paused:
            return
        with contextlib.suppress(GroupGoneError):
            self._call("continue")
        self.thaw()
        self._paused = False
        self._cross_out()

    def check(self) -> None:
        """See host.port.Group."""
        if not self._paused:
            return
        self._call("check")
        if not self.stopped:
            self._paused = False
            self._cross_out()
            raise ForeignResumeError(f"{self.name} was resumed by somebody else")
        if self.stubborn:
            raise UnfinishedPauseError(f"{self.name} does not stop")

    def close(self) -> None:
        """See host.port.Group."""
        with contextlib.suppress(FailedError):
            self.resume()
        if self.ledger is not None and self._slot is not None and not self._paused:
            self.ledger.leave(self._slot)
        self._slot = None

    @property
    def paused(self) -> bool:
        """Whether we hold it, as far as we know: somebody else may have thawed it."""
        return self._paused

    def freeze(self) -> None:
        """Somebody else moves the switch: nothing changes if it is frozen already."""
        if not self.stopped:
            self.stopped_by_user = True
            self.host.unqueue(self)

    def thaw(self) -> None:
        """Somebody moves the switch, a user or a guard: it runs, whoever froze it."""
        if self.held:
            self.stopped = self.stopped_by_user = False
            self.host.requeue(self)

    def fork(self, behaviour: Spin | Bursts) -> None:
        """One more process; it is stopped if the group is."""
        self.host.start(self, behaviour)

    def end_one(self) -> None:
        """Its oldest process exits; the group stays, even without any."""
        process = next((process for process in self.processes if process.state != "ended"), None)
        if process is not None:
            self.host.stop_running(process)
            process.state = "ended"

    def end(self) -> None:
        """All its processes exit, and the group is removed."""
        self.host.unqueue(self)
        for process in self.processes:
            process.state = "ended"
        self.removed = True
        self.stopped = self.stopped_by_user = False

    def _cross_out(self) -> None:
        if self.ledger is not None and self._slot is not None:
            self.ledger.end(self._slot)

    def _call(self, name: str) -> None:
        """A system call of ours: it may fail, and finds out that the group is gone."""
        self.host.before_call(name)
        if self.removed:
            raise GroupGoneError(f"{self.name} has ended")


def _no_fault(_call: str) -> None:
    """Every call succeeds."""


class SimulatedHost:
    """M cores, a clock in nanoseconds and groups of processes. Implements host.port.Clock."""

    def __init__(self, cores: int = 1, *, slice_ns: int = 3 * NS_PER_MS, tick_ns: int = 0) -> None:
        """tick_ns: how often the CPU time of what runs becomes known, as of work on another CPU; 0: at once."""
        self.cores = cores
        self.tick_ns = tick_ns
        self.groups: list[SimulatedGroup] = []
        self.before_call: Callable[[str], None] = _no_fault
        """Called before each simulated system call of a group (read, look, stop, continue, check); may raise."""
        self.idle_ns = 0  # core time that nobody used, summed over cores
        self._slice_ns = slice_ns
        self._now_ns = 0
        self._queue: deque[_Process] = deque()
        self._running: list[_Process] = []
        self._asleep: list[_Process] = []

    def now_ns(self) -> int:
        """See host.port.Clock."""
        return self._now_ns

    def group(self, name: str, *behaviours: Spin | Bursts, ledger: Ledger | None = None) -> SimulatedGroup:
        """A new group with one process a behaviour; its pauses are noted in ``ledger``."""
        group = SimulatedGroup(self, name, ledger=ledger)
        self.groups.append(group)
        for behaviour in behaviours:
            self.start(group, behaviour)
        return group

    def start(self, group: SimulatedGroup, behaviour: Spin | Bursts) -> None:
        """A new process in ``group``."""
        process = _Process(behaviour, group)
        group.processes.append(process)
        if isinstance(behaviour, Bursts):
            process.burst_left_ns = behaviour.compute_ns
            if behaviour.asleep_first:
                process.state, process.wake_ns = "asleep", self._now_ns + behaviour.sleep_ns
                self._asleep.append(process)
                return
        if not group.held:
            self._queue.append(process)

    def assert_clean(self) -> None:
        """Raise AssertionError if any group is left paused by us."""
        left = [group.name for group in self.groups if group.stopped]
        if left:
            raise AssertionError(f"left paused: {left}")

    def unqueue(self, group: SimulatedGroup) -> None:
        """Take a group's processes off the cores and the run queue; sleepers keep sleeping."""
        for process in group.processes:
            self.stop_running(process)

    def stop_running(self, process: _Process) -> None:
        """Take one process off its core or the run queue."""
        if process.state == "running":
            self._running.remove(process)
            process.state = "ready"
        elif process.state == "ready" and process in self._queue:
            self._queue.remove(process)

    def requeue(self, group: SimulatedGroup) -> None:
        """Put a group's ready processes on the run queue, those that are not there."""
        self._queue.extend(p for p in group.processes if p.state == "ready" and p not in self._queue)

    def advance_to(self, instant_ns: int) -> None:
        """Let time pass. Raises ValueError if ``instant_ns`` is in the past."""
        if instant_ns < self._now_ns:
            raise ValueError(f"time cannot go back from {self._now_ns} to {instant_ns}")
        while True:
            self._dispatch()
            step_ns = self._next_event_ns(instant_ns) - self._now_ns
            self._accrue(step_ns)
            self._now_ns += step_ns
            self._settle()
            if self._now_ns >= instant_ns:
                self._dispatch()
                return

    def _dispatch(self) -> None:
        while self._queue and len(self._running) < self.cores:
            process = self._queue.popleft()
            process.state = "running"
            process.ticked_ns = process.cpu_ns
            process.slice_left_ns = self._slice_ns
            self._running.append(process)

    def _next_event_ns(self, limit_ns: int) -> int:
        event_ns = limit_ns
        for process in self._running:
            if self._queue:
                event_ns = min(event_ns, self._now_ns + process.slice_left_ns)
            if process.burst_left_ns is not None:
                event_ns = min(event_ns, self._now_ns + process.burst_left_ns)
        for process in self._asleep:
            event_ns = min(event_ns, process.wake_ns)
        return max(event_ns, self._now_ns)

    def _accrue(self, step_ns: int) -> None:
        self.idle_ns += step_ns * (self.cores - len(self._running))
        running_groups = {id(process.group) for process in self._running}
        for group in {id(p.group): p.group for p in self._queue}.values():
            group.queued_ns += step_ns
            if id(group) not in running_groups:
                group.wait_ns += step_ns
        after_ns = self._now_ns + step_ns
        since_tick_ns = after_ns % self.tick_ns if self.tick_ns else 0
        for process in self._running:
            process.cpu_ns += step_ns
            if since_tick_ns <= step_ns:
                process.ticked_ns = process.cpu_ns - since_tick_ns
            process.slice_left_ns = max(0, process.slice_left_ns - step_ns)
            if process.burst_left_ns is not None:
                process.burst_left_ns -= step_ns

    def _settle(self) -> None:
        for process in list(self._running):
            behaviour = process.behaviour
            if isinstance(behaviour, Bursts) and process.burst_left_ns == 0:
                self._running.remove(process)
                process.state, process.wake_ns = "asleep", self._now_ns + behaviour.sleep_ns
                process.burst_left_ns = behaviour.compute_ns
                self._asleep.append(process)
            elif process.slice_left_ns == 0 and self._queue:
                self._running.remove(process)
                process.state = "ready"
                self._queue.append(process)
            elif process.slice_left_ns == 0:
                process.slice_left_ns = self._slice_ns
        for process in list(self._asleep):
            if process.wake_ns <= self._now_ns:
                self._asleep.remove(process)
                if process.state == "ended":
                    continue
                process.state = "ready"
                if not process.group.held:
                    self._queue.append(process)
