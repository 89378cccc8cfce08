"""Who manages a scope now: the guards that are alive, told by the journals that they keep locked.

A guard's journal is ``NAME-PID.journal``, where NAME says what is managed. Its lock ends with the guard, however that
ends, so there is nothing that could be left behind and keep the next agent from starting.
"""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass

_SUFFIX = ".journal"


@dataclass(frozen=True, slots=True)
class Owner:
    """A guard that is alive. ``reachable``: its pid is known to be this guard's, and not that of a process which has
    the same pid in another pid namespace."""

    pid: int
    journal: str
    reachable: bool


def living_owners(run_dir: str, name: str) -> list[Owner]:
    """The guards that are alive and whose journals in ``run_dir`` are called ``name``. Raises OSError."""
    owners: list[Owner] = []
    try:
        entries = sorted(os.listdir(run_dir))  # noqa: PTH208 - see journal
    except FileNotFoundError:
        return owners
    for entry in entries:
        pid = entry.removeprefix(f"{name}-").removesuffix(_SUFFIX)
        if entry == f"{name}-{pid}{_SUFFIX}" and pid.isdecimal() and _is_locked(f"{run_dir}/{entry}"):
            owners.append(Owner(int(pid), f"{run_dir}/{entry}", _is_guard(int(pid), run_dir, name)))
    return owners


def name_in(journal: str) -> str:
    """The name in a journal's path; inverse of what the guard does."""
    return os.path.basename(journal).rpartition("-")[0]  # noqa: PTH119 - see journal


def _is_locked(path: str) -> bool:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False  # removed by its guard just now
    try:
        # Shared, so that two who look at the same time do not take each other for the owner.
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(fd)
    return False


def _is_guard(pid: int, run_dir: str, name: str) -> bool:
    try:
        fd = os.open(f"/proc/{pid}/cmdline", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        arguments = os.read(fd, 4096).split(b"\0")
    except OSError:
        return False
    finally:
        os.close(fd)
    wanted = [b"utilctl_agent.safety.guard", os.fsencode(run_dir), os.fsencode(name)]
    return any(arguments[at : at + 3] == wanted for at in range(len(arguments)))
