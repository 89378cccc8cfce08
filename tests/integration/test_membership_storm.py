"""Membership under storms of forks and exits, on the real kernel: nobody escapes, nobody is left behind."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from support.commands import UTILCTL, Command
from support.driven import Driven
from support.fork_bomb import FORK_BOMB
from support.processes import is_stopped, wait_until
from utilctl_agent.discovery.tree_watch import TreeWatch
from utilctl_agent.dispatch import Dispatcher
from utilctl_agent.host.processes import ProcessGroup
from utilctl_agent.host.procstat import ProcessId
from utilctl_agent.link.membership import MembershipScanner
from utilctl_agent.link.watch import MembershipWatch
from utilctl_agent.orders import PrincipalOrder
from utilctl_agent.safety.journal import Journal
from utilctl_common.matchers import parse_matchers
from utilctl_common.policy import SeePolicy
from utilctl_common.quantities import NS_PER_MS, NS_PER_S

pytestmark = [pytest.mark.kernel, pytest.mark.quiet]

SIZE, RATE = 1000, 200
STORM = Path(__file__).parents[1] / "support" / "storm.py"
MARK = "UTILCTL_STORM_TEST"


@contextlib.contextmanager
def started(argv: Sequence[str], *, cpu: int = 0) -> Iterator[subprocess.Popen[str]]:
    """A program on one CPU that has said its first line; it and all that it started are gone afterwards."""
    token = uuid.uuid4().hex
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cpu})
    try:
        process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env={**os.environ, MARK: token})
    finally:
        os.sched_setaffinity(0, before)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
        while left := marked(token):
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.005)


def marked(token: str) -> list[int]:
    """Processes that inherited the token, wherever they were reparented to."""
    found: list[int] = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                if f"{MARK}={token}".encode() in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
    return found


def storm(spinners: int = 2) -> contextlib.AbstractContextManager[subprocess.Popen[str]]:
    return started([sys.executable, "-S", "-E", str(STORM), str(SIZE), str(RATE), str(spinners), "60"])


def spinner() -> contextlib.AbstractContextManager[subprocess.Popen[str]]:
    return started([sys.executable, "-S", "-c", "print(flush=True)\nfor _ in range(1 << 40): pass"])


def family(root: int) -> set[int]:
    """The live processes that descend from ``root``, by a look at all of /proc."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                fields = (entry / "stat").read_bytes().rpartition(b")")[2].split()
                if fields[0] not in (b"Z", b"X"):
                    parents[int(entry.name)] = int(fields[1])
    found = {root}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def test_a_thousand_processes_that_fork_and_exit_200_times_a_second_stay_controlled(tmp_path: Path) -> None:
    # Stopping a thousand processes one by one takes some 20 to 50 ms, so a cycle has to be longer.
    driven = Driven(tmp_path, slots=4 * SIZE, cpus=(0,), cycle_ns=300 * NS_PER_MS)
    slots = len(driven.journal._free)
    dispatcher = Dispatcher()
    most_paused = 0
    with contextlib.ExitStack() as stack:
        stormy, rival = stack.enter_context(storm()), stack.enter_context(spinner())
        w = stack.enter_context(contextlib.closing(TreeWatch([[stormy.pid], [rival.pid]], NS_PER_S)))

        def orders() -> tuple[PrincipalOrder, ...]:
            return tuple(
                PrincipalOrder(name, share, 1, processes=w.trees.members(tree))
                for tree, (name, share) in enumerate((("storm", 1.0), ("rival", 2.0)))
            )

        def tell() -> None:
            if (message := dispatcher.message(1, 1, orders())) is not None:
                driven.loop.obey(json.loads(json.dumps(message)), time.monotonic_ns())

        tell()
        end = time.monotonic() + 6
        while time.monotonic() < end:
            if w.look(time.monotonic_ns()):
                tell()
            wake_ns = driven.loop.wake(time.monotonic_ns())
            most_paused = max(most_paused, len(driven.journal.in_force()))
            time.sleep(max(0, min(wake_ns - time.monotonic_ns(), 2 * NS_PER_MS)) / NS_PER_S)
        principals = driven.report().principals
        # Nothing changes from here on, so that the two views can be compared.
        os.kill(stormy.pid, signal.SIGSTOP)
        wait_until(lambda: is_stopped(stormy.pid), "the storm stands still")
        group = driven.loop._engine.group("storm")
        assert isinstance(group, ProcessGroup)

        def settled() -> bool:
            w.look(time.monotonic_ns())
            tell()
            driven.loop.wake(time.monotonic_ns())
            return {process.pid for process in group.processes} == family(stormy.pid)

        wait_until(settled, "exactly the storm's processes are under control")
        assert len(group.processes) > SIZE
        assert len(driven.journal._free) == slots - len(group.processes) - 1, "a slot for every member, none for others"
        driven.end()
        os.kill(stormy.pid, signal.SIGCONT)
        wait_until(lambda: not any(is_stopped(pid) for pid in family(stormy.pid)), "everybody runs")
    assert most_paused > 0.9 * SIZE, "the whole group was held back"
    split = principals["storm"].cpu_ns / sum(report.cpu_ns for report in principals.values())
    assert 0.2 < split < 0.47, "a third is its share"
    assert principals["storm"].problem == ""


def test_the_command_controls_a_storm_by_signals_and_leaves_nobody_stopped() -> None:
    with storm() as stormy, spinner() as rival:
        arguments = ["alps", "--pids", f"1:{stormy.pid}", "--pids", f"2:{rival.pid}", "--cpus", "0", "--duration", "6s"]
        with Command([*UTILCTL, *arguments, "-o", "json"]) as command:
            outcome = command.wait()
            command.assert_nothing_left()
        assert outcome.code == 0, outcome.stderr
        wait_until(lambda: not any(is_stopped(pid) for pid in family(stormy.pid)), "everybody runs")
        assert stormy.poll() is None
    result = json.loads(outcome.stdout)
    assert result["mechanism"] == "signal"
    assert 0.2 < result["principals"][0]["fraction"] < 0.47


def test_a_fork_bomb_stalls_neither_the_loop_nor_what_it_controls_besides() -> None:
    # A loop that hung while pauses are in force would be ended by its guard, and the command would fail.
    with started([sys.executable, "-S", "-c", FORK_BOMB]) as bomb, spinner() as rival:
        arguments = ["alps", "--pids", f"1:{bomb.pid}", "--pids", f"2:{rival.pid}", "--cpus", "0", "--duration", "5s"]
        with Command([*UTILCTL, *arguments, "-o", "json"]) as command:
            outcome = command.wait()
            command.assert_nothing_left()
    assert outcome.code == 0, outcome.stderr
    result = json.loads(outcome.stdout)
    assert result["cycles"] > 10
    assert result["principals"][1]["fraction"] > 0.2


def test_a_fork_bomb_does_not_stall_the_link_and_is_known_to_the_last_process() -> None:
    marker = uuid.uuid4().hex
    policies = (SeePolicy("svc=bomb", 1.0, matchers=parse_matchers([f"cmdline={marker}"])),)
    scanner = MembershipScanner(None, frozenset({os.getpid()}), NS_PER_S)
    sizes: list[int] = []
    ticks = 0

    def count() -> int:
        found = scanner.members.get("svc=bomb")
        return len(found.processes) if found is not None else 0

    async def watch() -> None:
        nonlocal ticks
        task = asyncio.create_task(MembershipWatch(scanner, lambda: policies, lambda: sizes.append(count())).run())
        try:
            with started([sys.executable, "-S", "-c", FORK_BOMB, marker]):
                end = time.monotonic() + 4
                while time.monotonic() < end:
                    await asyncio.sleep(0.01)
                    ticks += 1
            deadline = time.monotonic() + 20
            while count() and time.monotonic() < deadline:  # noqa: ASYNC110 - the watch tells of changes, not of silence
                await asyncio.sleep(0.01)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    asyncio.run(watch())
    assert max(sizes) > 100
    assert count() == 0, "all that ended are known to have ended"
    assert ticks > 40, "the session had its turn all the time"


def test_the_slots_of_a_journal_outlast_any_number_of_short_lived_members(tmp_path: Path) -> None:
    journal = Journal.create(str(tmp_path / "journal"), slots=8)
    with spinner() as keeper:
        group = ProcessGroup([identified(keeper.pid)], journal)
        group.pause()
        for _ in range(40):
            brief = [subprocess.Popen(["sleep", "60"]) for _ in range(3)]
            members = [identified(process.pid) for process in brief]
            group.amend(members, [])
            for process in brief:
                process.kill()
                process.wait()
            group.amend([], members)
        assert len(journal._free) == 7
        assert group.refusal == ""
        group.close()
    journal.close()


def identified(pid: int) -> ProcessId:
    stat = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    return ProcessId(pid, int(stat[19]))
