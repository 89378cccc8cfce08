"""Proportional shares for a program's own children, as the ALPS paper intends: no root, no daemon."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from utilctl_agent.local import run_local
from utilctl_agent.workloads import CycleRow, LocalResult, LocalSettings, Workload
from utilctl_common.quantities import NS_PER_MS, NS_PER_S, check_share


class Alps:
    """A set of workloads with shares, and one run of them. For the main thread: it looks after SIGINT.

    alps = Alps(quantum_s=0.01)
    alps.command(1, "gzip -9 < a > a.gz")
    alps.processes(3, [child.pid])
    result = alps.run(duration_s=60)
    """

    def __init__(self, *, quantum_s: float = 0.01, cpus: Sequence[int] | None = None) -> None:
        """``quantum_s``: granularity of control. ``cpus``: those to share; all if None."""
        self._quantum_ns = round(quantum_s * NS_PER_S)
        self._cpus = tuple(cpus) if cpus is not None else tuple(sorted(os.sched_getaffinity(0)))
        self._workloads: list[Workload] = []

    def command(self, share: float, command: str) -> None:
        """Start a command, by the shell, with the run; it ends with the run. Raises UsageError for a bad share."""
        self._workloads.append(Workload(check_share(share), command=command))

    def processes(self, share: float, pids: Sequence[int]) -> None:
        """Take processes that run already, with their children, as one; they go on after the run."""
        self._workloads.append(Workload(check_share(share), pids=tuple(pids)))

    def run(self, *, duration_s: float, on_cycle: Callable[[CycleRow], None] | None = None) -> LocalResult:
        """Share the CPU for so long, or until all have ended; returns what each got.

        ``on_cycle`` is told of each cycle. Raises UsageError for what cannot work, FailedError if a workload does not
        start. Nobody stays paused, whatever happens.
        """
        duration_ns = max(NS_PER_MS, round(duration_s * NS_PER_S))
        settings = LocalSettings(tuple(self._workloads), self._quantum_ns, self._cpus, "default", duration_ns, None)
        return run_local(settings, on_cycle)
