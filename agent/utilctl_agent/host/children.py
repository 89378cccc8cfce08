"""Children of a process, as the kernel lists them: /proc/PID/task/TID/children (CONFIG_PROC_CHILDREN)."""

from __future__ import annotations

import os
from typing import Final

MOST_THREADS: Final = 8
"""Threads of a process whose children are looked for. Arbitrary: 5 us each."""


def lists_children() -> bool:
    """Whether this kernel does."""
    return os.path.exists(f"/proc/{os.getpid()}/task/{os.getpid()}/children")  # noqa: PTH110 - a Path costs more


def children(pid: int, threads: int = MOST_THREADS) -> list[int]:
    """Their pids; empty once it is gone. threads: how many it has, as far as known: one means less work."""
    try:
        tids = [str(pid)] if threads == 1 else os.listdir(f"/proc/{pid}/task")[:MOST_THREADS]  # noqa: PTH208 - see above
        return [int(child) for tid in tids for child in _read(f"/proc/{pid}/task/{tid}/children").split()]
    except OSError:
        return []


def family(pid: int) -> set[int]:
    """A process and all that descend from it."""
    found, pending = {pid}, [pid]
    while pending:
        fresh = set(children(pending.pop())) - found
        found |= fresh
        pending.extend(fresh)
    return found


def _read(path: str) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        content = b""
        while more := os.read(fd, 65536):
            content += more
        return content
    finally:
        os.close(fd)
