"""The judge's eyes: ``python -S watcher.py CLOCK LOG INTERVAL_NS < UNITS``. A process of its own, stdlib only.

Every interval it asks the kernel about every unit (a cgroup or a process) whether it is paused, and appends what
changed to LOG as records (instant, unit, state). An end of a pause is stamped after the reading that saw it, a
beginning before: pauses are never measured too short. A unit that is let go and paused again between two readings is
found by its having got a CPU meanwhile. CLOCK, eight bytes, says until when everything is recorded.

UNITS: a JSON list of [kind, path or pid, pid of a member]. Ends when its standard input does.
"""

import contextlib
import json
import mmap
import os
import select
import struct
import sys
import time

RECORD = struct.Struct("<QIi")
"""Instant (CLOCK_MONOTONIC, ns), unit, state: 1 paused, 0 runs, -1 gone. Unit GAP: the state is a gap in us."""
GAP = 0xFFFFFFFF
PRIORITY = 20
"""Above everything that is being watched."""


class Unit:
    """A cgroup or a process that may be paused. ``member`` is one of its processes that always wants a CPU."""

    def __init__(self, kind: str, what: str | int, member: int) -> None:
        # Files, what to find in them if it is paused, and what to find in the last one if all of it stands still.
        self.signs: list[tuple[int, bytes]] = []
        self.still = b""
        if kind == "v2":
            self.signs = [
                (os.open(f"{what}/cgroup.freeze", os.O_RDONLY), b"1"),
                (os.open(f"{what}/cgroup.events", os.O_RDONLY), b"frozen 1"),
            ]
            self.still = b"frozen 1"
        elif kind == "v1":
            self.signs = [(os.open(f"{what}/freezer.state", os.O_RDONLY), b"F")]  # FREEZING or FROZEN
            self.still = b"FROZEN"
        self._stat = os.open(f"/proc/{member}/stat", os.O_RDONLY)
        self._schedstat = os.open(f"/proc/{member}/schedstat", os.O_RDONLY)
        self._runs = b""  # how often the member has got a CPU, once all stands still

    def state(self) -> int:
        """1 if it is paused, 0 if it runs, -1 if it is gone; 2 if it is paused and has run since the last time."""
        try:
            paused, still = self._look()
            if not paused:
                self._runs = b""
            if not still:
                return int(paused)
            # Whoever stands still gets no CPU: if it did, it was let go in between.
            before, self._runs = self._runs, os.pread(self._schedstat, 96, 0).split()[2]
        except (OSError, ValueError, IndexError):
            return -1
        return 2 if before and self._runs != before else 1

    def _look(self) -> tuple[bool, bool]:
        """Whether it is paused, and whether all of it stands still by now."""
        if self.signs:
            contents = [os.pread(fd, 512, 0) for fd, _ in self.signs]
            paused = any(sign in content for content, (_, sign) in zip(contents, self.signs, strict=True))
            return paused, paused and self.still in contents[-1]
        content = os.pread(self._stat, 512, 0)
        at = content.rindex(b")") + 2
        state = content[at : at + 1]
        if state in b"ZX":
            raise ProcessLookupError
        return state in b"Tt", state in b"Tt"


def main() -> None:
    """Watch until standard input ends."""
    clock_path, log_path, interval_ns = sys.argv[1], sys.argv[2], int(sys.argv[3])
    units = [Unit(*unit) for unit in json.loads(sys.stdin.readline())]
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(PRIORITY))
    clock = mmap.mmap(os.open(clock_path, os.O_RDWR), 8)
    log = os.open(log_path, os.O_WRONLY | os.O_APPEND)
    known = [0] * len(units)
    last_ns = time.monotonic_ns()
    while not select.select([0], [], [], 0)[0]:
        begin_ns = time.monotonic_ns()
        found = [unit.state() for unit in units]
        end_ns = time.monotonic_ns()
        records = b""
        if begin_ns - last_ns > 4 * interval_ns:
            records = RECORD.pack(begin_ns, GAP, min((begin_ns - last_ns) // 1000, 0x7FFFFFFF))
        if found != known:
            for number, state in enumerate(found):
                if state == 2:
                    records += RECORD.pack(end_ns, number, 0) + RECORD.pack(last_ns, number, 1)
                    found[number] = 1
                elif state != known[number]:
                    records += RECORD.pack(begin_ns if state == 1 else end_ns, number, state)
            known = found
        if records:
            os.write(log, records)
        clock[:] = struct.pack("<Q", begin_ns)
        last_ns = begin_ns
        left_ns = begin_ns + interval_ns - time.monotonic_ns()
        if left_ns > 0:
            time.sleep(left_ns / 1e9)


main()
