"""Undo pauses: by the guard when the loop cannot, at the next start, and by hand (``utilctl thaw --all``).

Only what a journal names is touched, and only if it still is what the journal means: same pid and start time, same
cgroup path and inode. Kept free of imports, as the guard lives on it.
"""

from __future__ import annotations

import os
import signal
import stat
from dataclasses import dataclass

from utilctl_agent.safety.journal import Journal, JournalError, Pause, PausedCgroup


@dataclass(frozen=True, slots=True)
class Thawed:
    """What a thaw did: pauses undone, pauses whose subject was gone already, and what could not be undone, and why."""

    resumed: int = 0
    gone: int = 0
    failures: tuple[str, ...] = ()

    def __add__(self, other: Thawed) -> Thawed:
        return Thawed(self.resumed + other.resumed, self.gone + other.gone, self.failures + other.failures)


def default_run_dir() -> str:
    """Where journals live: /run/utilctl for root, else below XDG_RUNTIME_DIR or /tmp."""
    if os.geteuid() == 0:
        return "/run/utilctl"
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    return f"{runtime}/utilctl" if runtime else f"/tmp/utilctl-{os.geteuid()}"  # noqa: S108 - checked by ensure


def ensure_run_dir(path: str) -> str:
    """Make the directory, owner-only. Raises PermissionError if somebody else owns it."""
    os.makedirs(path, mode=0o700, exist_ok=True)  # noqa: PTH103 - see journal
    found = os.lstat(path)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise PermissionError(f"{path} belongs to somebody else; set XDG_RUNTIME_DIR to a directory of your own")
    return path


def thaw_journal(journal: Journal) -> Thawed:
    """Undo every pause that the journal names as in force, and cross it out."""
    result = Thawed()
    for slot, pause in journal.in_force():
        outcome = _undo(pause)
        if not outcome.failures:
            journal.end(slot)
        result += outcome
    return result


def thaw_run_dir(path: str, *, only_orphans: bool) -> Thawed:
    """Undo the pauses of every journal in a directory.

    only_orphans: leave alone journals whose guard is alive, and remove the others once they are empty; this is what
    a start does. Otherwise everything is resumed, and agents that are alive go on deciding afresh.
    """
    result = Thawed()
    try:
        names = sorted(os.listdir(path))  # noqa: PTH208 - see journal
    except FileNotFoundError:
        return result
    for name in names:
        if not name.endswith(".journal"):
            continue
        try:
            journal = Journal.open(f"{path}/{name}")
        except (OSError, JournalError) as error:
            result += Thawed(failures=(f"journal {path}/{name} cannot be read: {error}",))
            continue
        orphan = journal.lock()
        if orphan or not only_orphans:
            outcome = thaw_journal(journal)
            result += outcome
            journal.close(unlink=orphan and not outcome.failures)
        else:
            journal.close()
    return result


def _undo(pause: Pause) -> Thawed:
    try:
        done = _thaw_cgroup(pause) if isinstance(pause, PausedCgroup) else _continue(pause.pid, pause.start_ticks)
    except (FileNotFoundError, ProcessLookupError):
        return Thawed(gone=1)
    except OSError as error:
        what = pause.path if isinstance(pause, PausedCgroup) else f"process {pause.pid}"
        return Thawed(failures=(f"{what} cannot be resumed: {error.strerror}",))
    return Thawed(resumed=1) if done else Thawed(gone=1)


def _thaw_cgroup(pause: PausedCgroup) -> bool:
    folder = os.open(pause.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if os.fstat(folder).st_ino != pause.inode:
            return False
        knob = os.open("cgroup.freeze", os.O_WRONLY | os.O_CLOEXEC, dir_fd=folder)
        try:
            os.write(knob, b"0")
        finally:
            os.close(knob)
    finally:
        os.close(folder)
    return True


def _continue(pid: int, start_ticks: int) -> bool:
    pidfd = os.pidfd_open(pid)
    try:
        # Read after pidfd_open: if the start time fits, the pidfd is the process that was paused.
        fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
        try:
            content = os.read(fd, 1024)
        finally:
            os.close(fd)
        if int(content[content.rindex(b")") + 2 :].split()[19]) != start_ticks:
            return False
        signal.pidfd_send_signal(pidfd, signal.SIGCONT)
    finally:
        os.close(pidfd)
    return True
