"""How the loop itself gets onto a CPU in time.

A stock kernel lets a waking process wait up to a tick behind CPU-bound work. Three ways out, best first; each is
tried and the first that the kernel permits is used:

- ``fifo``: SCHED_FIFO, needs CAP_SYS_NICE.
- ``slice``: a private slice of 0.1 ms for this process in the fair class (sched_setattr with sched_runtime, Linux
  6.12 and later, no privilege): the shorter its slice, the earlier its virtual deadline, the sooner it runs.
- ``nice``: a higher priority in the fair class, needs CAP_SYS_NICE or a raised RLIMIT_NICE.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from typing import Final, Literal

LoopClass = Literal["fifo", "slice", "nice", "none"]

SLICE_NS: Final = 100_000
FIFO_PRIORITY: Final = 10
"""Above ordinary work, below the kernel's own threaded interrupts (50). Arbitrary within that."""
NICE: Final = -15

_SYS_SCHED_SETATTR: Final = {"x86_64": 314, "aarch64": 274}
_SYS_SCHED_GETATTR: Final = {"x86_64": 315, "aarch64": 275}
_ATTR: Final = struct.Struct("=IIQiIQQQII")  # struct sched_attr, include/uapi/linux/sched/types.h, 56 bytes
_FLAG_RESET_ON_FORK: Final = 1


def promote(preferred: tuple[LoopClass, ...] = ("fifo", "slice", "nice")) -> LoopClass:
    """Give the calling process the best of ``preferred`` that is permitted; returns which, or ``none``."""
    for loop_class in preferred:
        if loop_class == "fifo" and _fifo():
            return "fifo"
        if loop_class == "slice" and _short_slice():
            return "slice"
        if loop_class == "nice" and _nice():
            return "nice"
    return "none"


def demote() -> None:
    """Back to the ordinary class; for children that inherited a promotion."""
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def _fifo() -> bool:
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(FIFO_PRIORITY))
    except OSError:
        return False
    return True


def _short_slice() -> bool:
    machine = platform.machine()
    set_number, get_number = _SYS_SCHED_SETATTR.get(machine), _SYS_SCHED_GETATTR.get(machine)
    if set_number is None or get_number is None:
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    wanted = _ATTR.pack(_ATTR.size, os.SCHED_OTHER, _FLAG_RESET_ON_FORK, 0, 0, SLICE_NS, 0, 0, 0, 0)
    if libc.syscall(set_number, 0, ctypes.create_string_buffer(wanted, _ATTR.size), 0) != 0:
        return False
    # Kernels before 6.12 accept the call and ignore the slice: read it back.
    got = ctypes.create_string_buffer(_ATTR.size)
    if libc.syscall(get_number, 0, got, _ATTR.size, 0) != 0:
        return False
    return bool(_ATTR.unpack(got.raw)[5] == SLICE_NS)


def _nice() -> bool:
    try:
        os.setpriority(os.PRIO_PROCESS, 0, NICE)
    except OSError:
        return False
    return True
