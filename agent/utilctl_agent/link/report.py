"""From two states of the loop to one report of the host. Pure but for its memory of the last interval."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from utilctl_agent.link.codec import HostReport, SeeStatus
from utilctl_agent.link.demand import Usage, demand_cores
from utilctl_agent.link.hoststat import CpuTimes, busy_cores
from utilctl_agent.link.roster import SeeMembers
from utilctl_agent.orders import LoopReport, PrincipalReport

FULL_CORES: Final = 0.1
"""A host with less idle CPU than this, in cores, counts as full."""
SMOOTHING: Final = 0.3
"""Weight of the newest interval in the running average of unclaimed CPU. Arbitrary: three intervals of memory."""


@dataclass(slots=True)
class Reporter:
    """Makes reports for one host with ``cores`` CPUs."""

    cores: int
    unclaimed_cores: float = 0.0
    _sequence: int = 0
    _last: LoopReport | None = None
    _last_times: CpuTimes | None = None
    _demand_cores: dict[str, float] = field(default_factory=dict)
    _primed: bool = False

    def make(
        self,
        loop: LoopReport,
        times: CpuTimes,
        members: Mapping[str, SeeMembers],
        problems: Mapping[str, str],
        waiting: Mapping[str, int] | None = None,
    ) -> HostReport:
        """The report for the interval since the last call; the first one carries totals only."""
        last, last_times = self._last, self._last_times
        self._last, self._last_times = loop, times
        self._sequence += 1
        elapsed_ns = loop.now_ns - last.now_ns if last is not None else 0
        busy = busy_cores(last_times, times, self.cores) if last_times is not None else 0.0
        full = busy >= self.cores - FULL_CORES
        self._demand_cores = {see: cores for see, cores in self._demand_cores.items() if see in loop.principals}
        sees = [
            self._see(name, loop, last, elapsed_ns, members, problems, full=full)
            for name in sorted(loop.principals.keys() | problems.keys())
        ]
        if elapsed_ns > 0 and last_times is not None:
            claimed = sum(see.consumption_cores for see in sees)
            now_unclaimed = min(float(self.cores), max(0.0, busy - claimed))
            weight = SMOOTHING if self._primed else 1.0
            self.unclaimed_cores += weight * (now_unclaimed - self.unclaimed_cores)
            self._primed = True
        mechanisms = {report.mechanism for report in loop.principals.values()}
        return HostReport(
            sequence=self._sequence,
            interval_ns=elapsed_ns,
            capacity_cores=float(self.cores),
            unclaimed_cores=self.unclaimed_cores,
            sees=tuple(sees),
            algorithm=loop.algorithm,
            mechanism="+".join(sorted(mechanisms)),
            cycles_total=loop.cycles,
            wakeups_total=loop.wakeups,
            overhead_total_ns=loop.overhead_ns,
            rms_relative_error_ratio=_error_ratio(loop, last),
            waiting=waiting or {},
        )

    def _see(
        self,
        name: str,
        loop: LoopReport,
        last: LoopReport | None,
        elapsed_ns: int,
        members: Mapping[str, SeeMembers],
        problems: Mapping[str, str],
        *,
        full: bool,
    ) -> SeeStatus:
        now = loop.principals.get(name, _ABSENT)
        before = last.principals.get(name, _ABSENT) if last is not None else _ABSENT
        found = members.get(name)
        cpu_ns = max(0, now.cpu_ns - before.cpu_ns)
        if found is not None and elapsed_ns > 0 and name in loop.principals:
            usage = Usage(
                elapsed_ns=elapsed_ns,
                cpu_ns=cpu_ns,
                paused_ns=max(0, now.paused_ns - before.paused_ns),
                wait_ns=_difference(now.wait_ns, before.wait_ns),
                parallelism=max(1, found.threads),
                cores=self.cores,
            )
            last_cores = self._demand_cores.get(name, 0.0)
            self._demand_cores[name] = demand_cores(usage, last_cores, host_is_full=full)
        return SeeStatus(
            see=name,
            consumed_total_ns=now.cpu_ns,
            paused_total_ns=now.paused_ns,
            consumption_cores=cpu_ns / elapsed_ns if elapsed_ns > 0 else 0.0,
            demand_cores=self._demand_cores.get(name, 0.0),
            processes=len(found.processes) if found is not None else 0,
            problem=problems.get(name, "") or now.problem,
        )


_ABSENT: Final = PrincipalReport(0, None, 0, "", "")


def _difference(now_ns: int | None, before_ns: int | None) -> int:
    return max(0, now_ns - before_ns) if now_ns is not None and before_ns is not None else 0


def _error_ratio(loop: LoopReport, last: LoopReport | None) -> float:
    """Mean RMS relative error of the cycles since the last report."""
    cycles = loop.cycles - (last.cycles if last is not None else 0)
    error_sum = loop.rms_error_sum - (last.rms_error_sum if last is not None else 0.0)
    return max(0.0, error_sum) / cycles if cycles > 0 else 0.0
