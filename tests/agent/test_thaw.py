"""Undoing pauses: exactly what a journal names and what still is what it means, on real processes and cgroups."""

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

from support.processes import is_frozen, is_stopped, spinning, temporary_cgroup, wait_until
from support.unprivileged import as_nobody, can_become_nobody, give_to_nobody
from utilctl_agent.host.procstat import ProcessId, identify
from utilctl_agent.safety.journal import HANG_NS, Journal
from utilctl_agent.safety.thaw import Thawed, default_run_dir, ensure_run_dir, thaw_journal, thaw_run_dir
from utilctl_common.quantities import NS_PER_S

root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: cgroups are made and owners changed")

UTILCTL = [sys.executable, "-m", "utilctl_cli.main"]


@contextlib.contextmanager
def stopped(count: int = 1) -> Iterator[list[ProcessId]]:
    """Processes stopped by SIGSTOP, gone afterwards."""
    with spinning(count) as processes:
        for process in processes:
            os.kill(process.pid, signal.SIGSTOP)
        for process in processes:
            wait_until(lambda pid=process.pid: is_stopped(pid), "the process stops")  # type: ignore[misc]  # a default
        yield processes


def freeze(cgroup: Path) -> None:
    """Freeze a cgroup as somebody with a shell would."""
    (cgroup / "cgroup.freeze").write_text("1")


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    """An empty journal in a run directory of its own."""
    folder = tmp_path / "run"
    folder.mkdir()
    made = Journal.create(str(folder / "a.journal"), slots=8)
    yield made
    made.close()


def note(journal: Journal, process: ProcessId, *, later_by: int = 0) -> int:
    """Note a pause of ``process``, or of another one that had its pid and started at another time."""
    slot = journal.enter_process(process.pid, process.start_ticks + later_by)
    journal.begin(slot, time.monotonic_ns())
    return slot


def note_cgroup(journal: Journal, cgroup: Path, *, inode: int | None = None) -> int:
    """Note a pause of ``cgroup``."""
    slot = journal.enter_cgroup(str(cgroup), cgroup.stat().st_ino if inode is None else inode)
    journal.begin(slot, time.monotonic_ns())
    return slot


@pytest.mark.kernel
def test_only_the_processes_that_the_journal_names_are_resumed(journal: Journal) -> None:
    with stopped(3) as (ours, stopped_by_hand, crossed_out):
        note(journal, ours)
        journal.end(note(journal, crossed_out))
        assert thaw_journal(journal) == Thawed(resumed=1)
        wait_until(lambda: not is_stopped(ours.pid), "our process goes on")
        assert is_stopped(stopped_by_hand.pid)
        assert is_stopped(crossed_out.pid)
    assert not journal.any_in_force()


@pytest.mark.kernel
def test_a_later_process_with_the_same_pid_is_left_alone(journal: Journal) -> None:
    with stopped() as (process,):
        note(journal, process, later_by=-1)
        assert thaw_journal(journal) == Thawed(gone=1)
        assert is_stopped(process.pid)
    assert not journal.any_in_force()


@pytest.mark.kernel
def test_a_process_that_ended_is_gone_and_no_failure(journal: Journal) -> None:
    with stopped() as (process,):
        note(journal, process)
    assert identify(process.pid) is None
    assert thaw_journal(journal) == Thawed(gone=1)
    assert thaw_journal(journal) == Thawed()


@pytest.mark.kernel
@pytest.mark.root
@root
def test_a_frozen_cgroup_is_thawed_if_it_is_still_the_same(journal: Journal) -> None:
    with temporary_cgroup() as ours, temporary_cgroup() as frozen_by_hand, temporary_cgroup() as later:
        for cgroup in (ours, frozen_by_hand, later):
            freeze(cgroup)
        note_cgroup(journal, ours)
        note_cgroup(journal, later, inode=ours.stat().st_ino)
        assert thaw_journal(journal) == Thawed(resumed=1, gone=1)
        assert not is_frozen(ours)
        assert is_frozen(frozen_by_hand)
        assert is_frozen(later)


@pytest.mark.kernel
@pytest.mark.root
@root
def test_a_cgroup_that_was_removed_or_made_anew_is_gone(journal: Journal) -> None:
    with temporary_cgroup() as cgroup:
        note_cgroup(journal, cgroup)
        cgroup.rmdir()
        assert thaw_journal(journal) == Thawed(gone=1)
    with temporary_cgroup() as cgroup:
        note_cgroup(journal, cgroup)
        cgroup.rmdir()
        cgroup.mkdir()
        freeze(cgroup)
        assert thaw_journal(journal) == Thawed(gone=1)
        assert is_frozen(cgroup)


@pytest.mark.kernel
@pytest.mark.root
@pytest.mark.skipif(not can_become_nobody(), reason="needs root and setpriv")
def test_what_may_not_be_resumed_stays_in_the_journal_and_is_reported(tmp_path: Path) -> None:
    folder = give_to_nobody(tmp_path / "run")
    path = folder / "a.journal"
    with stopped(2) as (one, two):
        journal = Journal.create(str(path), slots=4)
        note(journal, one)
        note(journal, two, later_by=1)
        journal.close()
        os.chown(path, folder.stat().st_uid, -1)
        for _ in range(2):  # what failed is tried again the next time
            ran = subprocess.run(
                as_nobody([*UTILCTL, "thaw", "--all", "--run-dir", str(folder), "-o", "json"]),
                capture_output=True, text=True, timeout=60, cwd="/",
                start_new_session=True,  # within a session anybody may send SIGCONT to anybody
            )  # fmt: skip
            assert ran.returncode == 1
            assert f"process {one.pid} cannot be resumed: Operation not permitted" in ran.stderr
            assert ran.stderr.count("\n") == 1
            assert len(json.loads(ran.stdout)["failures"]) == 1
            assert path.exists()
            assert is_stopped(one.pid)
        assert thaw_run_dir(str(folder), only_orphans=True) == Thawed(resumed=1)
        assert not path.exists()


@pytest.mark.kernel
def test_a_start_undoes_orphans_and_leaves_journals_with_a_living_owner_alone(tmp_path: Path) -> None:
    with stopped(2) as (orphaned, held):
        living = Journal.create(str(tmp_path / "living.journal"), slots=2)
        dead = Journal.create(str(tmp_path / "dead.journal"), slots=2)
        try:
            assert living.lock()
            note(living, held)
            note(dead, orphaned)
            dead.close()
            assert thaw_run_dir(str(tmp_path), only_orphans=True) == Thawed(resumed=1)
            wait_until(lambda: not is_stopped(orphaned.pid), "the orphan goes on")
            assert is_stopped(held.pid)
            assert living.any_in_force()
            assert [entry.name for entry in tmp_path.iterdir()] == ["living.journal"]

            assert thaw_run_dir(str(tmp_path), only_orphans=False) == Thawed(resumed=1)
            wait_until(lambda: not is_stopped(held.pid), "everything goes on")
            assert not living.any_in_force()
            assert [entry.name for entry in tmp_path.iterdir()] == ["living.journal"], "its owner still needs it"
        finally:
            living.close()
            dead.close()


@pytest.mark.kernel
def test_a_start_undoes_what_a_loop_holds_that_hangs_although_its_guard_is_there_and_may_be_stopped(
    tmp_path: Path,
) -> None:
    with stopped(2) as (held_by_hanging, held_by_living):
        journals = [Journal.create(str(tmp_path / name), slots=2) for name in ("hanging.journal", "living.journal")]
        try:
            now_ns = time.monotonic_ns()
            for journal, process, heartbeat_ns in zip(
                journals, (held_by_hanging, held_by_living), (now_ns - HANG_NS, now_ns + 3600 * NS_PER_S), strict=True
            ):
                assert journal.lock()
                journal.beat(heartbeat_ns)
                note(journal, process)
            assert thaw_run_dir(str(tmp_path), only_orphans=True) == Thawed(resumed=1)
            wait_until(lambda: not is_stopped(held_by_hanging.pid), "it goes on")
            assert is_stopped(held_by_living.pid)
            assert [journal.any_in_force() for journal in journals] == [False, True]
            assert len(list(tmp_path.iterdir())) == 2, "their guards still need them"
        finally:
            for journal in journals:
                journal.close()


def test_a_journal_whose_owner_ends_just_now_is_nothing_to_tell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "listdir", lambda _path: ["gone.journal"])  # listed, and removed before it is opened
    assert thaw_run_dir(str(tmp_path), only_orphans=True) == Thawed()


@pytest.mark.kernel
def test_an_unreadable_journal_is_reported_and_the_others_are_undone(tmp_path: Path) -> None:
    (tmp_path / "a.journal").write_bytes(b"garbage")
    (tmp_path / "b.journal").symlink_to("/etc/passwd")
    (tmp_path / "d.journal").mkdir()
    (tmp_path / "notes.txt").write_text("not a journal")
    with stopped() as (process,):
        journal = Journal.create(str(tmp_path / "c.journal"), slots=2)
        note(journal, process)
        journal.close()
        thawed = thaw_run_dir(str(tmp_path), only_orphans=True)
        assert (thawed.resumed, thawed.gone, len(thawed.failures)) == (1, 0, 3)
        for name, failure in zip("abd", thawed.failures, strict=True):
            assert f"{tmp_path}/{name}.journal cannot be read" in failure
        wait_until(lambda: not is_stopped(process.pid), "the process goes on")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.journal", "b.journal", "d.journal", "notes.txt"]


def test_without_a_run_directory_there_is_nothing_to_undo(tmp_path: Path) -> None:
    assert thaw_run_dir(str(tmp_path / "absent"), only_orphans=False) == Thawed()


def test_the_run_directory_is_made_for_its_owner_only_and_a_strangers_is_refused(tmp_path: Path) -> None:
    made = tmp_path / "deep" / "utilctl"
    assert ensure_run_dir(str(made)) == str(made)
    assert made.stat().st_mode & 0o777 == 0o700
    assert ensure_run_dir(str(made)) == str(made)
    link = tmp_path / "link"
    link.symlink_to(made)
    with pytest.raises(PermissionError, match="XDG_RUNTIME_DIR"):
        ensure_run_dir(str(link))


@pytest.mark.root
@root
def test_a_run_directory_of_another_user_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PermissionError, match="belongs to somebody else"):
        ensure_run_dir(str(give_to_nobody(tmp_path / "theirs")))


def test_users_without_root_have_run_directories_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1234)
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/1234")
    assert default_run_dir() == "/run/user/1234/utilctl"
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert default_run_dir() == "/tmp/utilctl-1234"
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert default_run_dir() == "/run/utilctl"


@pytest.mark.kernel
def test_thaw_all_by_hand_says_what_it_did(tmp_path: Path) -> None:
    with stopped(2) as (ours, stopped_by_hand):
        journal = Journal.create(str(tmp_path / "a.journal"), slots=4)
        note(journal, ours)
        note(journal, stopped_by_hand, later_by=7)
        journal.close()
        ran = subprocess.run(
            [*UTILCTL, "thaw", "--all", "--run-dir", str(tmp_path)], capture_output=True, text=True, timeout=60
        )
        assert (ran.returncode, ran.stdout, ran.stderr) == (0, "1 resumed, 1 gone already, 0 failed\n", "")
        wait_until(lambda: not is_stopped(ours.pid), "our process goes on")
        assert is_stopped(stopped_by_hand.pid)
    assert not list(tmp_path.iterdir())


def test_thaw_without_all_is_a_usage_error() -> None:
    ran = subprocess.run([*UTILCTL, "thaw"], capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stderr) == (2, "utilctl: error: say what to resume; write utilctl thaw --all\n")
