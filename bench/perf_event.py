"""Context-switch records of one CPU, by the raw perf_event_open(2): what the independent recorder stands on.

One software "dummy" event a CPU asks the kernel for a record at every context switch and at every fork, stamped with
CLOCK_MONOTONIC. Nothing is polled and no counter is read across CPUs, so the work that is observed is not disturbed
beyond some 0.3 us a switch. Layouts: linux/perf_event.h.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
import struct
from typing import Final

_SYSCALL_NUMBERS: Final = {"x86_64": 298, "aarch64": 241}
_PERF_TYPE_SOFTWARE: Final = 1
_PERF_COUNT_SW_DUMMY: Final = 9
_SAMPLE_TID_AND_TIME: Final = (1 << 1) | (1 << 2)
_FLAG_TASK: Final = 1 << 13  # fork and exit records
_FLAG_SAMPLE_ID_ALL: Final = 1 << 18  # pid, tid and time on every record
_FLAG_USE_CLOCKID: Final = 1 << 25
_FLAG_CONTEXT_SWITCH: Final = 1 << 26
_CLOCK_MONOTONIC: Final = 1
_PERF_FLAG_FD_CLOEXEC: Final = 8
_HEAD_OFFSET: Final = 1024  # of data_head in struct perf_event_mmap_page; data_tail follows
_RING_PAGES: Final = 1024  # a power of two; 4 MiB hold 130,000 switches, seconds of the busiest server


class _Attributes(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_uint32),
        ("size", ctypes.c_uint32),
        ("config", ctypes.c_uint64),
        ("sample_period", ctypes.c_uint64),
        ("sample_type", ctypes.c_uint64),
        ("read_format", ctypes.c_uint64),
        ("flags", ctypes.c_uint64),
        ("wakeup_events", ctypes.c_uint32),
        ("bp_type", ctypes.c_uint32),
        ("config1", ctypes.c_uint64),
        ("config2", ctypes.c_uint64),
        ("branch_sample_type", ctypes.c_uint64),
        ("sample_regs_user", ctypes.c_uint64),
        ("sample_stack_user", ctypes.c_uint32),
        ("clockid", ctypes.c_int32),
        ("sample_regs_intr", ctypes.c_uint64),
        ("aux_watermark", ctypes.c_uint32),
        ("sample_max_stack", ctypes.c_uint16),
        ("reserved", ctypes.c_uint16),
    )


class SwitchRing:
    """The kernel's ring buffer of switch and fork records of one CPU, all processes.

    Raises OSError where the kernel does not allow it: it takes root or CAP_PERFMON (or perf_event_paranoid <= 0).
    """

    def __init__(self, cpu: int) -> None:
        number = _SYSCALL_NUMBERS.get(platform.machine())
        if number is None:
            raise OSError(f"perf_event_open is not known for {platform.machine()}")
        attributes = _Attributes(
            type=_PERF_TYPE_SOFTWARE,
            size=ctypes.sizeof(_Attributes),
            config=_PERF_COUNT_SW_DUMMY,
            sample_type=_SAMPLE_TID_AND_TIME,
            flags=_FLAG_TASK | _FLAG_SAMPLE_ID_ALL | _FLAG_USE_CLOCKID | _FLAG_CONTEXT_SWITCH,
            clockid=_CLOCK_MONOTONIC,
        )
        libc = ctypes.CDLL(None, use_errno=True)
        every_process, no_group = -1, -1
        fd = libc.syscall(
            number, ctypes.byref(attributes), every_process, cpu, no_group, ctypes.c_ulong(_PERF_FLAG_FD_CLOEXEC)
        )
        if fd < 0:
            error = ctypes.get_errno()
            raise OSError(error, f"perf_event_open: {os.strerror(error)}")
        self._fd = fd
        self._size = _RING_PAGES * mmap.PAGESIZE
        self._ring = mmap.mmap(fd, self._size + mmap.PAGESIZE)

    def drain(self) -> bytes:
        """The records since the last call, whole ones, oldest first."""
        # The kernel writes the records before the head; on x86 and through an interpreter no reordering shows.
        head, tail = struct.unpack_from("QQ", self._ring, _HEAD_OFFSET)
        start, end = tail % self._size, head % self._size
        base = mmap.PAGESIZE
        if head == tail:
            return b""
        if start < end:
            records = self._ring[base + start : base + end]
        else:
            records = self._ring[base + start : base + self._size] + self._ring[base : base + end]
        struct.pack_into("Q", self._ring, _HEAD_OFFSET + 8, head)
        return records

    def close(self) -> None:
        """Stop recording."""
        self._ring.close()
        os.close(self._fd)
