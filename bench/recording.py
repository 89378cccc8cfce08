"""From context-switch records to CPU times: how long a set of processes ran between any two instants.

A process's CPU time here is the time from being switched to until being switched away from. It includes interrupts
that hit it meanwhile and, on a virtual machine, time that the host took away; it leaves out the switch itself (about
a microsecond, which the kernel charges to one of the two).
"""

from __future__ import annotations

import json
import struct
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

Times = npt.NDArray[np.int64]

_LOST: Final = 2
_FORK: Final = 7
_SWITCH_CPU_WIDE: Final = 15
_SWITCH_OUT: Final = 1 << 13  # in ``misc``: the task named by the record leaves the CPU
IDLE_PID: Final = 0


class RecordsLostError(Exception):
    """The ring overflowed: the recording has holes and must not be used."""


@dataclass(frozen=True, slots=True)
class Runs:
    """Stretches of uninterrupted running on one CPU, in order: process, and from when to when (CLOCK_MONOTONIC)."""

    pid: Times
    start_ns: Times
    end_ns: Times


@dataclass(frozen=True, slots=True)
class Recording:
    """All runs by CPU, and who forked whom."""

    runs: dict[int, Runs]
    children: dict[int, set[int]]
    start_ns: int
    end_ns: int
    recorder_cpu_ns: int = 0

    @classmethod
    def read(cls, folder: Path) -> Recording:
        """From the files of a recorder. Raises RecordsLostError if the kernel had to drop records."""
        times = json.loads((folder / "times.json").read_text())
        runs: dict[int, Runs] = {}
        children: dict[int, set[int]] = {}
        for file in sorted(folder.glob("cpu*.records")):
            cpu = int(file.stem.removeprefix("cpu"))
            runs[cpu], forks = parse(file.read_bytes(), times["end_ns"])
            for parent, child in forks:
                children.setdefault(parent, set()).add(child)
        return cls(runs, children, times["start_ns"], times["end_ns"], times["recorder_cpu_ns"])

    def family(self, roots: Iterable[int], without: Collection[int] = ()) -> set[int]:
        """The processes ``roots`` and all their descendants, but not ``without`` and what descends from those."""
        found: set[int] = set()
        pending = [pid for pid in roots if pid not in without]
        while pending:
            pid = pending.pop()
            if pid not in found:
                found.add(pid)
                pending.extend(child for child in self.children.get(pid, ()) if child not in without)
        return found

    def cpu_ns(self, pids: Collection[int], edges_ns: Sequence[int], cpus: Collection[int] | None = None) -> list[int]:
        """CPU time of ``pids`` together between each two neighbours of ``edges_ns``, on ``cpus`` (default: all)."""
        wanted = np.fromiter(pids, dtype=np.int64, count=len(pids))
        edges = np.asarray(edges_ns, dtype=np.int64)
        upto = np.zeros(len(edges), dtype=np.int64)
        for cpu, runs in self.runs.items():
            if cpus is None or cpu in cpus:
                chosen = np.isin(runs.pid, wanted)
                upto += _total_before(runs.start_ns[chosen], runs.end_ns[chosen], edges)
        return [int(value) for value in np.diff(upto)]

    def switches(self, cpu: int, start_ns: int, end_ns: int) -> int:
        """How many runs began on a CPU in an interval."""
        starts = self.runs[cpu].start_ns
        return int(np.searchsorted(starts, end_ns) - np.searchsorted(starts, start_ns))


def _total_before(start_ns: Times, end_ns: Times, edges_ns: Times) -> Times:
    """Time covered before each edge by runs that do not overlap, oldest first."""
    finished = np.concatenate(([0], np.cumsum(end_ns - start_ns)))
    begun = np.searchsorted(start_ns, edges_ns, side="left")
    total: Times = finished[begun].astype(np.int64)
    # Only the last run that began before an edge can reach beyond it.
    some = begun > 0
    total[some] -= np.maximum(end_ns[begun[some] - 1] - edges_ns[some], 0)
    return total


def parse(records: bytes, end_ns: int) -> tuple[Runs, list[tuple[int, int]]]:
    """Runs, and (parent, child) for every new process, from the raw records of one CPU.

    A run that lasts until the recording ends is closed at ``end_ns``; one that had begun before it is left out.
    """
    header, four, when = struct.Struct("IHH"), struct.Struct("IIII"), struct.Struct("Q")
    pids: list[int] = []
    starts: list[int] = []
    ends: list[int] = []
    forks: list[tuple[int, int]] = []
    running: tuple[int, int] | None = None
    position = 0
    while position < len(records):
        kind, misc, size = header.unpack_from(records, position)
        if kind == _SWITCH_CPU_WIDE:
            pid = four.unpack_from(records, position + 8)[2]
            (time_ns,) = when.unpack_from(records, position + 24)
            if not misc & _SWITCH_OUT:
                running = (pid, time_ns)
            elif running is not None:
                pids.append(running[0])
                starts.append(running[1])
                ends.append(time_ns)
                running = None
        elif kind == _FORK:
            child, parent, *_ = four.unpack_from(records, position + 8)
            if child != parent:  # equal: a new thread
                forks.append((parent, child))
        elif kind == _LOST:
            raise RecordsLostError("the recorder could not keep up; record a shorter run")
        position += size
    if running is not None:
        pids.append(running[0])
        starts.append(running[1])
        ends.append(max(end_ns, running[1]))
    arrays = (np.asarray(values, dtype=np.int64) for values in (pids, starts, ends))
    return Runs(*arrays), forks
