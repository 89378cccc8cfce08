"""Undo pauses and weights: by the guard when the loop cannot, at the next start, and by ``utilctl thaw --all``.

Only what a journal names is touched, and only if it still is what the journal means: same pid and start time, same
cgroup path and inode, and a weight only if it still is the one that we wrote. Kept free of imports, as the guard lives
on it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import stat
import time
from dataclasses import dataclass

from utilctl_agent.safety.journal import (
    HANG_NS,
    ChangedWeight,
    Journal,
    JournalError,
    Pause,
    PausedCgroup,
    quota_in,
    spelled,
)

STOP_GRACE_NS = 80_000_000
"""What a loop gets to resume everything by itself, once it was told to end, before others do it."""
DEATH_GRACE_NS = 20_000_000
"""What a killed loop gets to be gone; one that waits for a disk takes longer."""
LOOK_AGAIN_S = 0.005


@dataclass(frozen=True, slots=True)
class Thawed:
    """What a thaw did: pauses undone, what was gone already, what could not be undone and why, weights put back."""

    resumed: int = 0
    gone: int = 0
    failures: tuple[str, ...] = ()
    weights: int = 0

    def __add__(self, other: Thawed) -> Thawed:
        return Thawed(
            self.resumed + other.resumed,
            self.gone + other.gone,
            self.failures + other.failures,
            self.weights + other.weights,
        )


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


def thaw_journal(journal: Journal, *, weights: bool = True) -> Thawed:
    """Undo every pause that the journal names as in force, and cross it out; with ``weights`` also every weight.

    A loop that lives needs its weights: it would take what is written here for somebody else's wish.
    """
    result = Thawed()
    for slot, noted in [*journal.in_force(), *(journal.changed() if weights else [])]:
        outcome = _undo(noted)
        if not outcome.failures:
            journal.cross_out(slot, noted)
        result += outcome
    return result


def overrule(journal: Journal, loop_fd: int) -> Thawed:
    """Kill a loop that hangs, then undo its pauses. loop_fd: its pidfd.

    In this order, for a loop that is only slow could pause somebody between the two.
    """
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(loop_fd, signal.SIGKILL)
    ends_within(loop_fd, DEATH_GRACE_NS)
    return thaw_journal(journal, weights=False)


def ends_within(process_fd: int, wait_ns: int) -> bool:
    """Wait for the end of a process, by its pidfd; False if it takes longer than that."""
    ended = select.poll()
    ended.register(process_fd, select.POLLIN)
    return bool(ended.poll(wait_ns / 1e6))


def _left_alone(journal: Journal) -> bool:
    """Whether its loop is dead or hangs with pauses in force, and its guard, which holds the lock, does nothing.

    A guard that was stopped does not. Takes until the loop shows that it lives, HANG_NS at most.
    """
    heard_ns = journal.heartbeat_ns()
    if not heard_ns:
        return False
    give_up_ns = time.monotonic_ns() + HANG_NS
    while journal.any_in_force() and journal.heartbeat_ns() == heard_ns:
        now_ns = time.monotonic_ns()
        if now_ns - heard_ns > HANG_NS:
            return True
        if now_ns > give_up_ns:
            return False
        time.sleep(LOOK_AGAIN_S)
    return False


def thaw_run_dir(path: str, *, only_orphans: bool) -> Thawed:
    """Undo the pauses of every journal in a directory.

    only_orphans: leave alone journals whose guard is alive and whose loop does not hang (a stopped guard would not
    undo that), and remove those without a guard once they are empty; this is what a start does. Otherwise everything is
    resumed, and agents that are alive go on deciding afresh.
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
        except FileNotFoundError:
            continue  # its owner has ended just now, and left nothing
        except (OSError, JournalError) as error:
            result += Thawed(failures=(f"journal {path}/{name} cannot be read: {error}",))
            continue
        orphan = journal.lock()
        if orphan or not only_orphans or _left_alone(journal):
            outcome = thaw_journal(journal, weights=orphan)
            result += outcome
            journal.close(unlink=orphan and not outcome.failures)
        else:
            journal.close()
    return result


def _undo(noted: Pause | ChangedWeight) -> Thawed:
    try:
        if isinstance(noted, ChangedWeight):
            return Thawed(weights=1) if _restore(noted) else Thawed(gone=1)
        done = _thaw_cgroup(noted) if isinstance(noted, PausedCgroup) else _continue(noted.pid, noted.start_ticks)
    except (FileNotFoundError, ProcessLookupError):
        return Thawed(gone=1)
    except OSError as error:
        if isinstance(noted, ChangedWeight):
            return Thawed(failures=(f"{noted.knob} of {noted.path} cannot be put back: {error.strerror}",))
        what = noted.path if isinstance(noted, PausedCgroup) else f"process {noted.pid}"
        return Thawed(failures=(f"{what} cannot be resumed: {error.strerror}",))
    return Thawed(resumed=1) if done else Thawed(gone=1)


def _thaw_cgroup(pause: PausedCgroup) -> bool:
    knob, value = ("freezer.state", b"THAWED") if pause.v1 else ("cgroup.freeze", b"0")
    fd = _open_knob(pause.path, pause.inode, knob, os.O_WRONLY)
    if fd < 0:
        return False
    try:
        os.write(fd, value)
    finally:
        os.close(fd)
    return True


def _restore(weight: ChangedWeight) -> bool:
    fd = _open_knob(weight.path, weight.inode, weight.knob, os.O_RDWR)
    if fd < 0:
        return False
    try:
        if quota_in(os.pread(fd, 32, 0)) not in (weight.before, weight.written):
            return False  # somebody else has set it since: it is theirs
        os.pwrite(fd, spelled(weight.knob, weight.found), 0)
    finally:
        os.close(fd)
    return True


def _open_knob(path: str, inode: int, knob: str, flags: int) -> int:
    """A file of the cgroup; -1 if the path is another cgroup's by now."""
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if os.fstat(folder).st_ino != inode:
            return -1
        return os.open(knob, flags | os.O_CLOEXEC, dir_fd=folder)
    finally:
        os.close(folder)


def _continue(pid: int, start_ticks: int) -> bool:
    pidfd = open_process(pid, start_ticks)
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGCONT)
    finally:
        os.close(pidfd)
    return True


def open_process(pid: int, start_ticks: int) -> int:
    """A pidfd of the process that started then. Raises ProcessLookupError if it has ended, other OSErrors."""
    pidfd = os.pidfd_open(pid)
    try:
        # Read after pidfd_open: if the start time fits, the pidfd is the process that is meant.
        fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
        try:
            content = os.read(fd, 1024)
        finally:
            os.close(fd)
        if int(content[content.rindex(b")") + 2 :].split()[19]) != start_ticks:
            raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))
    except BaseException:
        os.close(pidfd)
        raise
    return pidfd
