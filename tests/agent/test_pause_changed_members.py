"""A pause of members that change under it: they lose their main thread, become other programs or other users'."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.pausing import assert_paused_and_resumed, each_kind, needs_root, open_group
from support.processes import is_stopped, spinning, wait_until
from utilctl_agent.host.port import ForeignStopError
from utilctl_agent.host.processes import ProcessGroup
from utilctl_agent.host.procstat import ProcessId, identify, read_stat, thread_states
from utilctl_agent.safety.journal import Journal
from utilctl_agent.safety.thaw import Thawed, thaw_journal

pytestmark = pytest.mark.kernel

ZOMBIE_LEADER = """
import ctypes, os, threading, time
def spin():
    end = time.monotonic() + 60
    while time.monotonic() < end: pass
    os._exit(0)
threading.Thread(target=spin).start()
SYS_exit = {"x86_64": 60, "aarch64": 93}[os.uname().machine]
ctypes.CDLL(None).syscall(SYS_exit, 0)
"""


@contextlib.contextmanager
def running(code: str, *, ready: Callable[[int], bool], cgroup: Path | None = None) -> Iterator[ProcessId]:
    """A Python program that has got as far as ``ready`` says; killed at the end."""
    child = subprocess.Popen([sys.executable, "-S", "-c", code])
    try:
        if cgroup is not None:
            (cgroup / "cgroup.procs").write_text(str(child.pid))
        wait_until(lambda: ready(child.pid), "the program is ready")
        process = identify(child.pid)
        assert process is not None
        yield process
    finally:
        child.kill()
        child.wait()


def leader_has_exited(pid: int) -> bool:
    stat = read_stat(pid)
    return stat is not None and stat[0] == b"Z"


class TestThreads:
    @each_kind
    def test_a_process_lives_on_without_its_main_thread(self, cgroup: Path | None, journal: Journal) -> None:
        with running(ZOMBIE_LEADER, ready=leader_has_exited, cgroup=cgroup) as process:
            group = open_group(cgroup, [process], journal)
            for _ in range(2):
                assert_paused_and_resumed(group)
            group.close()

    def test_without_its_main_thread_a_stop_by_somebody_else_is_seen_all_the_same(self, journal: Journal) -> None:
        with running(ZOMBIE_LEADER, ready=leader_has_exited) as process:
            group = ProcessGroup([process], journal)
            os.kill(process.pid, signal.SIGSTOP)
            wait_until(lambda: b"T" in thread_states(process.pid, 8), "its other thread stops")
            with pytest.raises(ForeignStopError, match="stopped by somebody else"):
                group.pause()
            group.close()
            assert b"T" in thread_states(process.pid, 8)

    def test_without_its_main_thread_it_is_not_taken_for_blocked(self, journal: Journal) -> None:
        with running(ZOMBIE_LEADER, ready=leader_has_exited) as process:
            group = ProcessGroup([process], journal)
            wait_until(lambda: group.read().blocked is False, "its other thread is seen to run")
            group.close()


EXEC = """
import os, signal, sys, threading, time
def become(*_):
    os.execv("/bin/sh", ["sh", "-c", "ulimit -t 60; while :; do :; done"])
signal.signal(signal.SIGUSR1, become)
end = time.monotonic() + 60
while time.monotonic() < end: pass
"""
EXEC_IN_THREAD = """
import os, threading, time
def become():
    time.sleep(0.2)
    os.execv("/bin/sh", ["sh", "-c", "ulimit -t 60; while :; do :; done"])
threading.Thread(target=become).start()
end = time.monotonic() + 60
while time.monotonic() < end: pass
"""


def catches_usr1(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    mask = int(status.split("SigCgt:")[1].split()[0], 16)
    return bool(mask & (1 << (signal.SIGUSR1 - 1)))


def is_shell(pid: int) -> bool:
    return Path(f"/proc/{pid}/comm").read_text() == "sh\n"


class TestExec:
    @each_kind
    def test_one_that_becomes_another_program_stays_under_control(self, cgroup: Path | None, journal: Journal) -> None:
        with running(EXEC, ready=catches_usr1, cgroup=cgroup) as process:
            group = open_group(cgroup, [process], journal)
            group.pause()
            os.kill(process.pid, signal.SIGUSR1)  # it becomes the other program once it is resumed
            group.resume()
            wait_until(lambda: is_shell(process.pid), "it becomes another program")
            assert_paused_and_resumed(group)
            group.close()

    def test_also_if_another_thread_than_the_main_one_calls_exec(self, journal: Journal) -> None:
        with running(EXEC_IN_THREAD, ready=lambda pid: len(list(Path(f"/proc/{pid}/task").iterdir())) > 1) as process:
            group = ProcessGroup([process], journal)
            wait_until(lambda: is_shell(process.pid), "it becomes another program")
            assert identify(process.pid) == process
            assert_paused_and_resumed(group)
            group.close()


AS_NOBODY = """
import os, pwd, sys, time
from pathlib import Path
from utilctl_agent.host.port import MechanismError
from utilctl_agent.host.processes import ProcessGroup
from utilctl_agent.host.procstat import identify
from utilctl_agent.safety.journal import Journal

def become_nobody():
    user = pwd.getpwnam("nobody")
    os.setgroups([]); os.setgid(user.pw_gid); os.setuid(user.pw_uid)

pid, journal = int(sys.argv[1]), Journal.open(sys.argv[2])
group = ProcessGroup([identify(pid)], journal)
"""
CHANGES_USER = """
import os, pwd, signal, sys, time
user = pwd.getpwnam("nobody").pw_uid
def change(*_): os.setresuid(0, 0, 0)
signal.signal(signal.SIGUSR1, change)
os.setresuid(user, user, 0)
end = time.monotonic() + 60
while time.monotonic() < end: pass
"""


@pytest.mark.root
@needs_root
class TestPermissions:
    @staticmethod
    def run(code: str, process: ProcessId, journal: Journal) -> str:
        done = subprocess.run(
            [sys.executable, "-c", AS_NOBODY + code, str(process.pid), journal.path],
            cwd="/", capture_output=True, text=True, timeout=60,
            start_new_session=True,  # within a session anybody may send SIGCONT to anybody
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def test_one_that_becomes_another_users_is_out_of_reach_and_runs(self, journal: Journal) -> None:
        with running(CHANGES_USER, ready=lambda pid: catches_usr1(pid) and uid_of(pid) != 0) as process:
            code = """
become_nobody()
group.pause()
group.resume()
group.close()
print("held")
"""
            assert self.run(code, process, journal) == "held"
            os.kill(process.pid, signal.SIGUSR1)
            wait_until(lambda: uid_of(process.pid) == 0, "it changes its user")
            code = """
become_nobody()
try:
    group.pause()
except MechanismError as error:
    print(error)
group.close()
"""
            assert "cannot be stopped: Operation not permitted" in self.run(code, process, journal)
            assert not journal.any_in_force()
            assert not is_stopped(process.pid)

    def test_what_may_not_be_resumed_any_more_stays_in_the_journal_for_somebody_who_may(self, journal: Journal) -> None:
        with spinning(1) as (process,):
            code = """
group.pause()
become_nobody()
try:
    group.resume()
except MechanismError as error:
    print(error)
group.close()
"""
            said = self.run(code, process, journal)
            assert "a process cannot be resumed: Operation not permitted" in said
            assert "utilctl thaw --all" in said
            assert is_stopped(process.pid)
            assert thaw_journal(journal) == Thawed(resumed=1)
            wait_until(lambda: not is_stopped(process.pid), "it goes on")

    def test_a_setuid_program_stays_within_reach_of_whom_started_it(self, journal: Journal, tmp_path: Path) -> None:
        folder = Path("/var/tmp") / f"utilctl-test-{tmp_path.name}-{os.getpid()}"
        folder.mkdir(mode=0o755)
        try:
            program = folder / "sleep"
            shutil.copy("/bin/sleep", program)
            program.chmod(0o4755)
            child = subprocess.Popen([str(program), "60"], user="nobody", group="nogroup", extra_groups=[], cwd="/")
            try:
                wait_until(lambda: Path(f"/proc/{child.pid}/comm").read_text() == "sleep\n", "it starts")
                if effective_uid_of(child.pid) != 0:
                    pytest.skip("the file system there ignores setuid")
                process = identify(child.pid)
                assert process is not None
                code = """
become_nobody()
group.pause()
while Path(f"/proc/{pid}/stat").read_text().rsplit(")")[1].split()[0] != "T":
    time.sleep(0.01)
group.resume()
print("held and resumed")
group.close()
"""
                assert self.run(code, process, journal) == "held and resumed"
                assert not is_stopped(child.pid)
            finally:
                child.kill()
                child.wait()
        finally:
            shutil.rmtree(folder)


def uid_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/status").read_text().split("Uid:")[1].split()[0])


def effective_uid_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/status").read_text().split("Uid:")[1].split()[1])
