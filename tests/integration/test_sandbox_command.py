"""``utilctl sandbox`` on real programs: what they get, what they notice, and what is left when everything dies."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.commands import UTILCTL, Command, run
from support.processes import SPIN, is_stopped, spinning, wait_until
from support.unprivileged import as_nobody, can_become_nobody, give_to_nobody
from utilctl_agent.host.procstat import identify
from utilctl_agent.host.quotas import quota_refusal

pytestmark = [pytest.mark.kernel]

THREADS = """
import hashlib, threading
data = bytes(1 << 20)
def hashing():  # without the interpreter's lock
    while True: hashlib.sha256(data)
for _ in range(2): threading.Thread(target=hashing).start()
"""


def sandbox(*arguments: str) -> list[str]:
    return [*UTILCTL, "sandbox", *arguments]


def used_ns(pid: int) -> int:
    """CPU time of a process, its threads included."""
    return time.clock_gettime_ns((~pid << 3) | 2)


def rate(pid: int, seconds: float) -> float:
    before, began = used_ns(pid), time.monotonic_ns()
    time.sleep(seconds)
    return (used_ns(pid) - before) / (time.monotonic_ns() - began)


def until_rate(pid: int, wanted: float, within: float, seconds: float) -> None:
    """Wait for so many seconds in which it gets this: not always is there a CPU for it."""
    wait_until(lambda: abs(rate(pid, seconds) - wanted) <= within, f"it gets {wanted:.0%}")


@contextlib.contextmanager
def sandboxed(*arguments: str) -> Iterator[tuple[Command, int]]:
    """A sandbox around a spinner on CPU 0; the command and the spinner's pid."""
    with Command(sandbox(*arguments, "--", "sh", "-c", f"echo $$ > pid; {SPIN}".replace("pid", "/dev/stderr"))) as box:
        found: list[int] = []

        def told() -> bool:
            found[:] = [int(word) for word in Path(box._err).read_text().split() if word.isdigit()]
            return bool(found)

        wait_until(told, "the program runs")
        os.sched_setaffinity(found[0], {0})
        yield box, found[0]


@pytest.mark.quiet
@pytest.mark.parametrize("mode", ["auto", "freezer", "signal"])
@pytest.mark.parametrize("cap", [5, 25, 75])
def test_a_program_gets_its_part_of_a_cpu(cap: int, mode: str) -> None:
    with sandboxed("--cap", f"{cap}%", "--mode", mode) as (_, pid):
        time.sleep(1.0)
        until_rate(pid, cap / 100, max(0.01, 0.0005 * cap), 5.0)


@pytest.mark.quiet
def test_the_cap_can_be_changed_while_it_runs() -> None:
    with sandboxed("--cap", "10%") as (_, pid):
        time.sleep(0.5)
        until_rate(pid, 0.10, 0.04, 2.0)
        changed = run("sandbox", "set", str(pid), "--cap", "60%")
        assert (changed.code, changed.stderr) == (0, "")
        assert "60% of a CPU" in changed.stdout
        until_rate(pid, 0.60, 0.06, 3.0)


@pytest.mark.quiet
def test_a_running_process_is_taken_and_let_go_again() -> None:
    with spinning(1, cpu=0) as (process,):
        argv = sandbox("--cap", "20%", "--pid", str(process.pid), "--duration", "4s", "-o", "json")
        with Command(argv) as box:
            wait_until(lambda: is_stopped(process.pid), "it is held back")
            assert rate(process.pid, 2.0) == pytest.approx(0.20, abs=0.05)
            outcome = box.wait()
        assert outcome.code == 0, outcome
        report = json.loads(outcome.stderr)
        assert report["fraction"] == pytest.approx(0.20, abs=0.03)
        assert report["cap_cores"] == 0.2
        assert rate(process.pid, 1.0) > 0.6, "it runs free"


@pytest.mark.quiet
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two CPUs")
def test_caps_above_one_core_hold_programs_with_several_threads() -> None:
    argv = sandbox("--cap", "150%", "--duration", "6s", "-o", "json", "--", sys.executable, "-c", THREADS)
    with Command(argv) as box:
        time.sleep(7.5)
        for pid in box.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        report = json.loads(box.wait().stderr)
    # Both CPUs are in it all the time: what others of this machine take is missing here.
    assert 1.1 < report["fraction"] < 1.6


@pytest.mark.quiet
def test_children_are_capped_together_with_their_parent() -> None:
    script = f"({SPIN}) & ({SPIN}) & wait"
    with Command(sandbox("--cap", "40%", "--duration", "5s", "-o", "json", "--", "sh", "-c", script)) as box:
        time.sleep(6.5)
        for pid in box.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        report = json.loads(box.wait().stderr)
    assert report["processes"] == 3
    assert report["fraction"] == pytest.approx(0.4, abs=0.06)


@pytest.mark.parametrize(
    ("script", "code"), [("exit 0", 0), ("exit 7", 7), ("kill -TERM $$", 143), ("kill -KILL $$", 137)]
)
def test_the_exit_code_is_the_programs_own(script: str, code: int) -> None:
    ran = subprocess.run(sandbox("--cap", "50%", "--", "sh", "-c", script), capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout, ran.stderr) == (code, "", "")


def test_input_and_output_are_the_programs_own() -> None:
    ran = subprocess.run(
        sandbox("--cap", "80%", "--", "cat"), input="through and through", capture_output=True, text=True, check=False
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "through and through", "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_signals_are_passed_on_to_the_program(number: signal.Signals) -> None:
    script = f"trap 'echo caught; exit 9' {number.name[3:]}; echo ready; while :; do sleep 0.05; done"
    with subprocess.Popen(sandbox("--cap", "50%", "--", "sh", "-c", script), stdout=subprocess.PIPE, text=True) as box:
        assert box.stdout is not None
        assert box.stdout.readline() == "ready\n"
        time.sleep(0.2)
        box.send_signal(number)
        assert box.stdout.read() == "caught\n"
        assert box.wait(10) == 9


def test_killed_with_all_that_it_has_started_but_the_program_it_leaves_that_running() -> None:
    with sandboxed("--cap", "5%", "--mode", "signal") as (box, pid):
        wait_until(lambda: is_stopped(pid), "it is held back")
        box.process.kill()
        box.process.wait()
        wait_until(lambda: not is_stopped(pid), "it is let go")
        for _ in range(50):
            assert not is_stopped(pid)
            time.sleep(0.01)


def quotas(box: Command) -> list[str]:
    return [
        (folder / knob).read_text().split()[0]
        for folder in box.cgroups()
        for knob in ("cpu.cfs_quota_us", "cpu.max")
        if (folder / knob).exists()
    ]


def has_quota(box: Command) -> bool:
    return any(quota not in ("-1", "max") for quota in quotas(box))


@pytest.mark.skipif(quota_refusal() is not None, reason="no quota can be set here")
@pytest.mark.parametrize("all_at_once", [False, True])
def test_killed_it_leaves_no_quota_behind(*, all_at_once: bool) -> None:
    with sandboxed("--cap", "5%", "--mode", "quota") as (box, pid):
        wait_until(lambda: has_quota(box), "it is held back")
        box.process.kill()
        if all_at_once:
            for other in box.processes():
                if b"utilctl_agent" in Path(f"/proc/{other}/cmdline").read_bytes().replace(b"reaper.py", b""):
                    os.kill(other, signal.SIGKILL)
        box.process.wait()
        if all_at_once:
            assert run("thaw", "--all").code == 0
        wait_until(lambda: not has_quota(box), "the quota is lifted")
        os.kill(pid, 0)
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: identify(pid) is None, "it has ended")
        # The next one removes the cgroups, which nobody could while the program ran.
        assert run("sandbox", "--cap", "50%", "--mode", "quota", "--", "true").code == 0
        wait_until(lambda: not box.cgroups(), "the cgroups are gone")


@pytest.mark.skipif(quota_refusal() is not None, reason="no quota can be set here")
def test_a_program_that_outlives_its_capping_is_moved_back_and_runs_free() -> None:
    with sandboxed("--cap", "5%", "--mode", "quota", "--duration", "1s") as (box, pid):
        wait_until(lambda: has_quota(box), "it is held back")
        wait_until(lambda: bool(box.cgroups()) and not has_quota(box), "the quota is lifted")
        os.kill(pid, signal.SIGTERM)
        assert box.wait().code == 143
        assert not box.cgroups()


@pytest.mark.skipif(not can_become_nobody(), reason="needs root, to become somebody else")
@pytest.mark.quiet
def test_it_works_without_root(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    run_dir = give_to_nobody(tmp_path / "run")
    command = ["sh", "-c", f"timeout 5 sh -c '{SPIN}'"]
    argv = as_nobody(sandbox("--cap", "30%", "--duration", "4s", "-o", "json", "--", *command))
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(run_dir)}
    ran = subprocess.run(argv, capture_output=True, text=True, check=False, env=environment, timeout=30)
    report = json.loads(ran.stderr)
    assert report["fraction"] == pytest.approx(0.3, abs=0.05)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--cap", "25%"], "give either --pid or a command"),
        (["--cap", "25%", "--pid", "1", "--", "ls"], "give either --pid or a command"),
        (["--", "ls"], "no cap is given"),
        (["--cap", "none", "--", "ls"], "no percentage"),
        (["--cap", "0", "--", "ls"], "no percentage"),
        (["--cap", "0.01%", "--", "ls"], "out of range"),
        (["--cap", "25%", "--", "/nonexistent/program"], "there is no program"),
        (["--cap", "25%", "--pid", "4194000"], "there is no process 4194000"),
        (["set", "4194000", "--cap", "5%"], "no sandbox runs process"),
        (["--cap", "25%", "--duration", "5", "--", "ls"], "is not a duration"),
    ],
)
def test_what_cannot_be_is_one_line(arguments: list[str], complaint: str) -> None:
    ran = run("sandbox", *arguments)
    assert ran.code == 2
    assert ran.stdout == ""
    assert ran.stderr.count("\n") == 1
    assert complaint in ran.stderr
