"""What can go wrong with a pause on the real kernel: members that nothing interrupts, exec, other users, ends."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.driven import Driven
from support.processes import (
    end_process,
    is_frozen,
    is_stopped,
    remove_cgroup,
    spinning,
    temporary_cgroup,
    wait_until,
)
from support.stuck import dead_mount, vforking, waiting_in
from utilctl_agent.host.cgroup import freezer_refusal
from utilctl_agent.host.freezer_v1 import freezer_v1_refusal
from utilctl_agent.host.hierarchies import FREEZER_V1, v1_mount
from utilctl_agent.host.opening import open_cgroup
from utilctl_agent.host.port import ForeignStopError, Group, GroupGoneError, UnfinishedPauseError
from utilctl_agent.host.processes import ProcessGroup
from utilctl_agent.host.procstat import ProcessId, identify, read_stat, thread_states
from utilctl_agent.orders import PrincipalOrder
from utilctl_agent.safety.journal import Journal
from utilctl_agent.safety.thaw import Thawed, thaw_journal
from utilctl_common.quantities import NS_PER_MS

pytestmark = pytest.mark.kernel

root = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: cgroups, users and file systems are changed"),
]
needs_fuse = pytest.mark.skipif(not os.access("/dev/fuse", os.W_OK), reason="needs /dev/fuse")

KINDS = ["signal", pytest.param("freezer", marks=root), pytest.param("freezer-v1", marks=root)]


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    made = Journal.create(str(tmp_path / "journal"), slots=16)
    yield made
    made.close()


@pytest.fixture
def cgroup(request: pytest.FixtureRequest) -> Iterator[Path | None]:
    """A cgroup of the kind asked for; None for signals."""
    kind = request.param
    refusal = {"signal": lambda: None, "freezer": freezer_refusal, "freezer-v1": freezer_v1_refusal}[kind]()
    if refusal is not None:
        pytest.skip(refusal)
    if kind == "signal":
        yield None
        return
    with temporary_cgroup(v1_mount(FREEZER_V1) if kind == "freezer-v1" else None) as path:
        yield path


each_kind = pytest.mark.parametrize("cgroup", KINDS, indirect=True)
each_freezer = pytest.mark.parametrize("cgroup", KINDS[1:], indirect=True)


def open_group(cgroup: Path | None, processes: list[ProcessId], journal: Journal) -> Group:
    return ProcessGroup(processes, journal) if cgroup is None else open_cgroup(cgroup, journal, weight=False)


def unfinished_for(group: Group, duration_s: float) -> bool:
    """Whether the pause is unfinished at every look for this long."""
    end = time.monotonic() + duration_s
    while time.monotonic() < end:
        try:
            group.check()
        except UnfinishedPauseError:
            time.sleep(0.01)
        else:
            return False
    return True


def finished(group: Group) -> bool:
    try:
        group.check()
    except UnfinishedPauseError:
        return False
    return True


def stands_still(group: Group) -> bool:
    before_ns = group.cpu_ns()
    time.sleep(0.03)
    return group.cpu_ns() == before_ns


def assert_paused_and_resumed(group: Group) -> None:
    """A pause holds, and ends."""
    group.pause()
    wait_until(lambda: finished(group) and stands_still(group), "it stands still")
    group.resume()
    wait_until(lambda: not stands_still(group), "it goes on")


class TestUninterruptible:
    @each_kind
    @pytest.mark.root
    @root[1]
    @needs_fuse
    def test_one_that_waits_for_a_dead_file_server_makes_a_pause_unfinished(
        self, cgroup: Path | None, journal: Journal
    ) -> None:
        with (
            dead_mount() as mount,
            waiting_in(mount, cgroup=cgroup) as process,
            spinning(1, cgroup=cgroup) as (spinner,),
        ):
            group = open_group(cgroup, [process, spinner], journal)
            group.pause()
            assert unfinished_for(group, 0.3)
            stat = read_stat(process.pid)
            assert stat is not None
            assert stat[0] == b"D"
            wait_until(lambda: stands_still(group), "the others are held all the same")
            group.resume()
            assert not journal.any_in_force()
            wait_until(lambda: not stands_still(group), "the others go on")
            group.close()

    @each_freezer
    def test_one_that_waits_for_its_vfork_child_counts_as_frozen(self, cgroup: Path, journal: Journal) -> None:
        with vforking(cgroup=cgroup):
            group = open_cgroup(cgroup, journal, weight=False)
            group.pause()
            wait_until(lambda: finished(group), "it is frozen")
            group.close()
            assert not is_frozen(cgroup)

    def test_one_that_waits_for_its_vfork_child_is_not_stopped_by_a_signal(self, journal: Journal) -> None:
        with vforking() as process:
            group = ProcessGroup([process], journal)
            group.pause()
            assert unfinished_for(group, 0.3)
            group.close()
            assert not journal.any_in_force()

    @pytest.mark.parametrize("cgroup", KINDS[1:2], indirect=True)
    @needs_fuse
    def test_the_loop_lets_it_run_says_so_and_goes_on_with_the_others(self, cgroup: Path, tmp_path: Path) -> None:
        with dead_mount() as mount, temporary_cgroup() as other, contextlib.ExitStack() as stack:
            stack.enter_context(waiting_in(mount, cgroup=cgroup))
            stack.enter_context(spinning(1, cgroup=cgroup, cpu=0))
            stack.enter_context(spinning(1, cgroup=other, cpu=0))
            driven = Driven(tmp_path, cpus=(0,), cycle_ns=200 * NS_PER_MS)
            stack.callback(driven.end)
            driven.roster(
                1,
                PrincipalOrder("stuck", 1.0, 1, cgroups=(str(cgroup),)),
                PrincipalOrder("other", 20.0, 1, cgroups=(str(other),)),
            )
            next_s = [time.monotonic()]

            def given_up() -> bool:
                if time.monotonic() < next_s[0]:
                    return False
                next_s[0] += 0.5  # a report ends the plan that is being carried out
                return driven.report().unfinished_pauses > 0

            driven.run_until(given_up, "the unfinished pause is given up")
            report = driven.report()
            assert "does not freeze" in report.principals["stuck"].problem
            assert report.principals["other"].problem == ""
            assert not is_frozen(cgroup)


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
@root[1]
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


class TestContainers:
    @each_kind
    @pytest.mark.root
    @root[1]
    def test_processes_of_another_pid_namespace_are_held_its_init_too(
        self, cgroup: Path | None, journal: Journal
    ) -> None:
        script = "(ulimit -t 60; while :; do :; done) & ulimit -t 60; while :; do :; done"
        argv = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", script]
        if cgroup is not None:
            argv = ["sh", "-c", 'echo $$ > "$0"; exec "$@"', str(cgroup / "cgroup.procs"), *argv]
        outside = subprocess.Popen(argv, start_new_session=True)
        try:
            inside: list[ProcessId] = []

            def both_run() -> bool:
                inside[:] = [p for pid in descendants(outside.pid) if (p := identify(pid)) is not None]
                return len(inside) == 2

            wait_until(both_run, "the container's two processes run")
            group = open_group(cgroup, inside, journal)
            for _ in range(2):
                assert_paused_and_resumed(group)
            group.pause()
            wait_until(lambda: finished(group), "the pause takes effect")
            assert thaw_journal(journal).resumed == (2 if cgroup is None else 1)
            wait_until(lambda: not stands_still(group), "it goes on")
            group.close()
        finally:
            outside.kill()
            outside.wait()


def descendants(pid: int) -> list[int]:
    found: list[int] = []
    with contextlib.suppress(OSError):
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            found += [int(child), *descendants(int(child))]
    return found


class TestEnds:
    @each_freezer
    def test_a_cgroup_that_is_removed_and_made_anew_is_not_touched(self, cgroup: Path, journal: Journal) -> None:
        group = open_cgroup(cgroup, journal, weight=False)
        group.pause()
        remove_cgroup(cgroup)
        cgroup.mkdir()
        freeze_by_hand(cgroup)
        with pytest.raises(GroupGoneError):
            group.check()
        group.resume()
        assert not journal.any_in_force()
        with pytest.raises(GroupGoneError):
            group.pause()
        assert not journal.any_in_force()
        group.close()
        assert is_frozen(cgroup)

    @each_freezer
    def test_what_a_closed_group_is_asked_to_do_reaches_no_file_that_has_its_numbers_by_now(
        self, cgroup: Path, journal: Journal, tmp_path: Path
    ) -> None:
        group = open_cgroup(cgroup, journal, weight=False)
        group.pause()
        group.close()
        victims = [os.open(tmp_path / f"victim-{number}", os.O_RDWR | os.O_CREAT) for number in range(8)]
        try:
            for act in (group.pause, group.resume, group.check, group.close):
                act()
            with pytest.raises(GroupGoneError):
                group.read()
            assert [os.fstat(fd).st_size for fd in victims] == [0] * len(victims)
        finally:
            for fd in victims:
                os.close(fd)

    @pytest.mark.root
    @root[1]
    def test_a_later_process_that_got_the_pid_is_not_touched(self, journal: Journal) -> None:
        with spinning(1) as (member,):
            group = ProcessGroup([member], journal)
            group.pause()
            end_process(member.pid)
            time.sleep(0.05)  # start times are told in clock ticks
            with with_pid(member.pid) as later:
                os.kill(later, signal.SIGSTOP)
                wait_until(lambda: is_stopped(later), "the newcomer is stopped by somebody")
                group.check()
                assert thaw_journal(journal).resumed == 0
                with pytest.raises(GroupGoneError):
                    group.read()
                group.pause()
                group.resume()
                group.close()
                assert is_stopped(later)

    def test_a_full_journal_costs_no_descriptors(self, tmp_path: Path) -> None:
        full = Journal.create(str(tmp_path / "full"), slots=1)
        with spinning(2) as processes:
            group = ProcessGroup(processes[:1], full)
            before = len(list(Path("/proc/self/fd").iterdir()))
            for _ in range(3):
                group.update(processes)
            assert "slots of the journal are taken" in group.refusal
            assert len(list(Path("/proc/self/fd").iterdir())) == before
            group.close()
        full.close()


def freeze_by_hand(cgroup: Path) -> None:
    knob, value = ("freezer.state", "FROZEN") if (cgroup / "freezer.state").exists() else ("cgroup.freeze", "1")
    (cgroup / knob).write_text(value)


@contextlib.contextmanager
def with_pid(pid: int) -> Iterator[int]:
    """A process that has a pid which is free: the kernel gives out the next one after ``ns_last_pid``."""
    for _ in range(200):
        Path("/proc/sys/kernel/ns_last_pid").write_text(str(pid - 1))
        child = subprocess.Popen(["sleep", "60"])
        if child.pid == pid:
            break
        child.kill()
        child.wait()
    else:
        pytest.skip("others took the pid each time")
    try:
        yield child.pid
    finally:
        child.kill()
        child.wait()
