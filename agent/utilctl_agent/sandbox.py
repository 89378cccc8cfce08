"""One program on a part of a CPU: what ``utilctl sandbox`` runs, and a library for programs with children of their own.

A guard with its scheduler loop meters the program's progress and holds it back. Where a cgroup can be made for a
program that we start, by a quota that the kernel keeps (module ``alps.quota``) or by freezing it; else by signals
(module ``alps.progress``), which works without root. A thread of this process steers: it follows who belongs to the
program, passes on a changed cap, and notices the end. Whatever happens to any of them, nothing stays paused.
"""

from __future__ import annotations

import contextlib
import os
import queue
import select
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Final, Literal

from utilctl_agent.channel import ChannelClosedError
from utilctl_agent.discovery.tree_watch import TreeWatch
from utilctl_agent.dispatch import Dispatcher
from utilctl_agent.guarded_loop import GuardedLoop, cpu_ns, messages
from utilctl_agent.host.children import family, lists_children
from utilctl_agent.host.procstat import identify
from utilctl_agent.host.programcgroup import ProgramCgroup
from utilctl_agent.mechanism import SandboxMode
from utilctl_agent.orders import Algorithm, LoopReport, LoopSettings, PrincipalOrder
from utilctl_agent.program import Program
from utilctl_agent.sandbox_ways import choose, mounts
from utilctl_common.errors import FailedError, UsageError
from utilctl_common.quantities import MAX_CORES, NS_PER_MS, NS_PER_S

Metric = Literal["wait", "state"]
"""How ready time is told: by the kernel's account of waiting for a CPU, or by the states that are seen."""

JOURNAL_NAME: Final = "sandbox"
NAME: Final = "program"
LEAST_CAP: Final = 0.001
MEMBERSHIP_NS: Final = 5 * NS_PER_S
QUOTA_BOUND_NS: Final = 60 * NS_PER_S
"""The bound of a pause where nobody is ever paused: how rarely the guard looks."""
RESEND_NS: Final = 20 * NS_PER_MS
ANSWER_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class SandboxReport:
    """What a sandboxed program got so far, children that have ended included, and how.

    ``fraction`` is of one CPU over the wall time; ``own_cpu_s`` is ours. ``paused_s``: for how long we held it back;
    under a quota, for how long it was ready and had no CPU, whoever had it. ``processes``: how many there are now.
    ``reason``: why it is this ``mechanism``.
    """

    cap_cores: float
    wall_s: float
    cpu_s: float
    paused_s: float
    fraction: float
    own_cpu_s: float
    processes: int
    problem: str
    mechanism: str = "signal"
    reason: str = ""


class Sandbox:
    """Runs ``command``, or takes process ``pid``, and caps it at ``cap_cores``. Use it in ``with``.

    At the end of the block a command that still runs is ended, and a process that was taken runs free again. ``tree``:
    its children, too. ``cap_cores`` may be above one for programs with several threads. From any thread, except that
    commands are started in the main one.
    """

    def __init__(
        self,
        cap_cores: float,
        *,
        command: Sequence[str] | None = None,
        pid: int | None = None,
        tree: bool = True,
        metric: Metric = "wait",
        mode: SandboxMode = "auto",
        cpus: Sequence[int] | None = None,
    ) -> None:
        """Raises UsageError for a cap, command or process that cannot be."""
        if (command is None) == (pid is None):
            raise UsageError("give either a command or a pid", hint="for example Sandbox(0.25, command=['make'])")
        if command is not None and not command:
            raise UsageError("the command is empty", hint="name a program")
        self._cap_cores = check_cap(cap_cores)
        self._command = list(command) if command is not None else None
        self._pid = pid
        self._tree = tree
        self._metric = metric
        self._mode: SandboxMode = mode
        self._cpus = tuple(cpus) if cpus is not None else tuple(sorted(os.sched_getaffinity(0)))
        self._requests: queue.SimpleQueue[tuple[float | None, queue.SimpleQueue[SandboxReport]]] = queue.SimpleQueue()
        self._stack = contextlib.ExitStack()
        self._program: Program | None = None
        self._cgroup: ProgramCgroup | None = None
        self._thread: threading.Thread | None = None
        self._ended = threading.Event()
        self._final: SandboxReport | None = None
        self._trouble = ""
        self._dispatcher = Dispatcher()

    # -- life ---------------------------------------------------------------------------------------------------

    def __enter__(self) -> Sandbox:
        """Start. Raises UsageError for a program or process that is not there, FailedError if nothing can be paused."""
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _start(self) -> None:
        deputy = self._stack.enter_context(contextlib.ExitStack())
        self._choice = choose(
            self._mode,
            self._cap_cores,
            command=self._command is not None,
            tree=self._tree,
            by_state=self._metric == "state",
        )
        if self._choice.mechanism != "signal":
            self._cgroup = ProgramCgroup(mounts(self._choice))
            self._stack.callback(self._cgroup.remove)
        quota = self._choice.mechanism == "quota"
        bound_ns = QUOTA_BOUND_NS if quota else NS_PER_S
        self._guarded = GuardedLoop(JOURNAL_NAME, bound_ns, self._stack, deputy)
        if self._command is not None:
            self._program = self._run(self._command)
            self._pid = self._program.pid
        assert self._pid is not None
        root = identify(self._pid)
        if root is None and self._program is not None:  # it has ended already
            self._final = SandboxReport(
                self._cap_cores, 0.0, 0.0, 0.0, 0.0, 0.0, 0, "", self._choice.mechanism, self._choice.reason
            )
            self._ended.set()
            return
        if root is None:
            raise UsageError(f"there is no process {self._pid}", hint="name one that is running")
        self._root = root
        try:
            self._pidfd = os.pidfd_open(self._pid)
        except OSError as error:
            raise UsageError(f"process {self._pid} cannot be taken: {error.strerror}") from None
        self._stack.callback(os.close, self._pidfd)
        # A group with a reaper finds its members by itself.
        adopted = self._program is not None and self._program.reaper is not None and lists_children()
        followed = self._tree and self._cgroup is None and not adopted
        self._watch = TreeWatch([(self._pid,)], MEMBERSHIP_NS) if followed else None
        if self._watch is not None:
            self._stack.callback(self._watch.close)
        self._wake_read, self._wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._stack.callback(os.close, self._wake_read)
        self._stack.callback(os.close, self._wake_write)
        self._loop = self._guarded.configure(
            LoopSettings(
                algorithm=self._algorithm(),
                quantum_ns=10 * NS_PER_MS,
                cycle_ns=None,
                cpus=self._cpus,
                max_pause_ns=bound_ns,
                cycle_log=False,
                announce_first_cycle=False,
            )
        )
        self._start_ns = time.monotonic_ns()
        self._before_ns = cpu_ns(self._guarded.guard.pid) + cpu_ns(self._loop.pid)
        self._send_roster()
        self._guarded.channel.flush()
        if self._program is not None:
            self._program.go()
        self._thread = threading.Thread(target=self._steer_to_the_end, name="sandbox", daemon=True)
        self._thread.start()

    def _run(self, command: list[str]) -> Program:
        enter = self._cgroup.enter if self._cgroup is not None else None
        program = Program(command, adopt=self._tree, enter=enter)
        self._stack.callback(program.close)
        return program

    def _algorithm(self) -> Algorithm:
        if self._choice.mechanism == "quota":
            return "quota"
        return "progress" if self._metric == "wait" else "progress-by-state"

    def close(self) -> None:
        """End a command that still runs, let a process that was taken run free, leave nothing behind. Idempotent."""
        if self._program is not None:
            self._program.end()
        self._stop()
        self._stack.close()

    def _stop(self) -> None:
        thread, self._thread = self._thread, None
        if thread is not None:
            self._ended.set()
            self._wake()
            thread.join(ANSWER_S)

    def release(self) -> None:
        """Cap it no longer; a command runs on and can be waited for. Idempotent."""
        self._stop()

    # -- what a caller does -------------------------------------------------------------------------------------

    @property
    def pid(self) -> int:
        """Of the program."""
        assert self._pid is not None
        return self._pid

    def own_pids(self) -> list[int]:
        """The processes that hold it back: guard and loop, and who adopts its orphans."""
        reaper = self._program.reaper if self._program is not None else None
        return [self._guarded.guard.pid, self._loop.pid, *([reaper.pid] if reaper is not None else [])]

    def wait(self, timeout_s: float | None = None) -> int | None:
        """Wait until the program has ended: its exit status (negative: minus the signal; 0 for one that was taken), or
        None if it still runs after ``timeout_s``. Raises FailedError if capping it failed.
        """
        if self._program is not None:
            status = self._program.wait(timeout_s)
        else:
            readable, _, _ = select.select([self._pidfd], [], [], timeout_s)
            status = 0 if readable else None
        if self._trouble:
            raise FailedError(self._trouble, hint="everything it paused was resumed")
        return status

    def set_cap(self, cap_cores: float) -> SandboxReport:
        """Change the cap from now on. Raises UsageError, and FailedError once the program has ended."""
        return self._ask(check_cap(cap_cores))

    def report(self) -> SandboxReport:
        """What the program got so far, or, once it has ended, in all. Raises FailedError if nobody can tell."""
        if self._final is None:
            return self._ask(None)
        cpu_ns = self._program.cpu_ns if self._program is not None else None
        if cpu_ns is None or not self._final.wall_s:
            return self._final
        # Orphans that go on, or that nobody waited for, are in the one figure, and the very last moments in the other.
        cpu_s = max(self._final.cpu_s, cpu_ns / NS_PER_S)
        return replace(self._final, cpu_s=cpu_s, fraction=cpu_s / self._final.wall_s)

    def _ask(self, cap_cores: float | None) -> SandboxReport:
        answer: queue.SimpleQueue[SandboxReport] = queue.SimpleQueue()
        if not self._ended.is_set():
            self._requests.put((cap_cores, answer))
            self._wake()
            with contextlib.suppress(queue.Empty):
                return answer.get(timeout=ANSWER_S)
        if self._final is not None and cap_cores is None:
            return self._final
        raise FailedError(self._trouble or "the program has ended", hint="start it again")

    def _wake(self) -> None:
        with contextlib.suppress(OSError):
            os.write(self._wake_write, b"\0")

    # -- the steering thread ------------------------------------------------------------------------------------

    def _steer_to_the_end(self) -> None:
        try:
            self._final = self._steer()
        except ChannelClosedError:
            self._trouble = "the scheduler loop ended unexpectedly"
        except FailedError as error:
            self._trouble = str(error)
        finally:
            self._ended.set()

    def _steer(self) -> SandboxReport:
        channel = self._guarded.channel
        waiting: list[queue.SimpleQueue[SandboxReport]] = []
        membership_ns = time.monotonic_ns() + MEMBERSHIP_NS
        stopping = False
        while True:
            now_ns = time.monotonic_ns()
            if not stopping and (self._ended.is_set() or self._has_ended()):
                channel.send({"op": "stop"})
                stopping = True
            changed = self._watch is not None and not stopping and self._watch.look(now_ns)
            if (changed or now_ns >= membership_ns) and not stopping:
                membership_ns = now_ns + MEMBERSHIP_NS
                self._send_roster()
            for cap_cores, answer in self._requested():
                if cap_cores is not None and not stopping:
                    self._cap_cores = cap_cores
                    self._send_roster()
                waiting.append(answer)
                if not stopping:  # the last report answers, too; what a loop that ends has not read resets the channel
                    channel.send({"op": "report"})
            fds, due_ns = self._watch.wait_for(now_ns) if self._watch is not None else ([], membership_ns)
            wait_s: float | None = max(0.0, (min(membership_ns, due_ns) - now_ns) / NS_PER_S)
            if self._watch is None and self._dispatcher.sent is not None:
                wait_s = None  # who belongs to it is not our business
            others = [] if stopping else [*fds, self._wake_read, self._pidfd]
            for message in messages(channel, ANSWER_S if stopping else wait_s, others):
                if message["op"] in ("gone", "resend"):
                    self._dispatcher.forget()
                    membership_ns = min(membership_ns, now_ns + RESEND_NS)
                elif message["op"] in ("report", "final"):
                    report = self._report(LoopReport.from_json(message["report"]))
                    for answer in waiting:
                        answer.put(report)
                    waiting = []
                    if message["op"] == "final":
                        return report

    def _has_ended(self) -> bool:
        readable, _, _ = select.select([self._pidfd], [], [], 0)
        return bool(readable)

    def _requested(self) -> list[tuple[float | None, queue.SimpleQueue[SandboxReport]]]:
        with contextlib.suppress(BlockingIOError):
            os.read(self._wake_read, 4096)
        found = []
        with contextlib.suppress(queue.Empty):
            while True:
                found.append(self._requests.get_nowait())
        return found

    def _send_roster(self) -> None:
        order = self._order()
        if order is None:
            return  # all have ended; what they have used is told at the end
        message = self._dispatcher.message(0, 1, (order,))
        if message is not None:
            self._guarded.channel.send(message)

    def _order(self) -> PrincipalOrder | None:
        if self._cgroup is not None:
            folders = tuple(map(str, self._cgroup.folders))
            return PrincipalOrder(NAME, 1.0, 1, cap_cores=self._cap_cores, cgroups=folders)
        processes: tuple[tuple[int, int], ...] = ((self._root.pid, self._root.start_ticks),)
        threads = _threads(self._root.pid)
        if self._watch is not None:
            processes = self._watch.trees.members(0)
            threads = self._watch.trees.threads(0)
        if not processes:
            return None
        reaper = self._program.reaper if self._program is not None else None
        return PrincipalOrder(
            NAME,
            1.0,
            max(1, min(threads, len(self._cpus))),
            cap_cores=self._cap_cores,
            processes=processes,
            family=self._tree,
            reaper=(reaper.pid, reaper.start_ticks) if reaper is not None else None,
        )

    def _count(self) -> int:
        if self._cgroup is not None:
            return max(0, self._cgroup.count() - 1)  # its reaper is none of its own
        if identify(self._root.pid) != self._root:
            return 0
        return len(family(self._root.pid)) if self._tree else 1

    def _report(self, loop: LoopReport) -> SandboxReport:
        wall_s = (time.monotonic_ns() - self._start_ns) / NS_PER_S
        found = loop.principals.get(NAME)
        cpu_s = found.cpu_ns / NS_PER_S if found is not None else 0.0
        return SandboxReport(
            cap_cores=self._cap_cores,
            wall_s=wall_s,
            cpu_s=cpu_s,
            paused_s=found.paused_ns / NS_PER_S if found is not None else 0.0,
            fraction=cpu_s / wall_s if wall_s > 0 else 0.0,
            own_cpu_s=(cpu_ns(self._guarded.guard.pid) + loop.overhead_ns) / NS_PER_S + time.thread_time(),
            processes=self._count(),
            problem=found.problem if found is not None else "",
            mechanism=self._choice.mechanism,
            reason=self._choice.reason,
        )


def check_cap(cap_cores: float) -> float:
    """Return a cap that can be. Raises UsageError."""
    if not LEAST_CAP <= cap_cores <= MAX_CORES:
        raise UsageError(f"a cap of {100 * cap_cores:g} % is out of range", hint="use 0.1% to 100% for each core")
    return cap_cores


def _threads(pid: int) -> int:
    try:
        return len(os.listdir(f"/proc/{pid}/task"))  # noqa: PTH208 - a Path costs more
    except OSError:
        return 1
