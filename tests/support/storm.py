"""A storm: a group of processes that forks and exits all the time, with some that want the CPU.

    python3 -S -E storm.py SIZE RATE SPINNERS LIFE_LIMIT_S

Keeps SIZE sleeping children and says "full" once it has them; RATE times a second it forks one more and ends the
oldest. Every third new one runs another program. Ends by itself after LIFE_LIMIT_S; its children end with it.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
import time

PR_SET_PDEATHSIG = 1


def child(parent: int, libc: ctypes.CDLL, work: str) -> None:
    """A child's life. Never returns."""
    try:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(0)
        if work == "spin":
            while True:
                pass
        if work == "exec":
            os.execv("/bin/sleep", ["sleep", "600"])  # PR_SET_PDEATHSIG stays over an exec
        signal.pause()
    finally:
        os._exit(1)


def main() -> None:
    """Run until told to stop."""
    size, rate, spinners, limit_s = int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
    resource.setrlimit(resource.RLIMIT_CPU, (int(limit_s) + 60, int(limit_s) + 60))
    libc = ctypes.CDLL(None)
    parent = os.getpid()
    end = time.monotonic() + limit_s
    alive: list[int] = []

    def fork(work: str) -> int:
        pid = os.fork()
        if pid == 0:
            child(parent, libc, work)
        return pid

    for _ in range(spinners):
        fork("spin")
    while len(alive) < size:
        alive.append(fork("sleep"))
    print("full", flush=True)
    forks, begin = 0, time.monotonic()
    while time.monotonic() < end:
        due = int((time.monotonic() - begin) * rate)
        # What was missed while stopped is not made up for at once.
        if due - forks > rate:
            begin += (due - forks) / rate
            continue
        for _ in range(due - forks):
            alive.append(fork("exec" if forks % 3 == 0 else "sleep"))
            oldest = alive.pop(0)
            os.kill(oldest, signal.SIGKILL)
            os.waitpid(oldest, 0)
            forks += 1
        time.sleep(1 / rate)


if __name__ == "__main__":
    main()
