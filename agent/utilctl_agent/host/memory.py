"""Keeping a process in memory: a page that has to be read from a disk first comes too late."""

from __future__ import annotations

import ctypes
from typing import Final

_MCL_CURRENT: Final = 1
_MCL_FUTURE: Final = 2


def lock_memory() -> bool:
    """Lock what the calling process has mapped and will map (mlockall(2)).

    False if that is refused, without CAP_IPC_LOCK above RLIMIT_MEMLOCK; the process may then be paged out.
    """
    return bool(ctypes.CDLL(None, use_errno=True).mlockall(_MCL_CURRENT | _MCL_FUTURE) == 0)
