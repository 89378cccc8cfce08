"""Proportional shares on this host alone, without a controller: what ``utilctl alps`` runs.

Starts the workloads (or takes what runs already), starts the guard with its loop, steers the loop over the control
socket, and collects what each workload got. As root every workload gets a cgroup of its own; otherwise its process
tree is followed and stopped by signals.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from utilctl_agent.alps.allotment import allotments_ns
from utilctl_agent.alps.model import CoreSettings, PrincipalSpec
from utilctl_agent.channel import Channel, ChannelClosedError, Message
from utilctl_agent.discovery.tree_watch import TreeWatch
from utilctl_agent.dispatch import Dispatcher
from utilctl_agent.guarded_loop import START_TIMEOUT_S, GuardedLoop, cpu_ns, messages
from utilctl_agent.host.abilities import host_abilities
from utilctl_agent.host.members import threads_below
from utilctl_agent.host.procstat import identify
from utilctl_agent.host.spawning import child_ends, drained, uninterrupted
from utilctl_agent.host.start_gate import StartGate
from utilctl_agent.host.weights import has_weight
from utilctl_agent.host.workcgroup import WorkCgroup, work_mounts
from utilctl_agent.mechanism import Wanted, choose
from utilctl_agent.orders import Algorithm, LoopReport, LoopSettings, PrincipalOrder
from utilctl_agent.safety.thaw import STOP_GRACE_NS
from utilctl_agent.workloads import CycleRow, LocalResult, LocalSettings, PrincipalResult, Workload, check_command
from utilctl_common.errors import FailedError, UsageError
from utilctl_common.quantities import NS_PER_MS, NS_PER_S

MEMBERSHIP_NS: Final = NS_PER_S
"""How often all processes are looked at again (as in the paper, section 5.2); new ones are known sooner, by events
or glances (see discovery.cadence).
"""
RESEND_NS: Final = 20 * NS_PER_MS
"""How soon the loop is told everything once it misses something."""
JOURNAL_NAME: Final = "alps"


@dataclass(slots=True)
class _Started:
    name: str
    workload: Workload
    process: subprocess.Popen[bytes] | None = None
    cgroup: Path | None = None
    pids: tuple[int, ...] = ()
    events: int | None = None  # cgroup.events of its cgroup, kept open
    tree: int = -1  # its number among the process trees, where it is followed as one


def run_local(settings: LocalSettings, on_cycle: Callable[[CycleRow], None] | None = None) -> LocalResult:
    """Run until done, then leave nothing behind: no workload that we started, no cgroup, nobody paused.

    Raises UsageError for settings that cannot work, FailedError if a workload or the guard does not start. Call it
    from the main thread: it looks after SIGINT.
    """
    if not settings.workloads:
        raise UsageError("there is nothing to schedule", hint="add --run SHARE:COMMAND")
    for workload in settings.workloads:
        if workload.command is not None:
            check_command(workload.command)
    available = os.sched_getaffinity(0)
    missing = sorted(set(settings.cpus) - available)
    if missing:
        raise UsageError(f"CPU {missing[0]} is not available here", hint=f"use some of {sorted(available)}")
    if settings.mode == "weight" and settings.algorithm != "default":
        raise UsageError("weights have an algorithm of their own", hint="drop --algorithm, or use another --mode")
    CoreSettings(quantum_ns=settings.quantum_ns)  # checked here, where it is an error of the caller
    with contextlib.ExitStack() as stack:
        stack.callback(signal.signal, signal.SIGINT, signal.getsignal(signal.SIGINT))
        try:
            return _Runner(settings, on_cycle, stack).run()
        except ChannelClosedError:
            raise FailedError(
                "the scheduler loop ended unexpectedly", hint="everything it paused was resumed"
            ) from None
        finally:
            # A second Ctrl-C must not cut the clean-up short; it is bounded by itself.
            signal.signal(signal.SIGINT, signal.SIG_IGN)


class _Runner:
    def __init__(
        self, settings: LocalSettings, on_cycle: Callable[[CycleRow], None] | None, stack: contextlib.ExitStack
    ) -> None:
        self._settings = settings
        self._on_cycle = on_cycle
        self._stack = stack
        abilities = host_abilities()
        observe = settings.mode == "observe" or settings.algorithm == "none"  # nobody is held back
        # Who is only measured gets the cgroup all the same: it counts what ended processes have used.
        wanted = Wanted(
            cpus=len(settings.cpus),
            weighable=all(w.command or (w.cgroup and has_weight(w.cgroup)) for w in settings.workloads),
            services=any(w.cgroup for w in settings.workloads),
            paused=settings.algorithm != "default",
        )
        self._choice = choose("auto" if observe else settings.mode, abilities, wanted)
        self._reason = choose(settings.mode, abilities, wanted).reason
        self._algorithm: Algorithm = "none" if observe else settings.algorithm
        self._started: list[_Started] = []
        self._processes: list[subprocess.Popen[bytes]] = []
        self._gate = stack.enter_context(StartGate())
        self._child_ends = stack.enter_context(child_ends())
        self._dispatcher = Dispatcher()
        self._watch: TreeWatch | None = None
        self._deputy = stack.enter_context(contextlib.ExitStack())  # outlives the guard

    def run(self) -> LocalResult:
        guarded = GuardedLoop(JOURNAL_NAME, self._settings.max_pause_ns, self._stack, self._deputy)
        guard, channel = guarded.guard, guarded.channel
        self._start_workloads()
        self._follow_trees()
        names = [started.name for started in self._started]
        loop = guarded.configure(self._loop_settings())
        startup_ns = cpu_ns(loop.pid)
        self._gate.open()
        self._send_roster(channel)
        before_ns = cpu_ns(os.getpid()) + cpu_ns(guard.pid)
        start_ns = time.monotonic_ns()
        final = self._steer(channel, guard, start_ns)
        # The loop counts its own CPU time, up to the end of control: by now it may be gone.
        overhead_ns = cpu_ns(os.getpid()) + cpu_ns(guard.pid) - before_ns + final.overhead_ns
        wall_ns = max(1, time.monotonic_ns() - start_ns)
        guard.wait(timeout=START_TIMEOUT_S)
        return self._result(final, names, wall_ns, overhead_ns, before_ns + startup_ns)

    # -- start --------------------------------------------------------------------------------------------------

    def _start_workloads(self) -> None:
        cgroups: WorkCgroup | None = None
        commands = sum(w.command is not None for w in self._settings.workloads)
        mounts = work_mounts(self._choice.mechanism)
        if mounts and commands:
            cgroups = WorkCgroup(f"utilctl-alps-{os.getpid()}", mounts)
            self._stack.callback(cgroups.remove)
            if self._choice.mechanism == "weight":
                cgroups.weigh(commands)
        if self._choice.mechanism == "weight" and any(w.pids for w in self._settings.workloads):
            self._reason += "; signals for --pids: they have no cgroups of their own"
        self._stack.callback(_end_workloads, self._processes)
        for index, workload in enumerate(self._settings.workloads):
            name = f"p{index}"
            if workload.cgroup is not None:
                self._check_cgroup(workload.cgroup)
                self._started.append(_Started(name, workload, cgroup=workload.cgroup))
            elif workload.command is not None:
                self._started.append(self._spawn(name, workload, workload.command, cgroups))
            else:
                for pid in workload.pids:
                    if identify(pid) is None:
                        raise UsageError(f"there is no process {pid}", hint="name processes that are running")
                self._started.append(_Started(name, workload, pids=workload.pids))

    def _check_cgroup(self, folder: Path) -> None:
        """Raise an error for a cgroup of the caller's that the mechanism cannot hold back."""
        mechanism = self._choice.mechanism
        if mechanism == "signal":
            raise FailedError(f"cgroup {folder} cannot be frozen: {self._reason}", hint="run as root")
        if mechanism == "weight" and not has_weight(folder):
            raise UsageError(
                f"{folder} has no cpu.shares and no cpu.weight",
                hint="name a cgroup of a hierarchy with the cpu controller, or use --mode freezer",
            )
        if mechanism != "weight" and not any((folder / knob).exists() for knob in ("cgroup.freeze", "freezer.state")):
            raise UsageError(
                f"{folder} is not a cgroup", hint="name a directory below the v2 mount or the v1 freezer mount"
            )

    def _spawn(self, name: str, workload: Workload, command: str, cgroups: WorkCgroup | None) -> _Started:
        cpus = self._settings.cpus
        folder = cgroups.child(name) if cgroups is not None else None
        with uninterrupted() as let_through:

            def enter() -> None:  # between fork and exec; this process has one thread
                let_through()
                if cgroups is not None:
                    cgroups.enter(name)
                os.sched_setaffinity(0, cpus)

            process = subprocess.Popen(
                self._gate.argv(command),
                stdin=self._gate.stdin,
                stdout=sys.stderr.fileno(),
                start_new_session=True,
                preexec_fn=enter,  # noqa: PLW1509 - no threads here
            )
            self._processes.append(process)
        return _Started(name, workload, process=process, cgroup=folder)

    def _loop_settings(self) -> LoopSettings:
        return LoopSettings(
            algorithm=self._algorithm,
            quantum_ns=self._settings.quantum_ns,
            cycle_ns=None,
            cpus=self._settings.cpus,
            max_pause_ns=self._settings.max_pause_ns,
            cycle_log=self._on_cycle is not None,
            announce_first_cycle=False,
            stop_after_cycles=self._settings.cycles,
        )

    # -- membership ---------------------------------------------------------------------------------------------

    def _orders(self) -> Iterator[PrincipalOrder]:
        for started in self._started:
            share = started.workload.share
            if started.cgroup is not None:
                parallelism = self._parallelism(started, started.cgroup)
                if parallelism:
                    weight = self._choice.mechanism == "weight"
                    yield PrincipalOrder(
                        started.name, share, parallelism, cgroups=(str(started.cgroup),), weight=weight
                    )
                continue
            if self._watch is None:
                continue
            processes = self._watch.trees.members(started.tree)
            if processes:
                threads = min(self._watch.trees.threads(started.tree), len(self._settings.cpus))
                yield PrincipalOrder(started.name, share, max(1, threads), processes=processes)

    def _parallelism(self, started: _Started, folder: Path) -> int:
        """Threads in its cgroup, as far as there are CPUs for them; 0 once it is empty or gone."""
        cpus = len(self._settings.cpus)
        if cpus > 1:
            return min(cpus, len(threads_below(folder, cpus)[0]))
        try:
            if started.events is None:
                started.events = os.open(folder / "cgroup.events", os.O_RDONLY | os.O_CLOEXEC)
                self._stack.callback(os.close, started.events)
            return int(os.pread(started.events, 64, 0).startswith(b"populated 1"))
        except FileNotFoundError:  # not of version 2
            return min(1, len(threads_below(folder, 1)[0]))
        except OSError:
            return 0

    def _follow_trees(self) -> None:
        """Start to follow the workloads that have no cgroup; those that have need nothing of the kind."""
        loose = [started for started in self._started if started.cgroup is None]
        for number, started in enumerate(loose):
            started.tree = number
        if loose:
            roots = [(s.process.pid,) if s.process is not None else s.pids for s in loose]
            self._watch = TreeWatch(roots, MEMBERSHIP_NS)
            self._stack.callback(self._watch.close)

    def _send_roster(self, channel: Channel) -> bool:
        """Tell the loop who belongs to whom; False if nobody is left."""
        if self._unchanged():
            return True
        for started in self._started:
            if started.process is not None:
                started.process.poll()
        orders = tuple(self._orders())
        message = self._dispatcher.message(0, 1, orders)
        if message is not None:
            channel.send(message)
        return bool(orders)

    def _unchanged(self) -> bool:
        """Whether what the loop was told last still holds for sure, so that nobody has to be looked at.

        A command of ours that runs keeps its cgroup from being empty, and for one CPU nobody counts its threads.
        """
        if self._dispatcher.sent is None or len(self._settings.cpus) > 1:
            return False
        if any(started.process is None or started.cgroup is None for started in self._started):
            return False
        ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None  # the guard is a child, too
        return not ended and all(s.process is None or s.process.returncode is None for s in self._started)

    # -- the run ------------------------------------------------------------------------------------------------

    def _steer(self, channel: Channel, guard: subprocess.Popen[bytes], start_ns: int) -> LoopReport:
        """See the loop through to its last report. Raises ChannelClosedError if it ends, or does not, without one."""
        duration_ns = self._settings.duration_ns
        end_ns = start_ns + duration_ns if duration_ns is not None else None
        membership_ns = start_ns + MEMBERSHIP_NS
        stopping = False
        guard_fd = os.pidfd_open(guard.pid)
        self._stack.callback(os.close, guard_fd)
        last_ns: int | None = None  # the guard is gone, which ends a loop that can act; this one may be stopped
        while True:
            now_ns = time.monotonic_ns()
            if last_ns is None and guard.poll() is not None:
                last_ns = now_ns + STOP_GRACE_NS
            if last_ns is not None and now_ns >= last_ns:
                raise ChannelClosedError("the guard is gone, and the loop does not end")
            if end_ns is not None and now_ns >= end_ns and not stopping:
                channel.send({"op": "stop"})
                stopping = True
            changed = self._watch is not None and not stopping and self._watch.look(now_ns)
            if (changed or now_ns >= membership_ns) and not stopping:
                membership_ns = now_ns + MEMBERSHIP_NS
                if not self._send_roster(channel):
                    channel.send({"op": "stop"})
                    stopping = True
            fds, due_ns = self._watch.wait_for(now_ns) if self._watch is not None else ([], membership_ns)
            wake_ns = min(membership_ns, due_ns, end_ns if end_ns is not None else membership_ns)
            wait_s = START_TIMEOUT_S if stopping else max(0.0, (wake_ns - now_ns) / NS_PER_S)
            if drained(self._child_ends) and not stopping:
                membership_ns = min(membership_ns, now_ns + RESEND_NS)
                wait_s = min(wait_s, RESEND_NS / NS_PER_S)
            fds = [] if stopping else [*fds, guard_fd, self._child_ends]
            if last_ns is not None:
                wait_s, fds = min(wait_s, (last_ns - now_ns) / NS_PER_S), []
            for message in messages(channel, wait_s, fds):
                if message["op"] == "cycle":
                    self._log(message)
                elif message["op"] in ("gone", "resend"):
                    self._dispatcher.forget()  # what comes next may look the same, and must be ordered anew
                    membership_ns = min(membership_ns, now_ns + RESEND_NS)
                elif message["op"] == "final":
                    return LoopReport.from_json(message["report"])

    def _log(self, message: Message) -> None:
        if self._on_cycle is not None:
            cpu_ns = tuple(int(message["cpu_ns"].get(started.name, 0)) for started in self._started)
            self._on_cycle(CycleRow(int(message["cycle"]), int(message["end_ns"]), cpu_ns))

    def _result(
        self, final: LoopReport, names: Sequence[str], wall_ns: int, overhead_ns: int, startup_ns: int
    ) -> LocalResult:
        specs = [PrincipalSpec(started.name, started.workload.share) for started in self._started]
        targets = allotments_ns(specs, CoreSettings(self._settings.quantum_ns))
        total_target = sum(targets.values())
        reports = final.principals
        total_ns = sum(reports[name].cpu_ns for name in names if name in reports)
        principals: list[PrincipalResult] = []
        for started in self._started:
            report = reports.get(started.name)
            cpu_ns = report.cpu_ns if report is not None else 0
            principals.append(
                PrincipalResult(
                    name=_label(started),
                    share=started.workload.share,
                    cpu_s=cpu_ns / NS_PER_S,
                    fraction=cpu_ns / total_ns if total_ns else 0.0,
                    target_fraction=targets[started.name] / total_target,
                    paused_s=report.paused_ns / NS_PER_S if report is not None else 0.0,
                    problem=report.problem if report is not None else "ended",
                )
            )
        mechanisms = sorted({report.mechanism for report in reports.values()})
        return LocalResult(
            algorithm=self._algorithm,
            quantum_ms=self._settings.quantum_ns / NS_PER_MS,
            cycles=final.cycles,
            wall_s=wall_ns / NS_PER_S,
            overhead_pct=100.0 * overhead_ns / wall_ns,
            startup_cpu_s=startup_ns / NS_PER_S,
            rms_relative_error_pct=100.0 * final.rms_error_sum / final.cycles if final.cycles else 0.0,
            wakeups_per_s=final.wakeups * NS_PER_S / wall_ns,
            mechanism="observe" if self._algorithm == "none" else "+".join(mechanisms) or "none",
            mechanism_reason=self._reason,
            loop_class=final.loop_class,
            late_mean_us=final.late_sum_ns / max(1, final.wakeups) / 1000,
            late_max_us=final.late_max_ns / 1000,
            cycle_stretch=final.cycle_stretch,
            principals=tuple(principals),
        )


def _label(started: _Started) -> str:
    if started.workload.command is not None:
        return started.workload.command
    if started.workload.cgroup is not None:
        return f"cgroup:{started.workload.cgroup}"
    return ",".join(str(pid) for pid in started.workload.pids)


def _end_workloads(processes: list[subprocess.Popen[bytes]]) -> None:
    """End workloads and their process groups, all at the same time: they are ours, we started them."""
    for number, patience_s in ((signal.SIGTERM, 0.5), (signal.SIGKILL, 5.0)):
        for process in processes:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, number)
        deadline = time.monotonic() + patience_s
        for process in processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=max(0.0, deadline - time.monotonic()))
