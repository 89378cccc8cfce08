"""The judge's eyes: ``python -S watcher.py CLOCK LOG INTERVAL_NS < UNITS``. A process of its own, stdlib only.

Every interval it asks the kernel about every unit (a cgroup or a process) whether it is paused, and appends what
changed to LOG as records (instant, unit, state). An end of a pause is stamped after the reading that saw it, a
beginning before: pauses are never measured too short. CLOCK, eight bytes, says until when everything is recorded.

UNITS: a JSON list of [kind, path or pid]. Ends when its standard input does.
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


def opened(kind: str, what: str | int) -> list[tuple[int, bytes | None]]:
    """Files of a unit, and what to find in them if it is paused."""
    if kind == "v2":
        return [
            (os.open(f"{what}/cgroup.freeze", os.O_RDONLY), b"1"),
            (os.open(f"{what}/cgroup.events", os.O_RDONLY), b"frozen 1"),
        ]
    if kind == "v1":
        return [(os.open(f"{what}/freezer.state", os.O_RDONLY), b"F")]  # FREEZING or FROZEN
    return [(os.open(f"/proc/{what}/stat", os.O_RDONLY), None)]


def paused(files: list[tuple[int, bytes | None]]) -> int:
    """The state of a unit now."""
    try:
        for fd, sign in files:
            content = os.pread(fd, 512, 0)
            if sign is None:
                at = content.rindex(b")") + 2
                if content[at : at + 1] in b"ZX":
                    return -1
                if content[at : at + 1] in b"Tt":
                    return 1
            elif sign in content:
                return 1
    except (OSError, ValueError):
        return -1
    return 0


def main() -> None:
    """Watch until standard input ends."""
    clock_path, log_path, interval_ns = sys.argv[1], sys.argv[2], int(sys.argv[3])
    units = [opened(*unit) for unit in json.loads(sys.stdin.readline())]
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(PRIORITY))
    clock = mmap.mmap(os.open(clock_path, os.O_RDWR), 8)
    log = os.open(log_path, os.O_WRONLY | os.O_APPEND)
    known = [0] * len(units)
    last_ns = time.monotonic_ns()
    while not select.select([0], [], [], 0)[0]:
        begin_ns = time.monotonic_ns()
        found = [paused(files) for files in units]
        end_ns = time.monotonic_ns()
        records = b""
        if begin_ns - last_ns > 4 * interval_ns:
            records = RECORD.pack(begin_ns, GAP, min((begin_ns - last_ns) // 1000, 0x7FFFFFFF))
        if found != known:
            for unit, state in enumerate(found):
                if state != known[unit]:
                    records += RECORD.pack(begin_ns if state == 1 else end_ns, unit, state)
            known = found
        if records:
            os.write(log, records)
        clock[:] = struct.pack("<Q", begin_ns)
        last_ns = begin_ns
        left_ns = begin_ns + interval_ns - time.monotonic_ns()
        if left_ns > 0:
            time.sleep(left_ns / 1e9)


main()
