"""/proc/PID/stat and /proc/PID/status: who a process is, what it does, what it used.

A read of ``stat`` waits for a process that is just becoming another program (execve) to get that done. Where it has to
wait for a CPU itself, that takes long: 0.5 to 2 s beside 400 spinners, by measurement, on Linux 6.18; ``status`` never
took more than 1 ms. So whoever must not be kept waiting asks ``status`` (``read_state``), at twice the cost.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from itertools import islice
from typing import Final

from utilctl_common.quantities import NS_PER_S

TICK_NS: Final = NS_PER_S // os.sysconf("SC_CLK_TCK")
STATUS_BYTES: Final = 4096
"""All of it but for processes in hundreds of groups."""


@dataclass(frozen=True, slots=True)
class ProcessId:
    """A process that cannot be mistaken for a later one with the same pid.

    ``start_ticks`` is field 22 of /proc/PID/stat: when it started, in clock ticks since boot.
    """

    pid: int
    start_ticks: int


def read_stat(tid: int, pid: int | None = None) -> tuple[bytes, int, int, int] | None:
    """(state, start ticks, threads, CPU time in ns by ticks) of process ``tid``, or of that thread of process ``pid``.

    None if it is gone.
    """
    try:
        fd = os.open(f"/proc/{tid}/stat" if pid is None else f"/proc/{pid}/task/{tid}/stat", os.O_RDONLY | os.O_CLOEXEC)
        try:
            content = os.read(fd, 1024)
        finally:
            os.close(fd)
    except OSError:
        return None
    return parse_stat(content)


def read_state(tid: int, pid: int | None = None) -> tuple[bytes, int] | None:
    """(state, threads) of process ``tid``, or of that thread of ``pid``, without waiting for it; None if it is gone."""
    path = f"/proc/{tid}/status" if pid is None else f"/proc/{pid}/task/{tid}/status"
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return parse_status(os.read(fd, STATUS_BYTES))
        finally:
            os.close(fd)
    except OSError:
        return None


def thread_states(pid: int, limit: int) -> set[bytes]:
    """States of up to ``limit`` threads of a process. Raises OSError once it has ended."""
    states: set[bytes] = set()
    with os.scandir(f"/proc/{pid}/task") as threads:
        for thread in islice(threads, limit):
            found = read_state(int(thread.name), pid)
            if found is not None:
                states.add(found[0])
    return states


def parse_stat(content: bytes) -> tuple[bytes, int, int, int]:
    """(state, start ticks, threads, CPU time in ns by ticks) from the content of /proc/PID/stat."""
    fields = content[content.rindex(b")") + 2 :].split()
    return fields[0], int(fields[19]), int(fields[17]), (int(fields[11]) + int(fields[12])) * TICK_NS


def parse_status(content: bytes) -> tuple[bytes, int]:
    """(state, threads) from the first STATUS_BYTES of /proc/PID/status, where a newline in a name is escaped."""
    state = content.index(b"\nState:\t") + 8
    threads = content.find(b"\nThreads:\t", state) + 10
    # A process in very many groups has its threads further down; it is then taken to have one.
    count = int(content[threads : content.index(b"\n", threads)]) if threads >= 10 else 1
    return content[state : state + 1], count


def parse_handed_up_ns(content: bytes) -> int:
    """CPU time of children that were waited for, and of theirs, from the content of /proc/PID/stat: by ticks, rounded
    down twice.
    """
    fields = content[content.rindex(b")") + 2 :].split(None, 15)
    return (int(fields[13]) + int(fields[14])) * TICK_NS


def has_ended(state: bytes, threads: int) -> bool:
    """Whether a process in ``state`` has ended. One whose main thread has exited is a zombie, too, but lives on as long
    as it has other threads.
    """
    return state in (b"Z", b"X", b"x") and threads <= 1


def identify(pid: int) -> ProcessId | None:
    """The identity of a live process, or None if there is none with that pid (zombies count as gone)."""
    stat = read_stat(pid)
    return None if stat is None or has_ended(stat[0], stat[2]) else ProcessId(pid, stat[1])
