"""File descriptors are few: what is opened to be kept leaves some for what must be opened now and then."""

from __future__ import annotations

import errno
import os
import resource
from typing import Final

RESERVED: Final = 64
"""Descriptors that groups leave free, for /proc and for listings of cgroups. Arbitrary: a dozen are used."""


def raise_limit() -> None:
    """Be content with the hard limit only: with the usual soft one of 1,024 there were 500 loose processes."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def keep(fd: int) -> int:
    """``fd``, which was just opened to be kept. Raises OSError (EMFILE), with it closed, if few are left after it.

    The kernel gives out the lowest number that is free, so the number tells how many are taken.
    """
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and fd >= soft - RESERVED:
        os.close(fd)
        raise OSError(errno.EMFILE, f"all {soft} file descriptors are in use; raise the limit (LimitNOFILE=)")
    return fd
