"""A real guard with its real loop, steered over the control socket as ``utilctl alps`` does, and what it holds."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Literal

from support.processes import WAIT_S, is_frozen, is_stopped, spinning, temporary_cgroup, wait_until
from support.unprivileged import NOBODY, as_nobody
from utilctl_agent.channel import Channel, ChannelClosedError, Message
from utilctl_agent.host.alarm import Alarm
from utilctl_agent.host.hierarchies import FREEZER_V1, v1_mount
from utilctl_agent.host.procstat import ProcessId
from utilctl_agent.orders import LoopReport, LoopSettings, PrincipalOrder, Roster
from utilctl_agent.safety.deputy import Deputy
from utilctl_agent.safety.journal import Journal
from utilctl_agent.safety.thaw import open_process
from utilctl_common.quantities import NS_PER_MS, NS_PER_S

Mechanism = Literal["freezer", "freezer-v1", "signal"]

CYCLE_NS: Final = 100 * NS_PER_MS
LOW_CAP_CORES: Final = 0.08
"""A capped principal is paused for most of each cycle, all by itself, and costs the machine next to nothing."""


@dataclass(frozen=True, slots=True)
class Subject:
    """Spinning processes under control as one principal, in a cgroup of their own or as they are."""

    name: str
    processes: tuple[ProcessId, ...]
    cgroup: Path | None

    def order(self, *, cap_cores: float = LOW_CAP_CORES, share: float = 1.0) -> PrincipalOrder:
        """What the loop is told."""
        if self.cgroup is not None:
            return PrincipalOrder(self.name, share, len(self.processes), cap_cores, cgroups=(str(self.cgroup),))
        listed = tuple((process.pid, process.start_ticks) for process in self.processes)
        return PrincipalOrder(self.name, share, len(self.processes), cap_cores, processes=listed)

    def any_paused(self) -> bool:
        """Whether any part of it is held back now, as the kernel says."""
        if self.cgroup is not None:
            return is_frozen(self.cgroup) or self.all_paused()
        return any(is_stopped(process.pid) for process in self.processes)

    def all_paused(self) -> bool:
        """Whether all of it is held back now."""
        if self.cgroup is not None:
            if (self.cgroup / "freezer.state").exists():
                return "FROZEN" in (self.cgroup / "freezer.state").read_text()
            return "frozen 1" in (self.cgroup / "cgroup.events").read_text()
        return all(is_stopped(process.pid) for process in self.processes)


@contextlib.contextmanager
def subject(name: str, mechanism: Mechanism, *, count: int = 2, unprivileged: bool = False) -> Iterator[Subject]:
    """``count`` spinning processes, gone afterwards. unprivileged: they are user nobody's."""
    with contextlib.ExitStack() as stack:
        mount = v1_mount(FREEZER_V1) if mechanism == "freezer-v1" else None
        cgroup = None if mechanism == "signal" else stack.enter_context(temporary_cgroup(mount))
        user = NOBODY if unprivileged else None
        processes = stack.enter_context(spinning(count, cgroup=cgroup, user=user))
        yield Subject(name, tuple(processes), cgroup)


class GuardedLoop:
    """Use it in ``with``: guard and loop are gone afterwards, and whatever they had paused goes on."""

    def __init__(
        self,
        run_dir: Path,
        *,
        unprivileged: bool = False,
        max_pause_ns: int = NS_PER_S,
        stop_after_cycles: int | None = None,
    ) -> None:
        self.run_dir = run_dir
        self._unprivileged = unprivileged
        self._max_pause_ns = max_pause_ns
        self._stop_after_cycles = stop_after_cycles
        self._generation = 0
        self.loop_pid = 0
        self._loop_fd = -1
        self.alarm: Alarm
        self.guard: subprocess.Popen[str]
        self.channel: Channel

    def __enter__(self) -> GuardedLoop:
        ours, theirs = socket.socketpair()
        argv = [sys.executable, "-m", "utilctl_agent.safety.guard"]
        self.alarm = Alarm()
        fds = (theirs.fileno(), self.alarm.fileno())
        argv += [str(self.run_dir), "test", *map(str, fds), str(self._max_pause_ns)]
        with theirs:
            self.guard = subprocess.Popen(
                as_nobody(argv) if self._unprivileged else argv,
                pass_fds=fds,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
                cwd="/",
            )
        self.channel = Channel(ours)
        try:
            self._begin()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def _begin(self) -> None:
        settings = LoopSettings(
            algorithm="default",
            quantum_ns=10 * NS_PER_MS,
            cycle_ns=CYCLE_NS,
            cpus=tuple(sorted(os.sched_getaffinity(0))),
            max_pause_ns=self._max_pause_ns,
            cycle_log=False,
            announce_first_cycle=False,
            stop_after_cycles=self._stop_after_cycles,
        )
        self.channel.send({"op": "settings", "settings": settings.to_json()})
        ready = self.wait_for("ready")
        self.loop_pid = int(ready["pid"])
        self._loop_fd = open_process(self.loop_pid, int(ready["start_ticks"]))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # The loop first: its guard then resumes what it had paused, unless it is dead or stopped itself.
        self.signal_loop(signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):
            self.guard.send_signal(signal.SIGCONT)
        self.channel.close()
        try:
            self.guard.wait(WAIT_S)
        except subprocess.TimeoutExpired:
            self.guard.kill()
        self.guard.communicate(timeout=WAIT_S)
        self.alarm.close()
        if self._loop_fd >= 0:
            os.close(self._loop_fd)
            self._loop_fd = -1

    @property
    def journal_path(self) -> Path:
        """Where this guard keeps its journal."""
        return self.run_dir / f"test-{self.guard.pid}.journal"

    def journal(self) -> Journal:
        """The journal, opened for reading."""
        return Journal.open(str(self.journal_path))

    @contextlib.contextmanager
    def deputy(self) -> Iterator[Deputy]:
        """Has this process stand in for the guard, as the program that steers a loop does."""
        with contextlib.closing(self.journal()) as journal:
            deputy = Deputy(journal, self.alarm.fileno(), os.dup(self._loop_fd))
            try:
                yield deputy
            finally:
                self.channel.close()  # the loop is told to end
                deputy.close()

    def stop_guard(self) -> None:
        """SIGSTOP it: from now on it does nothing."""
        self.guard.send_signal(signal.SIGSTOP)
        wait_until(lambda: is_stopped(self.guard.pid), "the guard stops")

    def signal_loop(self, number: signal.Signals) -> None:
        """Send a signal to the loop if it is still there."""
        if self._loop_fd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._loop_fd, number)

    def loop_ended(self) -> bool:
        """Whether the loop is gone."""
        readable, _, _ = select.select([self._loop_fd], [], [], 0)
        return bool(readable)

    def control(self, orders: Sequence[PrincipalOrder]) -> None:
        """Put exactly these principals under control."""
        self._generation += 1
        self.channel.send({"op": "roster", "roster": Roster(0, self._generation, tuple(orders)).to_json()})

    def report(self) -> LoopReport:
        """The loop's state now."""
        self.channel.send({"op": "report"})
        return LoopReport.from_json(self.wait_for("report")["report"])

    def wait_for(self, op: str) -> Message:
        """The next message of that kind; others before it are dropped. Fails if the loop ends without it."""
        deadline = time.monotonic() + WAIT_S
        while time.monotonic() < deadline:
            select.select([self.channel], [], [], 0.2)
            self.channel.flush()
            for message in self.channel.receive():
                if message["op"] == op:
                    return message
        raise AssertionError(f"the loop never said {op}")

    def wait_for_end_of_stream(self) -> list[Message]:
        """Everything that the loop said until it closed its end."""
        messages: list[Message] = []
        deadline = time.monotonic() + WAIT_S
        while time.monotonic() < deadline:
            select.select([self.channel], [], [], 0.2)
            try:
                messages += self.channel.receive()
            except ChannelClosedError:
                return messages
        raise AssertionError("the loop never closed its end")

    def end(self) -> tuple[int, str]:
        """The guard's exit status and what it wrote, once it has ended."""
        status = self.guard.wait(WAIT_S)
        assert self.guard.stderr is not None
        return status, self.guard.stderr.read()

    def stop_loop_while_paused(self, subjects: Sequence[Subject]) -> int:
        """SIGSTOP the loop at an instant at which all subjects are paused; returns that instant (monotonic ns)."""
        deadline = time.monotonic() + WAIT_S
        while time.monotonic() < deadline:
            wait_until(lambda: all(held.all_paused() for held in subjects), "everything is paused")
            self.signal_loop(signal.SIGSTOP)
            stopped_ns = time.monotonic_ns()
            wait_until(lambda: is_stopped(self.loop_pid) or self.loop_ended(), "the loop stops")
            if all(held.all_paused() for held in subjects):
                return stopped_ns
            self.signal_loop(signal.SIGCONT)  # it had just resumed somebody; the guard does not mind so short a stop
        raise AssertionError("the loop was never caught with everything paused")


def time_until_resumed(subjects: Sequence[Subject], since_ns: int) -> int:
    """Watch from outside until nothing is paused any more; returns how long that took, in ns."""
    wait_until(lambda: not any(held.any_paused() for held in subjects), "everything is resumed")
    return time.monotonic_ns() - since_ns
