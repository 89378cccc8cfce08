"""What others stop, freeze, resume or trace, on the real kernel: told apart where it allows it, never fought."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.processes import freeze, is_frozen, is_stopped, spinning, temporary_cgroup, thaw, wait_until
from utilctl_agent.host.cgroup import CgroupGroup, freezer_refusal
from utilctl_agent.host.freezer_v1 import FreezerV1Group, freezer_v1_refusal
from utilctl_agent.host.hierarchies import FREEZER_V1, v1_mount
from utilctl_agent.host.port import SETTLE_NS, ForeignResumeError, ForeignStopError, UnfinishedPauseError
from utilctl_agent.host.processes import CHECKED_AT_ONCE, ProcessGroup
from utilctl_agent.host.procstat import ProcessId, identify, read_stat
from utilctl_agent.safety.journal import Journal
from utilctl_common.quantities import NS_PER_S

pytestmark = pytest.mark.kernel

Freezer = type[CgroupGroup] | type[FreezerV1Group]

_PTRACE_SEIZE, _PTRACE_INTERRUPT, _PTRACE_DETACH, _WALL = 0x4206, 0x4207, 17, 0x40000000


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    made = Journal.create(str(tmp_path / "journal"), slots=64)
    yield made
    made.close()


def stop(process: ProcessId) -> None:
    """Somebody else stops it."""
    os.kill(process.pid, signal.SIGSTOP)
    wait_until(lambda: is_stopped(process.pid), "it stops")


def look(group: ProcessGroup | CgroupGroup | FreezerV1Group) -> None:
    """``check`` once the pause has taken effect: a busy host takes its time over that."""

    def settled() -> bool:
        try:
            group.check()
        except UnfinishedPauseError:
            return False
        return True

    wait_until(settled, "the pause takes effect")


@contextlib.contextmanager
def running(code: str) -> Iterator[ProcessId]:
    """A Python program that has said that it is ready."""
    child = subprocess.Popen([sys.executable, "-S", "-c", code], stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        process = identify(child.pid)
        assert process is not None
        yield process
    finally:
        child.kill()
        child.communicate()


SLEEP = "import time; print('ready', flush=True); time.sleep(60)"
THREADS = """
import threading, time
def spin():
    end = time.monotonic() + 60
    while time.monotonic() < end: pass
for _ in range(3): threading.Thread(target=spin, daemon=True).start()
print('ready', flush=True)
spin()
"""


class TestStoppedProcesses:
    @pytest.mark.parametrize("code", [SLEEP, THREADS], ids=["asleep", "threads"])
    def test_one_that_others_resume_while_we_hold_it_is_found_and_is_theirs(self, journal: Journal, code: str) -> None:
        with running(code) as process:
            group = ProcessGroup([process], journal)
            group.pause()
            look(group)
            os.kill(process.pid, signal.SIGCONT)
            with pytest.raises(ForeignResumeError, match=f"process {process.pid} was resumed by somebody else"):
                look(group)
            assert not journal.any_in_force()
            group.check()  # told once
            group.resume()
            group.pause()
            look(group)
            assert is_stopped(process.pid)
            group.close()
            assert not is_stopped(process.pid)

    def test_of_many_each_is_looked_at_in_its_turn(self, journal: Journal) -> None:
        with spinning(CHECKED_AT_ONCE + 4) as processes:
            group = ProcessGroup(processes, journal)
            group.pause()
            for _ in range(3):
                look(group)
            os.kill(processes[-1].pid, signal.SIGCONT)
            time.sleep(SETTLE_NS / NS_PER_S)
            looks_that_found = 0
            for _ in range(2):
                try:
                    group.check()
                except ForeignResumeError:
                    looks_that_found += 1
            assert looks_that_found == 1
            assert len(journal.in_force()) == len(processes) - 1
            group.close()
            assert not any(is_stopped(process.pid) for process in processes)

    def test_one_that_a_user_stops_while_we_hold_it_stays_stopped_if_it_is_seen(self, journal: Journal) -> None:
        with spinning(2) as (theirs, ours):
            group = ProcessGroup([theirs, ours], journal)
            group.pause()
            look(group)
            os.kill(theirs.pid, signal.SIGSTOP)
            with pytest.raises(ForeignStopError, match=f"process {theirs.pid} was stopped by somebody else"):
                group.check()
            assert len(journal.in_force()) == 1
            group.check()
            group.resume()
            assert not is_stopped(ours.pid)
            assert is_stopped(theirs.pid)
            group.close()
            assert is_stopped(theirs.pid)
            os.kill(theirs.pid, signal.SIGCONT)
            wait_until(lambda: not is_stopped(theirs.pid), "the user resumes it")

    def test_one_that_a_user_stops_while_we_hold_it_is_resumed_if_it_is_not_seen(self, journal: Journal) -> None:
        """The limit of signals: SIGCONT cancels every SIGSTOP before it, whoever sent that."""
        with spinning(1) as (process,):
            group = ProcessGroup([process], journal)
            group.pause()
            wait_until(lambda: is_stopped(process.pid), "it stops")
            os.kill(process.pid, signal.SIGSTOP)
            group.close()
            assert not is_stopped(process.pid)

    def test_one_that_ended_is_neither(self, journal: Journal) -> None:
        with spinning(2) as (ended, other):
            group = ProcessGroup([ended, other], journal)
            group.pause()
            look(group)
            os.kill(ended.pid, signal.SIGKILL)
            os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
            group.check()  # not reaped yet
            os.waitpid(ended.pid, 0)
            group.check()
            assert group.processes == {other}
            group.close()


class TestDebuggers:
    @staticmethod
    @contextlib.contextmanager
    def tracing(process: ProcessId) -> Iterator[None]:
        """A debugger holds the process, and lets go of it."""
        libc = ctypes.CDLL(None, use_errno=True)
        # PTRACE_ATTACH would wait for a frozen process: it sends a signal, and those are for later.
        for request in (_PTRACE_SEIZE, _PTRACE_INTERRUPT):
            assert libc.ptrace(request, process.pid, 0, 0) == 0, os.strerror(ctypes.get_errno())
        os.waitpid(process.pid, _WALL)
        try:
            yield
        finally:
            libc.ptrace(_PTRACE_DETACH, process.pid, 0, 0)

    def test_one_that_a_debugger_holds_is_left_to_it(self, journal: Journal) -> None:
        with spinning(1) as (process,):
            group = ProcessGroup([process], journal)
            with self.tracing(process):
                stat = read_stat(process.pid)
                assert stat is not None
                assert stat[0] == b"t"
                with pytest.raises(ForeignStopError):
                    group.pause()
                group.resume()
                assert is_stopped(process.pid)
            wait_until(lambda: not is_stopped(process.pid), "the debugger lets it run")
            group.close()

    def test_what_a_debugger_takes_while_we_hold_it_runs_once_both_have_let_go(self, journal: Journal) -> None:
        with spinning(1) as (process,):
            group = ProcessGroup([process], journal)
            group.pause()
            look(group)
            with self.tracing(process):
                look(group)  # held all the same
                group.resume()
                time.sleep(0.02)
                stat = read_stat(process.pid)
                assert stat is not None
                assert stat[0] == b"t", "our SIGCONT does not end the debugger's hold"
            wait_until(lambda: not is_stopped(process.pid), "it runs")
            group.close()

    @pytest.mark.root
    @pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a cgroup is frozen")
    def test_in_a_frozen_cgroup_a_debugger_may_work_and_we_are_none_the_wiser(self, journal: Journal) -> None:
        if (refusal := freezer_refusal()) is not None:
            pytest.skip(refusal)
        with temporary_cgroup() as path, spinning(1, cgroup=path) as (process,):
            group = CgroupGroup(path, journal)
            group.pause()
            look(group)
            with self.tracing(process):
                look(group)
            look(group)
            group.close()
            wait_until(lambda: read_stat(process.pid) is not None and not is_stopped(process.pid), "it runs")


JOB_CONTROL = "set -m; sleep 60 & echo $!; wait %1; echo status $?; kill -KILL %1"


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
class TestJobControl:
    """A shell with job control asks to be told when its children stop (waitpid with WUNTRACED)."""

    @staticmethod
    @contextlib.contextmanager
    def shell() -> Iterator[tuple[subprocess.Popen[str], ProcessId]]:
        shell = subprocess.Popen(
            ["bash", "-c", JOB_CONTROL], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert shell.stdout is not None
        job = int(shell.stdout.readline())
        try:
            process = identify(job)
            assert process is not None
            yield shell, process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(job, signal.SIGKILL)
            shell.communicate(timeout=30)

    def test_it_notices_that_its_job_was_stopped_by_a_signal(self, journal: Journal) -> None:
        with self.shell() as (shell, job):
            group = ProcessGroup([job], journal)
            group.pause()
            out, _ = shell.communicate(timeout=30)
            assert out == f"status {128 + signal.SIGSTOP}\n"
            group.close()

    @pytest.mark.root
    @pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a cgroup is frozen")
    def test_it_notices_nothing_of_a_freeze(self, journal: Journal) -> None:
        if (refusal := freezer_refusal()) is not None:
            pytest.skip(refusal)
        with temporary_cgroup() as path, self.shell() as (shell, job):
            (path / "cgroup.procs").write_text(str(job.pid))
            group = CgroupGroup(path, journal)
            group.pause()
            look(group)
            with pytest.raises(subprocess.TimeoutExpired):
                shell.wait(0.2)
            group.close()
            os.kill(job.pid, signal.SIGKILL)
            out, _ = shell.communicate(timeout=30)
            assert out == f"status {128 + signal.SIGKILL}\n"


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: cgroups are frozen")
class TestFrozenCgroups:
    @pytest.fixture(params=[CgroupGroup, FreezerV1Group])
    def freezer(self, request: pytest.FixtureRequest) -> Freezer:
        kind: Freezer = request.param
        refusal = freezer_refusal() if kind is CgroupGroup else freezer_v1_refusal()
        if refusal is not None:
            pytest.skip(refusal)
        return kind

    @pytest.fixture
    def cgroup(self, freezer: Freezer) -> Iterator[Path]:
        with temporary_cgroup(v1_mount(FREEZER_V1) if freezer is FreezerV1Group else None) as path:
            yield path

    def test_one_that_others_thaw_while_we_hold_it_is_found_and_is_theirs(
        self, freezer: Freezer, cgroup: Path, journal: Journal
    ) -> None:
        with spinning(2, cgroup=cgroup):
            group = freezer(cgroup, journal)
            group.pause()
            look(group)
            thaw(cgroup)
            with pytest.raises(ForeignResumeError, match="thawed by somebody else"):
                look(group)
            assert not journal.any_in_force()
            group.check()
            freeze(cgroup)  # and now they stop it: that is not ours to undo
            group.resume()
            with pytest.raises(ForeignStopError):
                group.pause()
            group.close()
            assert is_frozen(cgroup)

    def test_a_freeze_of_others_above_ours_stands(self, freezer: Freezer, cgroup: Path, journal: Journal) -> None:
        inner = cgroup / "inner"
        inner.mkdir()
        try:
            with spinning(1, cgroup=inner):
                group = freezer(inner, journal)
                group.pause()
                freeze(cgroup)
                look(group)
                group.close()
                assert is_frozen(cgroup)
                assert not is_frozen(inner)
                thaw(cgroup)
        finally:
            inner.rmdir()

    def test_an_empty_cgroup_can_be_held(self, freezer: Freezer, cgroup: Path, journal: Journal) -> None:
        group = freezer(cgroup, journal)
        group.pause()
        group.check()
        group.close()
        assert not is_frozen(cgroup)
