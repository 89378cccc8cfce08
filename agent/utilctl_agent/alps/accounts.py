"""Who has consumed how much: in total, in the cycle, and against its allowance. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from utilctl_agent.alps.model import CycleRecord
from utilctl_agent.alps.principal import Principal, Use


class Accounts:
    """The consumption of all principals of a default core, and its cycles."""

    def __init__(self) -> None:
        self.total_ns = 0  # of all who are there, ever
        self.allotted_ns = 0  # to all in a cycle
        self.cycles = 0  # that have ended
        self._cycle_start_ns = 0  # the total when this cycle began

    def forget(self, principal: Principal) -> None:
        """It is gone, and what it used with it."""
        self.total_ns -= principal.used_ns
        self._cycle_start_ns -= principal.cycle_start_used_ns

    def use(self) -> Use:
        """What ``principal.observe`` is to know of everybody."""
        return Use(self.total_ns, self.total_ns - self._cycle_start_ns, self.allotted_ns)

    def take(self, principal: Principal, cpu_ns: int) -> int:
        """Account for what ``principal`` has consumed since it was last read; returns how much that is."""
        used_ns = max(0, cpu_ns - principal.last_cpu_ns)
        principal.last_cpu_ns = cpu_ns
        principal.used_ns += used_ns
        self.total_ns += used_ns
        principal.allowance_ns -= used_ns
        principal.cap_budget_ns -= used_ns
        return used_ns

    def charge(self, principal: Principal, now_ns: int, cpu_ns: int) -> int:
        """``take``, as part of an observation of a principal that was eligible all the time since it was last read."""
        elapsed_ns = now_ns - principal.last_ns
        principal.last_ns = now_ns
        used_ns = self.take(principal, cpu_ns)
        principal.observed_ns += elapsed_ns
        principal.observed_used_ns += used_ns
        return used_ns

    def close(self, principals: Mapping[str, Principal], now_ns: int) -> CycleRecord:
        """The cycle ends, and another one begins."""
        consumed: dict[str, int] = {}
        for name, principal in principals.items():
            consumed[name] = principal.used_ns - principal.cycle_start_used_ns
            principal.cycle_start_used_ns = principal.used_ns
        self.cycles += 1
        self._cycle_start_ns = self.total_ns
        return CycleRecord(self.cycles - 1, now_ns, consumed)
