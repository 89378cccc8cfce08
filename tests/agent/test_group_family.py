"""A group that is one process and all that descend from it, on real processes."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.processes import is_stopped, wait_until
from utilctl_agent.host.children import children, family, lists_children
from utilctl_agent.host.family import FamilyGroup
from utilctl_agent.host.procstat import TICK_NS, identify
from utilctl_agent.program import Program
from utilctl_agent.safety.journal import Journal
from utilctl_common.errors import UsageError
from utilctl_common.quantities import NS_PER_MS, NS_PER_S

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(not lists_children(), reason="this kernel does not list children"),
]

SHORT_LIVED = """
import os, time
end = time.monotonic() + {seconds}
while time.monotonic() < end:
    child = os.fork()
    if child == 0:
        if {orphans} and os.fork():
            os._exit(0)
        began = time.process_time()
        while time.process_time() - began < 0.005: pass
        os._exit(0)
    os.waitpid(child, 0)
    if {orphans}: time.sleep(0.006)
time.sleep({rest})
"""
SLEEPERS = "sleep 60 & sleep 60 & wait"


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    made = Journal.create(str(tmp_path / "j"), slots=64)
    yield made
    made.close(unlink=True)


@contextlib.contextmanager
def program(*argv: str) -> Iterator[Program]:
    made = Program(argv, adopt=True)
    everybody: set[int] = set()
    try:
        made.go()
        yield made
    finally:
        if made.wait(0) is None:
            everybody = family(made.pid)
        for pid in everybody:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        made.end()
        made.close()


def opened(made: Program, journal: Journal) -> FamilyGroup:
    root = identify(made.pid)
    assert root is not None
    return FamilyGroup([root], journal, reaper=made.reaper)


@pytest.mark.parametrize("orphans", [False, True])
@pytest.mark.parametrize("pace_s", [0.002, 0.05])
def test_children_that_come_and_go_between_two_looks_are_counted(
    journal: Journal, *, orphans: bool, pace_s: float
) -> None:
    script = SHORT_LIVED.format(seconds=1.0, orphans=orphans, rest=0)
    with program(sys.executable, "-S", "-c", script) as made:
        group = opened(made, journal)
        before_ns = group.read().cpu_ns
        while made.wait(pace_s) is None:
            group.read()
        counted_ns = group.read().cpu_ns - before_ns
        group.close()
        assert made.cpu_ns is not None
        # The interpreter's start was before the group.
        assert made.cpu_ns - 60 * NS_PER_MS - 3 * TICK_NS <= counted_ns <= made.cpu_ns + 3 * TICK_NS
        assert counted_ns > NS_PER_S // 20


def test_a_pause_stops_everybody_and_who_is_resumed_was_stopped_by_us(journal: Journal) -> None:
    with program("sh", "-c", SLEEPERS) as made:
        wait_until(lambda: len(family(made.pid)) == 3, "both children run")
        group = opened(made, journal)
        group.pause()  # nobody has told it of the children
        everybody = family(made.pid)
        for pid in everybody:
            wait_until(lambda pid=pid: is_stopped(pid), "it is stopped")  # type: ignore[misc]
        group.resume()
        for pid in everybody:
            wait_until(lambda pid=pid: not is_stopped(pid), "it runs on")  # type: ignore[misc]
        group.close()


@pytest.mark.parametrize("who", ["root", "child"])
def test_who_was_stopped_by_somebody_else_stays_stopped(journal: Journal, who: str) -> None:
    with program("sh", "-c", SLEEPERS) as made:
        wait_until(lambda: len(family(made.pid)) == 3, "both children run")
        group = opened(made, journal)
        group.read()
        stopped = made.pid if who == "root" else min(children(made.pid))
        os.kill(stopped, signal.SIGSTOP)
        wait_until(lambda: is_stopped(stopped), "it is stopped")
        others = family(made.pid) - {stopped}
        for _ in range(3):
            group.pause()
            for pid in others:
                wait_until(lambda pid=pid: is_stopped(pid), "it is stopped, too")  # type: ignore[misc]
            group.resume()
            for pid in others:
                wait_until(lambda pid=pid: not is_stopped(pid), "it runs on")  # type: ignore[misc]
            assert is_stopped(stopped)
        group.close()
        assert is_stopped(stopped)


def test_a_program_that_is_not_let_go_never_begins(tmp_path: Path) -> None:
    made = Program(["touch", str(tmp_path / "began")], adopt=True)
    made.end()
    made.close()
    assert not (tmp_path / "began").exists()


def test_a_program_that_is_not_there_is_told_apart_from_one_that_fails() -> None:
    made = Program(["/nonexistent"], adopt=True)
    try:
        with pytest.raises(UsageError, match="there is no program"):
            made.go()
    finally:
        made.end()
        made.close()
    with program("sh", "-c", "exit 127") as other:
        assert other.wait(10) == 127


def test_orphans_are_adopted_and_what_the_caller_waits_for_is_not_the_programs() -> None:
    with program("sh", "-c", "(sleep 60 & ) ; sleep 60") as made:
        assert made.reaper is not None
        reaper = made.reaper.pid
        wait_until(lambda: len(children(reaper, 1)) == 2, "the orphan is the reaper's")
        subprocess.run([sys.executable, "-S", "-c", "sum(range(2_000_000))"], check=True)
        for pid in children(reaper, 1):
            if pid != made.pid:
                os.kill(pid, signal.SIGKILL)
        wait_until(lambda: children(reaper, 1) == [made.pid], "the orphan is reaped")
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime > 0
    assert made.cpu_ns is not None
    assert made.cpu_ns < 40 * NS_PER_MS
