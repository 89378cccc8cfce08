"""Under overload nothing stays paused, everything says so in a line, and what is possible goes on.

Guard and loop are real, and so is what overloads them: other real-time work, quotas, thousands of processes, full
disks, used up descriptors, an out-of-memory kill, and a machine that stood still.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.fork_bomb import FORK_BOMB
from support.guarded import GuardedLoop, Subject, subject, time_until_resumed
from support.processes import is_stopped, spinning, temporary_cgroup, wait_until
from support.small_disk import fill, resize, small_disk
from support.unprivileged import as_nobody, can_become_nobody, give_to_nobody
from utilctl_agent.host.hierarchies import v1_mount
from utilctl_agent.host.procstat import ProcessId, identify
from utilctl_agent.orders import PrincipalOrder
from utilctl_agent.safety.journal import HANG_NS, Journal
from utilctl_common.quantities import NS_PER_MS, NS_PER_S

root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: cgroups, mounts, real-time priorities")
pytestmark = [pytest.mark.kernel, pytest.mark.root, root]

GENEROUS_NS = NS_PER_S
MAX_PAUSE_NS = 300 * NS_PER_MS

HOG = """
import os, signal, sys
signal.alarm(6)
os.sched_setaffinity(0, {int(sys.argv[1])})
os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(50))
print(flush=True)
while True: pass
"""
"""Real-time work above guard and loop, on one CPU. Ends by itself."""

CROWD = """
import ctypes, os, signal, sys
count, parent = int(sys.argv[1]), os.getpid()
if len(sys.argv) > 2:
    with open(sys.argv[2] + "/cgroup.procs", "w") as procs:
        procs.write("0")
libc = ctypes.CDLL(None)
for _ in range(count):
    if os.fork() == 0:
        libc.prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG
        while os.getppid() == parent:
            signal.pause()
        os._exit(0)
print(flush=True)
signal.pause()
"""
"""Any number of sleeping processes, which end with their parent."""


@contextlib.contextmanager
def crowd(count: int, *, unprivileged: bool = False, cgroup: Path | None = None) -> Iterator[list[ProcessId]]:
    """``count`` sleeping processes, gone afterwards."""
    argv = [sys.executable, "-S", "-E", "-c", CROWD, str(count), *([] if cgroup is None else [str(cgroup)])]
    process = subprocess.Popen(as_nobody(argv) if unprivileged else argv, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"\n"
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        yield [found for child in children if (found := identify(int(child))) is not None]
    finally:
        process.kill()
        process.communicate()


def listed(name: str, processes: list[ProcessId], cap_cores: float = 0.08) -> PrincipalOrder:
    """An order for loose processes."""
    pairs = tuple((process.pid, process.start_ticks) for process in processes)
    return PrincipalOrder(name, 1.0, 1, cap_cores, processes=pairs)


def problem(guarded: GuardedLoop, name: str) -> str:
    """What keeps the loop from controlling that one."""
    return guarded.report().principals[name].problem


def descriptors_after_report(guarded: GuardedLoop) -> int:
    """How many the loop has open once it has tried again what it refused."""
    guarded.report()
    return len(list(Path(f"/proc/{guarded.loop_pid}/fd").iterdir()))


def longest_pause_ns(held: Subject, watch_ns: int) -> int:
    """The longest time that it is seen to be paused without a break, over the next ``watch_ns``."""
    longest_ns, since_ns, end_ns = 0, None, time.monotonic_ns() + watch_ns
    while (now_ns := time.monotonic_ns()) < end_ns:
        if not held.any_paused():
            since_ns = None
        elif since_ns is None:
            since_ns = now_ns
        else:
            longest_ns = max(longest_ns, now_ns - since_ns)
        time.sleep(0.001)
    return longest_ns


# -- the loop does not get the CPU -------------------------------------------------------------------------------


@pytest.mark.quiet
def test_a_loop_that_real_time_work_keeps_off_its_cpu_is_overruled(tmp_path: Path) -> None:
    with subject("a", "freezer", count=1) as held, GuardedLoop(tmp_path) as guarded:
        guarded.control([held.order()])
        wait_until(held.all_paused, "it is held back")
        os.sched_setaffinity(guarded.loop_pid, {0})
        hog = subprocess.Popen([sys.executable, "-S", "-c", HOG, "0"], stdout=subprocess.PIPE)
        try:
            assert hog.stdout is not None
            hog.stdout.readline()
            took_ns = time_until_resumed([held], time.monotonic_ns())
            print(f"resumed after {took_ns / NS_PER_MS:.0f} ms")
            time.sleep(HANG_NS / NS_PER_S)  # had it not been paused just then, the loop would pause nobody any more
            assert not held.any_paused()
            assert hog.poll() is None, "else this test shows nothing"
            assert not guarded.loop_ended(), "killed, it gets no CPU to end on"
            assert took_ns < GENEROUS_NS
        finally:
            hog.kill()
            hog.communicate()
        assert guarded.end() == (1, "utilctl-guard: the loop hangs; everything is resumed\n")
        assert not held.any_paused()


@pytest.mark.skipif(not can_become_nobody() or v1_mount("cpu") is None, reason="needs setpriv and quotas (v1 cpu)")
def test_with_next_to_no_cpu_time_for_guard_and_loop_pauses_stay_bounded(tmp_path: Path) -> None:
    # As user nobody both are in the fair class, where shares and quotas count.
    mount = v1_mount("cpu")
    run_dir = give_to_nobody(tmp_path / "run")
    with contextlib.ExitStack() as stack:
        starved = stack.enter_context(temporary_cgroup(mount))
        (starved / "cpu.shares").write_text("2")
        (starved / "cpu.cfs_period_us").write_text("100000")
        (starved / "cpu.cfs_quota_us").write_text("2000")
        held = stack.enter_context(subject("a", "signal", count=1, unprivileged=True))
        stack.enter_context(spinning(2))
        guarded = stack.enter_context(GuardedLoop(run_dir, unprivileged=True, max_pause_ns=MAX_PAUSE_NS))
        stack.callback(move, [guarded.guard.pid, guarded.loop_pid], mount)
        guarded.control([held.order(cap_cores=0.002)])
        wait_until(held.all_paused, "it is held back")
        move([guarded.guard.pid, guarded.loop_pid], starved)
        longest_ns = longest_pause_ns(held, 4 * NS_PER_S)
        print(f"paused for {longest_ns / NS_PER_MS:.0f} ms at a time")
        assert longest_ns < MAX_PAUSE_NS + 2 * GENEROUS_NS
        guarded.guard.terminate()
        guarded.end()
        assert not held.any_paused()


def move(pids: list[int], cgroup: Path | None) -> None:
    """Put those that still run into a cgroup."""
    assert cgroup is not None
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            (cgroup / "cgroup.procs").write_text(str(pid))


def test_after_the_whole_machine_stood_still_nobody_is_left_paused(tmp_path: Path) -> None:
    # As when a virtual machine is stopped and goes on: the clocks went on meanwhile, and nobody ran.
    with subject("a", "signal", count=1) as held, GuardedLoop(tmp_path) as guarded:
        guarded.control([held.order()])
        wait_until(held.all_paused, "it is held back")
        for pid in (guarded.guard.pid, guarded.loop_pid):
            os.kill(pid, signal.SIGSTOP)
        time.sleep(1.5)
        was_paused = held.all_paused()
        for pid in (guarded.loop_pid, guarded.guard.pid):
            os.kill(pid, signal.SIGCONT)
        went_on_ns = time.monotonic_ns()
        wait_until(lambda: not held.any_paused(), "it is resumed")
        took_ns = time.monotonic_ns() - went_on_ns
        print(f"{was_paused=}, resumed after {took_ns / NS_PER_MS:.0f} ms")
        assert took_ns < GENEROUS_NS
        guarded.guard.terminate()
        guarded.end()
        assert not held.any_paused()


# -- thousands of processes, and no room for more ------------------------------------------------------------------


@pytest.mark.quiet
def test_a_cgroup_with_five_thousand_processes_is_held_back_and_let_go(tmp_path: Path) -> None:
    with temporary_cgroup() as cgroup, crowd(5000, cgroup=cgroup), spinning(1, cgroup=cgroup) as processes:
        held = Subject("crowd", tuple(processes), cgroup)
        with GuardedLoop(tmp_path) as guarded:
            guarded.control([held.order()])
            wait_until(held.all_paused, "all of it is held back")
            wait_until(lambda: not held.any_paused(), "and let go")
            wait_until(held.all_paused, "and held back")
            assert problem(guarded, "crowd") == ""
            guarded.guard.terminate()
            assert guarded.end() == (0, "")
        assert not held.any_paused()


@pytest.mark.quiet
def test_five_thousand_loose_processes_are_held_back_and_let_go(tmp_path: Path) -> None:
    with crowd(5000) as sleeping, spinning(1) as processes:
        everybody = [*processes, *sleeping]
        assert len(everybody) > 5000
        last = everybody[-1].pid
        with GuardedLoop(tmp_path) as guarded:
            guarded.control([listed("crowd", everybody)])
            wait_until(lambda: is_stopped(processes[0].pid) and is_stopped(last), "all of them are held back")
            wait_until(lambda: not is_stopped(processes[0].pid), "and let go")
            wait_until(lambda: is_stopped(processes[0].pid) and is_stopped(last), "and held back")
            assert problem(guarded, "crowd") == ""
            guarded.guard.terminate()
            status, said = guarded.end()
            assert status == 0, said
        left = [process.pid for process in everybody if is_stopped(process.pid)]
        assert left == []


@pytest.mark.quiet
def test_a_fork_bomb_in_a_cgroup_stands_still_as_a_whole_and_delays_nobody_else(tmp_path: Path) -> None:
    with temporary_cgroup() as cgroup, subject("other", "freezer", count=1) as other:
        enter = f'echo $$ > {cgroup}/cgroup.procs; exec "$0" "$@"'
        argv = ["sh", "-c", enter, sys.executable, "-S", "-c", FORK_BOMB]
        with subprocess.Popen(argv, stdout=subprocess.PIPE) as bomb, GuardedLoop(tmp_path) as guarded:
            try:
                assert bomb.stdout is not None
                bomb.stdout.readline()
                guarded.control([PrincipalOrder("bomb", 1.0, 1, 0.08, cgroups=(str(cgroup),)), other.order()])
                for _ in range(3):
                    wait_until(lambda: frozen(cgroup), "the bomb stands still")
                    wait_until(lambda: not frozen(cgroup), "and goes on")
                    wait_until(other.all_paused, "the other one is held back")
                    wait_until(lambda: not other.any_paused(), "and let go")
                # Their number goes up and down; it is a bomb all the same.
                members = cgroup / "cgroup.procs"
                wait_until(lambda: len(members.read_text().split()) > 20, "there are many")
                assert [problem(guarded, name) for name in ("bomb", "other")] == ["", ""]
                guarded.guard.terminate()
                assert guarded.end() == (0, "")
                assert not frozen(cgroup)
                assert not other.any_paused()
            finally:
                (cgroup / "cgroup.kill").write_text("1")


def frozen(cgroup: Path) -> bool:
    """Whether all of it stands still."""
    return "frozen 1" in (cgroup / "cgroup.events").read_text()


def test_without_descriptors_left_who_has_none_runs_and_the_others_stay_controlled(tmp_path: Path) -> None:
    with (
        subject("held", "signal", count=1) as held,
        crowd(100) as many,
        subject("late", "freezer", count=1) as late,
        GuardedLoop(tmp_path) as guarded,
    ):
        guarded.control([held.order()])
        wait_until(held.all_paused, "it is held back")
        resource.prlimit(guarded.loop_pid, resource.RLIMIT_NOFILE, (160, 4096))
        guarded.control([held.order(), listed("many", many), late.order()])
        wait_until(lambda: len(guarded.report().principals) == 3, "the order is carried out")
        for name in ("many", "late"):
            said = problem(guarded, name)
            assert "all 160 file descriptors are in use; raise the limit (LimitNOFILE=)" in said
            assert "\n" not in said
        wait_until(lambda: not held.any_paused(), "who was there before is let go")
        wait_until(held.all_paused, "and held back")
        assert not late.any_paused()
        resource.prlimit(guarded.loop_pid, resource.RLIMIT_NOFILE, (4096, 4096))
        wait_until(lambda: problem(guarded, "many") + problem(guarded, "late") == "", "all are taken in later")
        wait_until(late.all_paused, "and held back")
        guarded.guard.terminate()
        assert guarded.end() == (0, "")
        assert not late.any_paused()


# -- disks and memory ----------------------------------------------------------------------------------------------


def test_a_full_disk_refuses_a_slot_in_one_line_and_what_was_noted_stays(tmp_path: Path) -> None:
    code = """
import sys
from support.small_disk import fill
from pathlib import Path
from utilctl_agent.safety.journal import Journal, JournalError
disk = Path(sys.argv[1])
journal = Journal.create(f"{disk}/a.journal")
first = journal.enter_process(1, 2)
filler = fill(disk)
journal.begin(first, 3)
taken = 1
try:
    while True:
        journal.enter_process(taken, taken)  # a store without room behind it would be a SIGBUS
        taken += 1
except JournalError as error:
    print(error)
filler.unlink()
for _ in range(1000):
    journal.enter_process(7, 7)
assert [pause.pid for _, pause in journal.in_force()] == [1]
"""
    with small_disk(tmp_path / "disk", 1024) as disk:
        ran = subprocess.run(
            [sys.executable, "-c", code, str(disk)],
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert (ran.returncode, ran.stderr) == (0, "")
        assert ran.stdout == f"{disk}/a.journal cannot grow: No space left on device; make room on its disk\n"


def test_without_room_for_a_journal_the_guard_says_so_in_one_line_and_ends(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 64) as disk:
        fill(disk)
        ran = subprocess.run(
            [sys.executable, "-m", "utilctl_agent.safety.guard", str(disk), "test", "0", "0", "1000000000"],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert ran.returncode == 1
        assert ran.stderr == (
            f"utilctl-guard: no journal can be made in {disk}: No space left on device; "
            "nothing is paused without one; make room there\n"
        )
        assert [entry.name for entry in disk.iterdir()] == ["filler"]
        with pytest.raises(OSError, match="No space left"):
            Journal.create(f"{disk}/a.journal")


@pytest.mark.skipif(not can_become_nobody(), reason="needs setpriv")
def test_on_a_full_disk_a_loop_controls_those_it_has_and_takes_the_others_once_there_is_room(tmp_path: Path) -> None:
    # As user nobody: memory that is locked, as root's is, takes all the room there is for the journal at the start.
    with (
        small_disk(tmp_path / "disk", 196) as disk,
        subject("held", "signal", count=1, unprivileged=True) as held,
        crowd(100, unprivileged=True) as many,
        GuardedLoop(give_to_nobody(disk), unprivileged=True) as guarded,
    ):
        guarded.control([held.order()])
        wait_until(held.all_paused, "it is held back")
        fill(disk)
        guarded.control([held.order(), listed("many", many)])
        wait_until(lambda: len(guarded.report().principals) == 2, "the order is carried out")
        assert "cannot grow: No space left on device; make room on its disk" in problem(guarded, "many")
        wait_until(lambda: not held.any_paused(), "who was there before is let go")
        wait_until(held.all_paused, "and held back")
        descriptors = [descriptors_after_report(guarded) for _ in range(4)]
        assert len(set(descriptors)) == 1, "who is refused again and again leaves nothing open"
        resize(disk, 4096)
        wait_until(lambda: problem(guarded, "many") == "", "the others are taken in later")
        guarded.guard.terminate()
        assert guarded.end() == (0, "")
        assert not held.any_paused()


def test_the_loops_memory_is_locked_where_that_is_permitted(tmp_path: Path) -> None:
    with GuardedLoop(tmp_path) as guarded:
        status = Path(f"/proc/{guarded.loop_pid}/status").read_text()
        (locked,) = [line.split() for line in status.splitlines() if line.startswith("VmLck:")]
        assert int(locked[1]) > 5_000, status  # KiB


@pytest.mark.skipif(v1_mount("memory") is None, reason="needs memory limits (v1 memory)")
def test_a_loop_that_the_kernel_ends_for_want_of_memory_leaves_nothing_paused(tmp_path: Path) -> None:
    with (
        temporary_cgroup(v1_mount("memory")) as small,
        subject("a", "freezer", count=1) as held,
        crowd(2000) as many,
        GuardedLoop(tmp_path) as guarded,
    ):
        guarded.control([held.order()])
        wait_until(held.all_paused, "it is held back")
        (small / "memory.limit_in_bytes").write_text(str(256 * 1024))
        move([guarded.loop_pid], small)
        guarded.control([held.order(), listed("many", many)])
        wait_until(guarded.loop_ended, "it is killed")
        took_ns = time_until_resumed([held], time.monotonic_ns())
        assert took_ns < GENEROUS_NS, f"resumed after {took_ns / NS_PER_MS:.0f} ms"
        assert guarded.end()[0] == 256 - signal.SIGKILL
        assert not held.any_paused()


def test_the_guard_takes_little_memory(tmp_path: Path) -> None:
    with subject("a", "freezer", count=1) as held, GuardedLoop(tmp_path) as guarded:
        guarded.control([held.order()])
        wait_until(held.all_paused, "it is held back")
        rollup = Path(f"/proc/{guarded.guard.pid}/smaps_rollup").read_text()
        (pss,) = [line.split() for line in rollup.splitlines() if line.startswith("Pss:")]
        print(f"{int(pss[1]) / 1024:.1f} MiB")
        assert int(pss[1]) <= 12_000_000 / 1024, rollup
