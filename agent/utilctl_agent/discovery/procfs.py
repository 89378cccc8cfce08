"""Reading processes from /proc, directly: about ten times cheaper than a general library, and cheaper still
when nothing changed.

A process may end, change or be out of reach at any moment; that is normal here and is counted, never raised.
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from utilctl_agent.discovery.cgroupfs import cgroup_mounts, host_cgroups
from utilctl_agent.discovery.facts import CgroupPath, LabelSource, NoLabels, ProcessFacts
from utilctl_common.errors import FailedError

MAX_CMDLINE_BYTES: Final = 32 * 1024
"""Longest command line kept. Arbitrary: Java class paths fit, and a regular expression stays bounded."""

MAX_ENVIRONMENT_BYTES: Final = 2 * 1024 * 1024
"""Longest environment read: what the kernel lets a new program have (a quarter of an 8 MiB stack)."""

_MAX_STAT_BYTES: Final = 2048
"""Above 52 numbers of 20 digits and a name."""

_PF_KTHREAD: Final = 0x00200000
_CACHED_CGROUP_TEXTS: Final = 10_000
"""Distinct /proc/PID/cgroup texts remembered. Arbitrary: more than one host has pods."""


class ProcessGoneError(Exception):
    """The process ended while it was being read."""


class ProcessHiddenError(Exception):
    """The process may not be looked at (mount option hidepid)."""


@dataclass(frozen=True, slots=True)
class Stat:
    """What /proc/PID/stat says. ``raw`` is its text; as long as that is the same, so is everything else here.

    ``image`` changes when the process executes another program (addresses of its code, arguments and
    environment), and is all zero for a process that we may not trace. ``ended`` holds for zombies without
    running threads.
    """

    raw: bytes
    pid: int
    comm: str
    ppid: int
    start_ticks: int
    image: tuple[bytes, ...]
    kernel_thread: bool
    leader_gone: bool
    ended: bool
    threads: int


def parse_stat(pid: int, raw: bytes) -> Stat:
    """Parse the text of /proc/PID/stat. The name in it may hold spaces and parentheses. Raises ValueError."""
    opening, closing = raw.find(b"("), raw.rfind(b")")
    fields = raw[closing + 2 :].split()
    if opening < 0 or closing < opening or len(fields) < 49:
        raise ValueError(f"stat of pid {pid} is malformed")
    # fields[n] is field n + 3 of proc_pid_stat(5).
    leader_gone = fields[0] in (b"Z", b"X", b"x")
    threads = int(fields[17])
    return Stat(
        raw=raw,
        pid=pid,
        comm=_text(raw[opening + 1 : closing]),
        ppid=int(fields[1]),
        start_ticks=int(fields[19]),
        image=(*fields[23:26], *fields[42:49]),
        kernel_thread=bool(int(fields[6]) & _PF_KTHREAD),
        leader_gone=leader_gone,
        ended=leader_gone and threads <= 1,
        threads=threads,
    )


def _text(data: bytes) -> str:
    # Processes put any bytes here; the text goes into JSON and protobuf, which take UTF-8 alone.
    return data.decode("utf-8", "replace")


def _arguments(data: bytes) -> str:
    return _text(data.rstrip(b"\0").replace(b"\0", b" "))


def parse_environment(data: bytes, wanted: Iterable[str]) -> tuple[tuple[str, str], ...]:
    """The ``wanted`` variables of an environment block, sorted. Of a variable that stands twice the first
    counts, as for getenv(3).
    """
    found: dict[str, str] = {}
    block = b"\0" + data
    for name in wanted:
        needle = b"\0" + os.fsencode(name) + b"="
        start = block.find(needle)
        if start >= 0:
            start += len(needle)
            end = block.find(b"\0", start)
            found[name] = _text(block[start : end if end >= 0 else len(block)])
    return tuple(sorted(found.items()))


class ProcReader:
    """Reads processes below ``proc_root``. Not for use by several threads at once."""

    def __init__(self, proc_root: str = "/proc", *, labels: LabelSource | None = None) -> None:
        self.proc_root = proc_root
        self.labels: LabelSource = labels or NoLabels()
        self._user_names: dict[int, str] = {}
        self._cgroups: dict[bytes, tuple[CgroupPath, ...]] = {}
        self._mounts = cgroup_mounts(Path(proc_root))

    def pids(self) -> list[int]:
        """The pids of all processes that can be seen now. Raises FailedError if there is no /proc."""
        try:
            names = os.listdir(self.proc_root)  # noqa: PTH208 - Path objects cost more than the call
        except OSError as error:
            raise FailedError(f"cannot list {self.proc_root}: {error.strerror}", hint="mount proc there") from None
        return [int(name) for name in names if name.isdecimal()]

    def last_pid(self) -> int | None:
        """The pid given out last, by which a reader knows what pids may have been reused; None if it is not told."""
        try:
            with open(f"{self.proc_root}/loadavg", "rb") as file:  # noqa: PTH123 - a Path costs as much
                return int(file.read(128).split()[-1])
        except (OSError, ValueError, IndexError):
            return None

    def stat_text(self, pid: int) -> bytes:
        """The text of /proc/PID/stat.

        Raises ProcessGoneError, ProcessHiddenError, and OSError when this process itself lacks something,
        such as file descriptors.
        """
        # Written out, since every scan does this for every process.
        try:
            fd = os.open(f"{self.proc_root}/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
            try:
                return os.read(fd, _MAX_STAT_BYTES)
            finally:
                os.close(fd)
        except (FileNotFoundError, ProcessLookupError):
            raise ProcessGoneError from None
        except PermissionError:
            raise ProcessHiddenError from None

    def stat(self, pid: int) -> Stat:
        """/proc/PID/stat, parsed. Raises as stat_text."""
        try:
            return parse_stat(pid, self.stat_text(pid))
        except ValueError:
            raise ProcessGoneError from None

    def facts(self, stat: Stat, wanted: frozenset[str]) -> ProcessFacts:
        """Everything else about a process, and of its environment the variables ``wanted``.

        What may not be read is left empty. Raises as stat_text.
        """
        pid = stat.pid
        uid = self._uid(pid)
        cgroups = self._cgroups_of(pid)
        environment = self._read_permitted(pid, "environ", MAX_ENVIRONMENT_BYTES)
        cmdline = self._read_permitted(pid, "cmdline", MAX_CMDLINE_BYTES) or b""
        facts = ProcessFacts(
            pid=pid,
            start_ticks=stat.start_ticks,
            ppid=stat.ppid,
            uid=uid,
            user=self._user_name(uid),
            comm=stat.comm,
            exe=self._exe(pid),
            cmdline=_arguments(cmdline),
            cgroups=cgroups,
            environment=None if environment is None else parse_environment(environment, wanted),
            labels=self._labels_of(cgroups),
        )
        # The pid may have gone to another process between two of these reads.
        if self.stat(pid).start_ticks != stat.start_ticks:
            raise ProcessGoneError
        return facts

    def refreshed(self, facts: ProcessFacts, stat: Stat) -> ProcessFacts:
        """``facts`` with what may change while the program stays the same, read anew.

        That is user, cgroups with their labels, command line, name and parent. Raises as stat_text.
        """
        uid = self._uid(stat.pid)
        user = self._user_name(uid)
        cgroups = self._cgroups_of(stat.pid)
        cmdline = _arguments(self._read_permitted(stat.pid, "cmdline", MAX_CMDLINE_BYTES) or b"")
        if (stat.ppid, uid, user, stat.comm, cmdline, cgroups) == (
            facts.ppid, facts.uid, facts.user, facts.comm, facts.cmdline, facts.cgroups
        ):  # fmt: skip
            return facts
        return replace(
            facts,
            ppid=stat.ppid,
            uid=uid,
            user=user,
            comm=stat.comm,
            cmdline=cmdline,
            cgroups=cgroups,
            labels=self._labels_of(cgroups),
        )

    def forked(self, parent: ProcessFacts, stat: Stat) -> ProcessFacts:
        """Facts of a child that runs its parent's program, at a fifth of the cost: from the parent's, but for those
        that need not be the same. Raises as stat_text.
        """
        uid = self._uid(stat.pid)
        cgroups = self._cgroups_of(stat.pid)
        return replace(
            parent,
            pid=stat.pid,
            start_ticks=stat.start_ticks,
            ppid=stat.ppid,
            comm=stat.comm,
            uid=uid,
            user=parent.user if uid == parent.uid else self._user_name(uid),
            cgroups=cgroups,
            labels=parent.labels if cgroups == parent.cgroups else self._labels_of(cgroups),
        )

    def forget_user_names(self) -> None:
        """Ask for the names of users anew from now on."""
        self._user_names.clear()

    def _read(self, pid: int, name: str, limit: int) -> bytes:
        try:
            fd = os.open(f"{self.proc_root}/{pid}/{name}", os.O_RDONLY | os.O_CLOEXEC)
        except (FileNotFoundError, ProcessLookupError):
            raise ProcessGoneError from None
        try:
            data = os.read(fd, min(limit, 65536))
            if len(data) < 4096:
                return data
            chunks = [data]
            size = len(data)
            while data and size < limit:
                data = os.read(fd, min(limit - size, 65536))
                chunks.append(data)
                size += len(data)
            return b"".join(chunks)
        except ProcessLookupError:
            raise ProcessGoneError from None
        finally:
            os.close(fd)

    def _read_permitted(self, pid: int, name: str, limit: int) -> bytes | None:
        try:
            return self._read(pid, name, limit)
        except PermissionError:
            return None

    def _uid(self, pid: int) -> int:
        try:
            # The directory belongs to the effective user even where the files in it belong to root.
            return os.stat(f"{self.proc_root}/{pid}").st_uid  # noqa: PTH116 - a Path costs as much
        except (FileNotFoundError, ProcessLookupError):
            raise ProcessGoneError from None
        except PermissionError:
            raise ProcessHiddenError from None

    def _labels_of(self, cgroups: tuple[CgroupPath, ...]) -> tuple[tuple[str, str], ...]:
        return tuple(sorted(self.labels.labels_of(cgroups).items()))

    def _exe(self, pid: int) -> str:
        try:
            target = os.readlink(f"{self.proc_root}/{pid}/exe")  # noqa: PTH115 - a Path costs as much
        except (PermissionError, FileNotFoundError):
            return ""
        except ProcessLookupError:
            raise ProcessGoneError from None
        return target.removesuffix(" (deleted)").rpartition("/")[2]

    def _cgroups_of(self, pid: int) -> tuple[CgroupPath, ...]:
        text = self._read_permitted(pid, "cgroup", 65536) or b""
        known = self._cgroups.get(text)
        if known is None:
            if len(self._cgroups) >= _CACHED_CGROUP_TEXTS:
                self._cgroups.clear()
            known = self._cgroups[text] = host_cgroups(os.fsdecode(text), self._mounts)
        return known

    def _user_name(self, uid: int) -> str:
        name = self._user_names.get(uid)
        if name is None:
            try:
                name = pwd.getpwuid(uid).pw_name
            except (KeyError, OSError):
                name = str(uid)
            self._user_names[uid] = name
        return name
