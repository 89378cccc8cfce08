"""A fork bomb that is bounded in number and time, as a program for ``python -S -c``."""

from __future__ import annotations

from typing import Final

FORK_BOMB: Final = """
import os, random, resource, signal, sys, time
resource.setrlimit(resource.RLIMIT_NPROC, (400, 400))
if os.geteuid() == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
end, first = time.monotonic() + 15, os.getpid()
print('lit', flush=True)
while time.monotonic() < end:
    try:
        if os.fork() == 0:
            random.seed()
    except BlockingIOError:
        time.sleep(0.001)
    if os.getpid() != first and random.random() < 0.3:
        os._exit(0)
"""
"""Every process forks as fast as it can, and a third of them ends at once. At most 400; all end by themselves."""
