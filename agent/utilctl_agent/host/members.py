"""What the threads of a cgroup are doing: whether any is ready, and how long they have waited for a CPU.

Version 1 has no pressure figures, so a few threads stand for all. Their files stay open, since a read is then one
system call; who they are is looked up once a second.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import Final

from utilctl_agent.host.procstat import STATUS_BYTES, parse_status
from utilctl_agent.host.waiting import WaitCounter, parse_schedstat
from utilctl_common.quantities import NS_PER_S

SAMPLED: Final = 4
"""Threads that are looked at. Arbitrary: 2 us each, and more than the cores that most groups get."""
RENEW_NS: Final = NS_PER_S


class _Thread:
    """One thread's /proc files."""

    def __init__(self, tid: int, now_ns: int) -> None:
        self._status = os.open(f"/proc/{tid}/status", os.O_RDONLY | os.O_CLOEXEC)
        self._schedstat = -1
        with contextlib.suppress(OSError):
            self._schedstat = os.open(f"/proc/{tid}/schedstat", os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._waiting = WaitCounter(self._read(), now_ns)
        except OSError:
            self.close()
            raise

    def look(self, now_ns: int) -> tuple[int, bool]:
        """(time waited since the last look, whether it is ready or running). Raises OSError once it has ended."""
        counters = self._read()
        ready = parse_status(os.pread(self._status, STATUS_BYTES, 0))[0] == b"R"
        return self._waiting.waited_ns(counters, now_ns, ready=ready and self._schedstat >= 0), ready

    def _read(self) -> tuple[int, int]:
        if self._schedstat < 0:
            return 0, 0
        return parse_schedstat(os.pread(self._schedstat, 96, 0))

    def close(self) -> None:
        for fd in (self._status, self._schedstat):
            if fd >= 0:
                os.close(fd)


class SampledThreads:
    """A few threads of a cgroup and of the cgroups below it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._threads: dict[int, _Thread] = {}
        self._complete = False
        self._renewed_ns = -RENEW_NS
        self._wait_ns = 0

    def look(self) -> tuple[int, bool | None]:
        """(time that they waited for a CPU, since any fixed instant; whether nobody is ready, None: not known)."""
        now_ns = time.monotonic_ns()
        if now_ns - self._renewed_ns >= RENEW_NS:
            self._renewed_ns = now_ns
            self._renew(now_ns)
        ready = False
        for tid, thread in list(self._threads.items()):
            try:
                waited_ns, is_ready = thread.look(now_ns)
                self._wait_ns += waited_ns
                ready = ready or is_ready
            except OSError:
                self._drop(tid)
        return self._wait_ns, False if ready else True if self._complete else None

    @property
    def single(self) -> bool:
        """Whether there was exactly one thread when last looked up."""
        return self._complete and len(self._threads) == 1

    def _renew(self, now_ns: int) -> None:
        tids, self._complete = threads_below(self._path, SAMPLED)
        for tid in [tid for tid in self._threads if tid not in tids]:
            self._drop(tid)
        for tid in tids:
            if tid not in self._threads:
                with contextlib.suppress(OSError):
                    self._threads[tid] = _Thread(tid, now_ns)

    def _drop(self, tid: int) -> None:
        self._threads.pop(tid).close()

    def close(self) -> None:
        """Release the descriptors. Idempotent."""
        for tid in list(self._threads):
            self._drop(tid)


def threads_below(path: Path, limit: int) -> tuple[list[int], bool]:
    """Up to ``limit`` threads of a cgroup and those below it, and whether these are all. Empty if it is gone."""
    tids: list[int] = []
    pending = [str(path)]
    while pending:
        folder = pending.pop()
        try:
            tids.extend(map(int, _read(folder).split()))
            if len(tids) > limit:
                return tids[:limit], False
            with os.scandir(folder) as entries:
                pending.extend(sorted(entry.path for entry in entries if entry.is_dir(follow_symlinks=False)))
        except OSError:
            continue
    return tids, True


def _read(folder: str) -> bytes:
    for name in ("cgroup.threads", "tasks"):  # version 2, version 1
        with contextlib.suppress(FileNotFoundError):
            return Path(folder, name).read_bytes()
    return b""
