"""Keeping a process in memory: a page that has to be read from a disk first comes too late."""

from __future__ import annotations

import ctypes
from typing import Final

_MCL_CURRENT: Final = 1
_MCL_FUTURE: Final = 2
_MCL_ONFAULT: Final = 4
"""Only what is used: else every page of every library, and 8 MB of a journal of which a few kB are, would be taken."""


def lock_memory() -> bool:
    """Lock what the calling process has used, and will use, of its memory (mlockall(2)).

    False if that is refused, without CAP_IPC_LOCK above RLIMIT_MEMLOCK; the process may then be paged out.
    """
    return bool(ctypes.CDLL(None, use_errno=True).mlockall(_MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT) == 0)
