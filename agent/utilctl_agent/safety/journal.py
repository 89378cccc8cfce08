"""The journal: every pause in force and every changed weight, in a memory-mapped file that outlives its writer.

The loop notes a pause *before* it asks the kernel for it and crosses it out *after* the kernel undid it, so the
journal names at least everything that is paused. Guard, link, the next start and ``utilctl thaw --all`` read it.
A note is two stores into mapped memory, so it costs the loop well under a microsecond and needs no write.

A changed weight (``cpu.shares``, ``cpu.weight``), or a quota, stops nobody for long and may stay in force for as long
as the loop lives, so it has a flag of its own: neither its age nor the loop's heartbeat makes the guard act on it. It
is undone with the pauses once the loop has ended.

Layout, little endian: a header page; one flag byte a slot; eight bytes a slot for when the pause began
(CLOCK_MONOTONIC, ns: while the host is suspended nobody runs, and no pause gets longer) or for the last two values of
the weight; one record a slot. Room on the disk is taken before anything is stored there, so a full disk refuses a slot
and kills nobody. Kept free of imports: the guard lives on it. The writer also puts off the guard's alarm, if it is
given one, as long as any pause is in force.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass

MAGIC = b"utilctlJ"
VERSION = 1
SLOTS = 16_384
"""Pauses and weights in force at once, of processes and cgroups together. 5,000 processes fit three times."""

_HEADER = struct.Struct("<8sII")  # magic, version, slots
_HEARTBEAT_AT = 64
_HEADER_BYTES = 4096
_SINCE = struct.Struct("<Q")
_RECORD = struct.Struct("<BxxxIQQH")  # kind, pid, start ticks or weight, inode, path length; the path follows
_RECORD_BYTES = 512
_RESERVED_AT_ONCE = 64
"""Records for which room on the disk is taken at a time. Arbitrary: 32 KiB."""
_KIND_PROCESS = 1
_KIND_CGROUP = 2
_KIND_CGROUP_V1 = 3
_KNOBS = {4: "cpu.shares", 5: "cpu.weight", 6: "cpu.cfs_quota_us", 7: "cpu.max"}
"""Kinds of records of weights and quotas; what was found stands where processes have their start time."""
NO_QUOTA = 0
"""How a quota that sets no bound is noted; the kernel knows none of zero."""
_LIFTED = {"cpu.cfs_quota_us": b"-1", "cpu.max": b"max"}
_CHANGED = b"\x02"
HANG_NS = 190_000_000
"""With a pause in force, a loop that has not been heard of for this long hangs. The alarm wakes the guard just then, so
this is also the time to detection; the rest of the promised 250 ms is for undoing the pauses."""
RENEW_NS = 100_000_000
"""The alarm is put off this often at most. Should it ring for that although the loop was heard of since, the guard
looks again when the last heartbeat is HANG_NS old."""
_NEVER_NS = 1 << 62
_BEAT_EVERY = 256
"""Notes crossed out from one heartbeat to the next: letting thousands of processes go takes long, and is no hang."""
_LOW_32 = (1 << 32) - 1
MAX_PATH_BYTES = _RECORD_BYTES - _RECORD.size


class JournalError(Exception):
    """The journal cannot be used: it or its disk is full, or it is damaged or of another version."""


@dataclass(frozen=True, slots=True)
class PausedProcess:
    """A process stopped by a signal; ``start_ticks`` tells it from a later one with its pid."""

    pid: int
    start_ticks: int
    since_ns: int


@dataclass(frozen=True, slots=True)
class PausedCgroup:
    """A frozen cgroup; ``inode`` tells it from a later one with its path. v1: by ``freezer.state``."""

    path: str
    inode: int
    since_ns: int
    v1: bool = False


Pause = PausedProcess | PausedCgroup


@dataclass(frozen=True, slots=True)
class ChangedWeight:
    """A cgroup whose ``knob``, a weight or a quota in microseconds, had the value ``found`` and was moved by us, from
    ``before`` to ``written`` last.

    The note comes before the write: the knob holds one of these two, or a third value that somebody else wrote.
    """

    path: str
    inode: int
    knob: str
    found: int
    before: int
    written: int


def quota_in(content: bytes) -> int:
    """What stands in a quota's file, or a weight's: its first number; NO_QUOTA if it sets no bound."""
    word = content.split()[0]
    return NO_QUOTA if word in _LIFTED.values() else int(word)


def spelled(knob: str, value: int) -> bytes:
    """``value`` as it is written into the knob's file."""
    return _LIFTED[knob] if value == NO_QUOTA and knob in _LIFTED else b"%d" % value


def journal_path(run_dir: str, name: str, guard_pid: int) -> str:
    """Where the guard with that pid keeps its journal."""
    return f"{run_dir}/{name}-{guard_pid}.journal"


class Journal:
    """One journal file, mapped. One writer (the loop); any number of readers."""

    def __init__(self, path: str, fd: int, slots: int) -> None:
        """Use ``create`` or ``open``."""
        self.path = path
        self._fd = fd
        self._slots = slots
        self._flags_at = _HEADER_BYTES
        self._since_at = self._flags_at + slots
        self._records_at = self._since_at + 8 * slots
        self._map = mmap.mmap(fd, self._records_at + slots * _RECORD_BYTES)
        self._free = list(range(slots - 1, -1, -1))
        self._reserved = 0  # slots up to this one are known to have room on the disk for their records
        self._ended = 0
        self._put_off: Callable[[int], None] | None = None
        self._renew_ns = _NEVER_NS  # when the alarm is to be put off again, if a pause is in force then

    @classmethod
    def create(cls, path: str, slots: int = SLOTS) -> Journal:
        """Make an empty journal, owner-only and locked. Raises FileExistsError, or OSError if there is no room for it.

        It gets its name only once it is whole and locked: whoever starts meanwhile and looks for what others left
        behind would take it for an orphan, and remove it.
        """
        unfinished = f"{path}.{os.getpid()}.new"
        fd = os.open(unfinished, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            size = _HEADER_BYTES + slots * (1 + 8 + _RECORD_BYTES)
            # Take room for header, flags and times now: a full disk must show here, not as SIGBUS on a store.
            os.ftruncate(fd, size)
            os.posix_fallocate(fd, 0, _HEADER_BYTES + slots * 9)
            os.pwrite(fd, _HEADER.pack(MAGIC, VERSION, slots), 0)
            journal = cls(path, fd, slots)
            os.link(unfinished, path)  # unlike a rename, it replaces nothing
            return journal  # noqa: TRY300 - there is nothing to do after
        except BaseException:
            os.close(fd)
            raise
        finally:
            os.unlink(unfinished)  # noqa: PTH108 - pathlib would double the guard's memory

    @classmethod
    def open(cls, path: str) -> Journal:
        """Map an existing journal. Raises JournalError if it is not one, OSError if it cannot be read."""
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            head = os.pread(fd, _HEADER.size, 0)
            if len(head) < _HEADER.size:
                raise JournalError(f"{path} is too short to be a journal")
            magic, version, slots = _HEADER.unpack(head)
            if magic != MAGIC or version != VERSION:
                raise JournalError(f"{path} is not a journal of version {VERSION}")
            if os.fstat(fd).st_size < _HEADER_BYTES + slots * (9 + _RECORD_BYTES):
                raise JournalError(f"{path} is truncated")
            return cls(path, fd, slots)
        except BaseException:
            os.close(fd)
            raise

    def lock(self) -> bool:
        """Take the file's lock; False if somebody else holds it, that is, its guard is alive."""
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True

    # -- the loop's side ----------------------------------------------------------------------------------------

    def keep_silent(self, put_off: Callable[[int], None]) -> None:
        """From now on, while any pause is in force, put off an alarm again and again, by the nanoseconds given."""
        self._put_off = put_off
        self._renew_ns = 0

    def beat(self, now_ns: int) -> None:
        """The loop is alive at ``now_ns`` (CLOCK_MONOTONIC)."""
        _SINCE.pack_into(self._map, _HEARTBEAT_AT, now_ns)
        if now_ns >= self._renew_ns and self.any_in_force():
            self._renew(now_ns)

    def _renew(self, now_ns: int) -> None:
        if self._put_off is not None:
            _SINCE.pack_into(self._map, _HEARTBEAT_AT, now_ns)  # pausing thousands takes long, and is no hang
            self._put_off(HANG_NS)
        self._renew_ns = now_ns + RENEW_NS

    def enter_process(self, pid: int, start_ticks: int) -> int:
        """Reserve a slot for a process. Raises JournalError if all are taken or the disk is full."""
        return self._enter(_RECORD.pack(_KIND_PROCESS, pid, start_ticks, 0, 0))

    def enter_cgroup(self, path: str, inode: int, *, v1: bool = False) -> int:
        """Reserve a slot for a cgroup. Raises JournalError if all are taken or the path is too long."""
        return self._enter_path(_KIND_CGROUP_V1 if v1 else _KIND_CGROUP, 0, inode, path)

    def enter_weight(self, path: str, inode: int, knob: str, found: int) -> int:
        """Reserve a slot for a weight that was ``found``. Raises JournalError as enter_cgroup does."""
        kind = next(kind for kind, name in _KNOBS.items() if name == knob)
        return self._enter_path(kind, found, inode, path)

    def _enter_path(self, kind: int, number: int, inode: int, path: str) -> int:
        encoded = os.fsencode(path)
        if len(encoded) > MAX_PATH_BYTES:
            raise JournalError(f"cgroup path of {len(encoded)} bytes is too long to journal")
        return self._enter(_RECORD.pack(kind, 0, number, inode, len(encoded)) + encoded)

    def _enter(self, record: bytes) -> int:
        if not self._free:
            raise JournalError(f"all {self._slots} slots of the journal are taken")
        slot = self._free[-1]
        if slot >= self._reserved:
            self._reserve(slot)
        self._free.pop()
        at = self._records_at + slot * _RECORD_BYTES
        self._map[at : at + len(record)] = record
        return slot

    def _reserve(self, slot: int) -> None:
        """Take room on the disk for the slot's record and some more. A store into a file without is a SIGBUS."""
        records = min(_RESERVED_AT_ONCE, self._slots - slot)
        try:
            os.posix_fallocate(self._fd, self._records_at + slot * _RECORD_BYTES, records * _RECORD_BYTES)
        except OSError as error:
            raise JournalError(f"{self.path} cannot grow: {error.strerror}; make room on its disk") from None
        self._reserved = slot + records

    def begin(self, slot: int, now_ns: int) -> None:
        """The slot's subject is about to be paused."""
        if now_ns >= self._renew_ns:
            self._renew(now_ns)
        _SINCE.pack_into(self._map, self._since_at + 8 * slot, now_ns)
        self._map[self._flags_at + slot] = 1

    def change(self, slot: int, before: int, value: int) -> None:
        """The slot's weight is about to be written: ``value``, over our own ``before``."""
        _SINCE.pack_into(self._map, self._since_at + 8 * slot, before << 32 | value)
        self._map[self._flags_at + slot] = _CHANGED[0]

    def end(self, slot: int) -> None:
        """The slot's subject runs again, or its weight is as it was found."""
        self._map[self._flags_at + slot] = 0
        self._ended += 1
        if self._put_off is not None and self._ended % _BEAT_EVERY == 0:  # of the loop only, not of who overrules it
            self.beat(time.monotonic_ns())

    def leave(self, slot: int) -> None:
        """Give the slot back."""
        self.end(slot)
        self._free.append(slot)

    # -- the readers' side --------------------------------------------------------------------------------------

    def heartbeat_ns(self) -> int:
        """When the loop was last known to be alive; 0 if never."""
        return int(_SINCE.unpack_from(self._map, _HEARTBEAT_AT)[0])

    def any_in_force(self) -> bool:
        """Whether any pause is in force. Cheap."""
        return self._map.find(b"\x01", self._flags_at, self._since_at) >= 0

    def oldest_ns(self) -> int | None:
        """Since when the oldest pause is in force; None if there is none. Cheaper than ``in_force``."""
        oldest_ns: int | None = None
        at = self._map.find(b"\x01", self._flags_at, self._since_at)
        while at >= 0:
            (since_ns,) = _SINCE.unpack_from(self._map, self._since_at + 8 * (at - self._flags_at))
            if oldest_ns is None or since_ns < oldest_ns:
                oldest_ns = since_ns
            at = self._map.find(b"\x01", at + 1, self._since_at)
        return oldest_ns

    def in_force(self) -> list[tuple[int, Pause]]:
        """Every pause in force with its slot."""
        found = [(slot, self._read(slot)) for slot in self._flagged(b"\x01")]
        return [(slot, pause) for slot, pause in found if pause is not None and not isinstance(pause, ChangedWeight)]

    def changed(self) -> list[tuple[int, ChangedWeight]]:
        """Every weight that is not as it was found, with its slot."""
        found = [(slot, self._read(slot)) for slot in self._flagged(_CHANGED)]
        return [(slot, weight) for slot, weight in found if isinstance(weight, ChangedWeight)]

    def cross_out(self, slot: int, noted: Pause | ChangedWeight) -> None:
        """What ``in_force`` or ``changed`` said of the slot was undone. What the loop has begun there since stays."""
        if self._read(slot) == noted:
            self.end(slot)

    def _flagged(self, flag: bytes) -> list[int]:
        slots: list[int] = []
        at = self._map.find(flag, self._flags_at, self._since_at)
        while at >= 0:
            slots.append(at - self._flags_at)
            at = self._map.find(flag, at + 1, self._since_at)
        return slots

    def _read(self, slot: int) -> Pause | ChangedWeight | None:
        at = self._records_at + slot * _RECORD_BYTES
        kind, pid, number, inode, length = _RECORD.unpack_from(self._map, at)
        (since_ns,) = _SINCE.unpack_from(self._map, self._since_at + 8 * slot)
        if kind == _KIND_PROCESS:
            return PausedProcess(pid, number, since_ns)
        if length > MAX_PATH_BYTES:
            return None
        path = os.fsdecode(self._map[at + _RECORD.size : at + _RECORD.size + length])
        if kind in (_KIND_CGROUP, _KIND_CGROUP_V1):
            return PausedCgroup(path, inode, since_ns, kind == _KIND_CGROUP_V1)
        if kind in _KNOBS:
            return ChangedWeight(path, inode, _KNOBS[kind], number, since_ns >> 32, since_ns & _LOW_32)
        return None

    def close(self, *, unlink: bool = False) -> None:
        """Unmap; with ``unlink`` also remove the file. Idempotent."""
        if self._fd < 0:
            return
        self._map.close()
        os.close(self._fd)
        self._fd = -1
        if unlink:
            try:
                os.unlink(self.path)  # noqa: PTH108 - see create
            except OSError:
                return
