"""The guard's deputy: what it undoes when loop and guard cannot, on real processes, watched from outside."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.guarded import GuardedLoop, Subject, subject, time_until_resumed
from support.processes import WAIT_S, is_stopped, wait_until
from utilctl_agent.safety.journal import HANG_NS
from utilctl_common.quantities import NS_PER_MS, NS_PER_S

pytestmark = pytest.mark.kernel

GENEROUS_NS = NS_PER_S
"""Bound of the assertions; four times the promise."""


@pytest.fixture
def held() -> Iterator[list[Subject]]:
    """Two principals of loose processes; one has two."""
    with subject("a", "signal", count=2) as first, subject("b", "signal", count=1) as second:
        yield [first, second]


@contextlib.contextmanager
def controlling(run_dir: Path, held: list[Subject]) -> Iterator[GuardedLoop]:
    """Guard, loop and deputy with everything under control and paused for most of the time."""
    with GuardedLoop(run_dir) as guarded, guarded.deputy():
        guarded.control([one.order() for one in held])
        wait_until(lambda: all(one.all_paused() for one in held), "everything is paused at once")
        yield guarded


def kill_both(guarded: GuardedLoop) -> None:
    guarded.signal_loop(signal.SIGKILL)
    guarded.guard.kill()


def kill_the_loop(guarded: GuardedLoop) -> None:
    guarded.signal_loop(signal.SIGKILL)


def kill_the_guard(guarded: GuardedLoop) -> None:
    guarded.guard.kill()


def do_nothing(_guarded: GuardedLoop) -> None:
    """The loop stays as stopped as the guard is."""


@pytest.mark.parametrize("fault", [kill_both, kill_the_loop, kill_the_guard, do_nothing])
def test_with_guard_and_loop_stopped_or_killed_the_deputy_resumes_everything(
    tmp_path: Path, held: list[Subject], fault: Callable[[GuardedLoop], None]
) -> None:
    with controlling(tmp_path, held) as guarded:
        guarded.stop_guard()
        stopped_ns = guarded.stop_loop_while_paused(held)
        fault(guarded)
        took_ns = time_until_resumed(held, stopped_ns)
        print(f"resumed after {took_ns / NS_PER_MS:.1f} ms (promised: 250 ms)")
        assert took_ns < GENEROUS_NS
        wait_until(guarded.loop_ended, "the loop is gone: it must not come back and pause again")
        with contextlib.closing(guarded.journal()) as journal:
            wait_until(lambda: not journal.any_in_force(), "the journal says so, too")
    assert not any(one.any_paused() for one in held)


def test_a_deputy_sees_a_loop_off_that_does_not_end(tmp_path: Path, held: list[Subject]) -> None:
    with GuardedLoop(tmp_path) as guarded:
        with guarded.deputy():
            guarded.control([one.order() for one in held])
            guarded.stop_guard()
            guarded.stop_loop_while_paused(held)
        assert guarded.loop_ended()
        assert not any(one.any_paused() for one in held)


def test_a_loop_that_was_stopped_for_less_than_the_bound_is_left_alone(tmp_path: Path, held: list[Subject]) -> None:
    with controlling(tmp_path, held) as guarded:
        guarded.stop_guard()
        for _ in range(5):
            guarded.signal_loop(signal.SIGSTOP)
            wait_until(lambda: is_stopped(guarded.loop_pid), "the loop stops")
            guarded.signal_loop(signal.SIGCONT)
            time.sleep(HANG_NS / 8 / NS_PER_S)
        assert not guarded.loop_ended()
        wait_until(lambda: all(one.all_paused() for one in held), "it goes on pausing")


def test_a_deputy_sleeps_as_long_as_the_loop_lives(tmp_path: Path, held: list[Subject]) -> None:
    with controlling(tmp_path, held) as guarded:
        (thread,) = [thread for thread in threading.enumerate() if thread.name == "deputy"]
        status = Path(f"/proc/{os.getpid()}/task/{thread.native_id}/status")
        # A wake-up under load, when the loop is late, is no fault: there must be a second without any.
        deadline = time.monotonic() + WAIT_S
        while time.monotonic() < deadline:
            before = status.read_text().partition("voluntary_ctxt_switches:")[2]
            time.sleep(1.0)
            if status.read_text().partition("voluntary_ctxt_switches:")[2] == before:
                break
        else:
            raise AssertionError("the deputy wakes up all the time")
        assert guarded.report().wakeups > 0
