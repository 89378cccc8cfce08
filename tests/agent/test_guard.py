"""The safety promise on real processes: whoever of guard and loop dies or hangs, nothing stays paused.

Everything is watched from outside, in /proc and in cgroup.events. The promise is 250 ms; a shared test machine may
itself be late, so the assertions allow a second and say the figure.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from support.guarded import GuardedLoop, Mechanism, Subject, subject, time_until_resumed
from support.processes import WAIT_S, is_stopped, spinning, temporary_cgroup, wait_until
from support.unprivileged import as_nobody, can_become_nobody, give_to_nobody
from utilctl_agent.host.alarm import Alarm
from utilctl_agent.host.freezer_v1 import freezer_v1_refusal
from utilctl_agent.host.weights import weight_mount, weight_refusal
from utilctl_agent.orders import LoopReport, PrincipalOrder
from utilctl_agent.safety.thaw import Thawed, thaw_run_dir
from utilctl_common.quantities import NS_PER_MS, NS_PER_S

pytestmark = pytest.mark.kernel

GENEROUS_NS = NS_PER_S
"""Bound of the assertions; four times the promise."""


class Variant(NamedTuple):
    """How things are paused, and by whom."""

    mechanism: Mechanism
    unprivileged: bool


VARIANTS = [
    pytest.param(
        Variant("freezer", unprivileged=False),
        id="freezer-root",
        marks=[pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root: cgroups are made")],
    ),
    pytest.param(
        Variant("freezer-v1", unprivileged=False),
        id="freezer-v1-root",
        marks=[
            pytest.mark.root,
            pytest.mark.skipif(
                os.geteuid() != 0 or freezer_v1_refusal() is not None, reason="needs root and the v1 freezer"
            ),
        ],
    ),
    pytest.param(Variant("signal", unprivileged=False), id="signal-self"),
    pytest.param(
        Variant("signal", unprivileged=True),
        id="signal-nobody",
        marks=[pytest.mark.root, pytest.mark.skipif(not can_become_nobody(), reason="needs root and setpriv")],
    ),
]


@pytest.fixture(params=VARIANTS)
def variant(request: pytest.FixtureRequest) -> Variant:
    """Every mechanism, with and without privilege."""
    chosen: Variant = request.param
    return chosen


@pytest.fixture
def run_dir(tmp_path: Path, variant: Variant) -> Path:
    """A run directory that belongs to the guard's user."""
    folder = tmp_path / "run"
    return give_to_nobody(folder) if variant.unprivileged else folder


@pytest.fixture
def held(variant: Variant) -> Iterator[list[Subject]]:
    """Two principals with three processes between them."""
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(subject(name, variant.mechanism, count=count, unprivileged=variant.unprivileged))
            for name, count in (("a", 2), ("b", 1))
        ]


@contextlib.contextmanager
def controlling(run_dir: Path, held: list[Subject], variant: Variant) -> Iterator[GuardedLoop]:
    """Guard and loop with everything under control and paused for most of the time."""
    with GuardedLoop(run_dir, unprivileged=variant.unprivileged) as guarded:
        guarded.control([one.order() for one in held])
        wait_until(lambda: all(one.all_paused() for one in held), "everything is paused at once")
        yield guarded


def assert_in_time(took_ns: int, what: str) -> None:
    """Within the generous bound; the message has the figure and the promise."""
    took = f"{what}: resumed after {took_ns / NS_PER_MS:.1f} ms (promised: 250 ms, asserted: {GENEROUS_NS / 1e6:g} ms)"
    print(took)
    assert took_ns < GENEROUS_NS, took


def assert_stays_resumed(held: list[Subject]) -> None:
    """Nobody pauses anything any more."""
    for _ in range(10):
        assert not any(one.any_paused() for one in held)
        time.sleep(0.005)


def test_a_loop_that_is_killed_leaves_nothing_paused(run_dir: Path, held: list[Subject], variant: Variant) -> None:
    with controlling(run_dir, held, variant) as guarded:
        stopped_ns = guarded.stop_loop_while_paused(held)
        guarded.signal_loop(signal.SIGKILL)
        assert_in_time(time_until_resumed(held, stopped_ns), "loop killed")
        status, said = guarded.end()
        assert status != 0
        assert "Traceback" not in said
        assert_stays_resumed(held)
        assert not list(run_dir.iterdir()), "an empty journal is removed"


def test_a_loop_that_hangs_is_overruled_within_the_bound(run_dir: Path, held: list[Subject], variant: Variant) -> None:
    with controlling(run_dir, held, variant) as guarded:
        stopped_ns = guarded.stop_loop_while_paused(held)
        assert_in_time(time_until_resumed(held, stopped_ns), "loop hung")
        status, said = guarded.end()
        assert (status, said) == (1, "utilctl-guard: the loop hangs; everything is resumed\n")
        assert guarded.loop_ended(), "the hung loop must not come back and pause again"
        assert_stays_resumed(held)
        assert not list(run_dir.iterdir())


def test_a_guard_that_is_killed_takes_the_loop_with_it_and_nothing_stays_paused(
    run_dir: Path, held: list[Subject], variant: Variant
) -> None:
    with controlling(run_dir, held, variant) as guarded:
        guarded.guard.kill()
        killed_ns = time.monotonic_ns()
        wait_until(guarded.loop_ended, "the loop ends")
        assert_in_time(time_until_resumed(held, killed_ns), "guard killed")
        assert guarded.end()[0] == -signal.SIGKILL
        assert_stays_resumed(held)
        # The dead guard could not remove its journal; nothing is in force in it.
        assert [entry.name for entry in run_dir.iterdir()] == [guarded.journal_path.name]
        assert thaw_run_dir(str(run_dir), only_orphans=True) == Thawed()
        assert not list(run_dir.iterdir())


@contextlib.contextmanager
def killed_all_at_once(run_dir: Path, held: list[Subject], variant: Variant) -> Iterator[GuardedLoop]:
    """Nobody was left to resume anything, and nothing did."""
    with controlling(run_dir, held, variant) as guarded:
        guarded.guard.send_signal(signal.SIGSTOP)
        wait_until(lambda: is_stopped(guarded.guard.pid), "the guard stops")
        guarded.stop_loop_while_paused(held)
        guarded.signal_loop(signal.SIGKILL)
        guarded.guard.kill()
        guarded.guard.wait(WAIT_S)
        assert all(one.all_paused() for one in held), "else this test shows nothing"
        yield guarded


def test_after_all_were_killed_at_once_the_next_start_resumes_everything(
    run_dir: Path, held: list[Subject], variant: Variant
) -> None:
    with killed_all_at_once(run_dir, held, variant) as dead:
        assert dead.journal_path.exists()
        with GuardedLoop(run_dir, unprivileged=variant.unprivileged) as fresh:
            assert not any(one.any_paused() for one in held), "it is ready only after what was left is undone"
            assert [entry.name for entry in run_dir.iterdir()] == [fresh.journal_path.name]
            fresh.control([one.order() for one in held])
            wait_until(lambda: all(one.all_paused() for one in held), "the new loop holds them again")
        assert not any(one.any_paused() for one in held)


def test_after_all_were_killed_at_once_thaw_resumes_everything_with_no_agent_alive(
    run_dir: Path, held: list[Subject], variant: Variant
) -> None:
    with killed_all_at_once(run_dir, held, variant):
        argv = [sys.executable, "-m", "utilctl_cli.main", "thaw", "--all", "--run-dir", str(run_dir)]
        ran = subprocess.run(
            as_nobody(argv) if variant.unprivileged else argv,
            capture_output=True, text=True, timeout=60, cwd="/", start_new_session=True,
        )  # fmt: skip
        resumed = 3 if variant.mechanism == "signal" else 2
        assert (ran.returncode, ran.stderr) == (0, "")
        assert ran.stdout == f"{resumed} resumed, 0 gone already, 0 failed\n"
        wait_until(lambda: not any(one.any_paused() for one in held), "everything is resumed")
        assert not list(run_dir.iterdir())


def assert_stops_cleanly(guarded: GuardedLoop, held: list[Subject], number: signal.Signals) -> None:
    """The guard ends by ``number`` with 0, and with everything resumed and reported before."""
    guarded.guard.send_signal(number)
    assert guarded.end() == (0, "")
    assert not any(one.any_paused() for one in held), "resumed before the guard ends"
    assert guarded.loop_ended()
    messages = guarded.wait_for_end_of_stream()
    (final,) = [LoopReport.from_json(message["report"]) for message in messages if message["op"] == "final"]
    assert {name: report.problem for name, report in final.principals.items()} == {one.name: "" for one in held}
    assert all(report.paused_ns > 0 for report in final.principals.values())
    assert_stays_resumed(held)
    assert not list(guarded.run_dir.iterdir())


def test_a_stop_resumes_everything_and_exits_with_0(run_dir: Path, held: list[Subject], variant: Variant) -> None:
    with controlling(run_dir, held, variant) as guarded:
        assert_stops_cleanly(guarded, held, signal.SIGTERM)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_ctrl_c_and_a_closed_terminal_stop_it_as_cleanly(tmp_path: Path, number: signal.Signals) -> None:
    variant = Variant("signal", unprivileged=False)
    with subject("a", variant.mechanism) as one, controlling(tmp_path, [one], variant) as guarded:
        assert_stops_cleanly(guarded, [one], number)


def test_a_closed_control_socket_ends_loop_and_guard_with_everything_resumed(
    run_dir: Path, held: list[Subject], variant: Variant
) -> None:
    with controlling(run_dir, held, variant) as guarded:
        guarded.channel.close()
        assert guarded.end() == (0, "")
        assert not any(one.any_paused() for one in held)
        assert_stays_resumed(held)
        assert not list(run_dir.iterdir())


def test_no_pause_outlasts_max_pause_whatever_the_shares_say(
    run_dir: Path, held: list[Subject], variant: Variant
) -> None:
    max_pause_ns = 300 * NS_PER_MS
    with GuardedLoop(run_dir, unprivileged=variant.unprivileged, max_pause_ns=max_pause_ns) as guarded:
        guarded.control([one.order(cap_cores=0.0002) for one in held])
        journal = guarded.journal()
        try:
            seen_since_ns: set[int] = set()
            oldest_ns = 0
            deadline = time.monotonic() + 1.0
            while time.monotonic() < deadline:
                for _, pause in journal.in_force():
                    seen_since_ns.add(pause.since_ns)
                    oldest_ns = max(oldest_ns, time.monotonic_ns() - pause.since_ns)
                time.sleep(0.002)
        finally:
            journal.close()
        assert guarded.guard.poll() is None, guarded.end()
    assert len(seen_since_ns) >= 2 * len(held), "each was let go and paused again"
    assert oldest_ns < max_pause_ns + GENEROUS_NS, f"a pause of {oldest_ns / NS_PER_MS:.0f} ms"


@pytest.mark.parametrize("stopping", [False, True])
def test_a_loop_that_beats_and_never_resumes_is_overruled(tmp_path: Path, stopping: bool) -> None:
    with spinning(1) as (process,):
        environment = {
            **os.environ,
            "PYTHONPATH": str(Path(__file__).parents[1]),
            "STUCK_PID": str(process.pid),
            "STUCK_START_TICKS": str(process.start_ticks),
        }
        longest_ns = 60 * NS_PER_S if stopping else 300 * NS_PER_MS
        with open(os.devnull) as control, contextlib.closing(Alarm()) as alarm:  # noqa: PTH123 - a descriptor to pass on
            fds = (control.fileno(), alarm.fileno())
            arguments = [str(tmp_path), "stuck", *map(str, fds), str(longest_ns)]
            guard = subprocess.Popen(
                [sys.executable, "-m", "support.stuck_loop", *arguments],
                pass_fds=fds,
                env=environment,
                start_new_session=True,
                stderr=subprocess.PIPE,
                text=True,
            )
        try:
            wait_until(lambda: is_stopped(process.pid), "the stand-in pauses it")
            since_ns = time.monotonic_ns()
            if stopping:  # a loop that ignores SIGTERM does not keep the guard from stopping
                guard.send_signal(signal.SIGTERM)
            wait_until(lambda: not is_stopped(process.pid), "the guard resumes it")
            assert_in_time(time.monotonic_ns() - since_ns - (0 if stopping else longest_ns), "pause overdue")
            assert guard.wait(WAIT_S) == (0 if stopping else 1)
            assert not is_stopped(process.pid)
        finally:
            guard.terminate()
            guard.communicate(timeout=WAIT_S)
    assert not list(tmp_path.iterdir())


def test_what_a_user_stopped_by_hand_stays_stopped_to_the_end(tmp_path: Path) -> None:
    with subject("a", "signal", count=1) as by_hand, subject("b", "signal", count=1) as ours:
        pid = by_hand.processes[0].pid
        os.kill(pid, signal.SIGSTOP)
        wait_until(lambda: is_stopped(pid), "it stops")
        with GuardedLoop(tmp_path) as guarded:
            guarded.control([by_hand.order(), ours.order()])
            wait_until(ours.any_paused, "ours is paused")
            time.sleep(0.3)
            assert is_stopped(pid)
            guarded.guard.terminate()
            assert guarded.end() == (0, "")
        assert not ours.any_paused()
        assert is_stopped(pid)


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: cgroups are made")
def test_a_cgroup_that_a_user_froze_stays_frozen_to_the_end(tmp_path: Path) -> None:
    with temporary_cgroup() as cgroup, spinning(1, cgroup=cgroup) as processes:
        (cgroup / "cgroup.freeze").write_text("1")
        frozen = Subject("a", tuple(processes), cgroup)
        wait_until(frozen.all_paused, "it freezes")
        with GuardedLoop(tmp_path) as guarded:
            guarded.control([frozen.order()])
            time.sleep(0.3)
            guarded.guard.terminate()
            assert guarded.end() == (0, "")
        assert frozen.all_paused()


@contextlib.contextmanager
def weighing(run_dir: Path) -> Iterator[tuple[GuardedLoop, list[Path]]]:
    """Guard and loop with two weighed cgroups, and the knobs, which no longer say what they said."""
    refusal = weight_refusal()
    if os.geteuid() != 0 or refusal is not None:
        pytest.skip(refusal or "needs root: cgroups are made")
    with contextlib.ExitStack() as stack:
        cgroups = [stack.enter_context(temporary_cgroup(weight_mount())) for _ in range(2)]
        knobs = [next(c / name for name in ("cpu.weight", "cpu.shares") if (c / name).exists()) for c in cgroups]
        for cgroup in cgroups:
            stack.enter_context(spinning(1, cgroup=cgroup, cpu=0))
        guarded = stack.enter_context(GuardedLoop(run_dir))
        found = [knob.read_text() for knob in knobs]
        guarded.control(
            [
                PrincipalOrder(f"w{index}", share, 1, cgroups=(str(cgroup),), weight=True)
                for index, (share, cgroup) in enumerate(zip((1.0, 3.0), cgroups, strict=True))
            ]
        )
        wait_until(lambda: all(k.read_text() != f for k, f in zip(knobs, found, strict=True)), "weights are moved")
        yield guarded, knobs


def usual(knobs: list[Path]) -> bool:
    """Whether all weights are as nobody set them."""
    return all(knob.read_text().strip() == ("100" if knob.name == "cpu.weight" else "1024") for knob in knobs)


@pytest.mark.root
def test_weights_are_put_back_when_it_is_stopped(tmp_path: Path) -> None:
    with weighing(tmp_path) as (guarded, knobs):
        guarded.guard.terminate()
        assert guarded.end() == (0, "")
        assert usual(knobs)
    assert not list(tmp_path.iterdir())


@pytest.mark.root
def test_weights_are_put_back_when_the_loop_is_killed(tmp_path: Path) -> None:
    with weighing(tmp_path) as (guarded, knobs):
        guarded.signal_loop(signal.SIGKILL)
        wait_until(lambda: usual(knobs), "the guard puts them back")
        assert guarded.end()[0] != 0
        assert usual(knobs)
    assert not list(tmp_path.iterdir())


@pytest.mark.root
def test_weights_are_no_pauses_and_a_loop_that_only_weighs_is_left_in_peace(tmp_path: Path) -> None:
    with weighing(tmp_path) as (guarded, _):
        journal = guarded.journal()
        try:
            assert journal.changed()
            assert not journal.any_in_force()
        finally:
            journal.close()
        time.sleep(0.5)
        assert guarded.guard.poll() is None


@pytest.mark.root
def test_after_all_were_killed_at_once_the_next_start_puts_weights_back(tmp_path: Path) -> None:
    with weighing(tmp_path) as (guarded, knobs):
        guarded.guard.send_signal(signal.SIGSTOP)
        wait_until(lambda: is_stopped(guarded.guard.pid), "the guard stops")
        guarded.signal_loop(signal.SIGKILL)
        guarded.guard.kill()
        guarded.guard.wait(WAIT_S)
        assert not usual(knobs), "else this test shows nothing"
        with GuardedLoop(tmp_path):
            assert usual(knobs)
    assert not list(tmp_path.iterdir())


def test_a_damaged_journal_in_the_run_directory_is_reported_and_does_not_keep_the_guard_from_starting(
    tmp_path: Path,
) -> None:
    (tmp_path / "old.journal").write_bytes(b"garbage")
    with GuardedLoop(tmp_path) as guarded:
        guarded.guard.terminate()
        status, said = guarded.end()
    assert status == 0
    assert said.startswith(f"utilctl-guard: journal {tmp_path}/old.journal cannot be read")
    assert said.count("\n") == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["old.journal"]


def test_the_guard_imports_next_to_nothing() -> None:
    code = "import sys, utilctl_agent.safety.guard; print(*sorted(sys.modules))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    modules = set(ran.stdout.split())
    refused = {"asyncio", "click", "ctypes", "grpc", "google.protobuf", "json", "logging", "multiprocessing", "numpy",
               "opentelemetry", "psutil", "socket", "subprocess", "threading", "typing", "utilctl_common"}  # fmt: skip
    baseline = subprocess.run(
        [sys.executable, "-c", "import sys; print(*sorted(sys.modules))"],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert not refused & (modules - set(baseline.stdout.split()))
