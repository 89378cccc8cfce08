"""Whom a pause reaches: members with pids of another namespace, and nobody who took over a name or number of theirs."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.pausing import (
    assert_paused_and_resumed,
    each_freezer,
    each_kind,
    finished,
    needs_root,
    open_group,
    stands_still,
)
from support.processes import end_process, freeze, is_frozen, is_stopped, remove_cgroup, spinning, wait_until
from utilctl_agent.host.opening import open_cgroup
from utilctl_agent.host.port import GroupGoneError
from utilctl_agent.host.processes import ProcessGroup
from utilctl_agent.host.procstat import ProcessId, identify
from utilctl_agent.safety.journal import Journal
from utilctl_agent.safety.thaw import thaw_journal

pytestmark = pytest.mark.kernel


class TestContainers:
    @each_kind
    @pytest.mark.root
    @needs_root
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
        freeze(cgroup)
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
    @needs_root
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
