"""The algorithm of the ALPS paper (Figure 3), with its lazy measurement (2.3) and its I/O rule (2.4).

Kept line by line comparable with the figure, as the baseline that the default core is measured against. Two things
go beyond the figure, and reduce to it on one CPU with single-threaded processes: a principal may be a group that
burns up to min(parallelism, M) CPU seconds a second, which shortens the lazy interval by that factor; and shares are
clamped to what M cores can deliver.

Amounts are kept in nanoseconds instead of quanta, so ``allowance_ns`` is the figure's allowance times Q. The figure
keeps t_c equal to the sum of the allowances; so do we, exactly, across joins and leaves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from utilctl_agent.alps.allotment import allotments_ns
from utilctl_agent.alps.model import CoreSettings, CycleRecord, Decision, PrincipalSpec, Reading, Switch


@dataclass(slots=True)
class _Principal:
    spec: PrincipalSpec
    allotment_ns: int  # the figure's share_i * Q
    allowance_ns: int  # the figure's allowance_i * Q; negative after an overrun, paid back in the next cycle
    last_cpu_ns: int  # reading at the last measurement
    update: int = 0  # the figure's update_i: index of the quantum in which to measure next
    eligible: bool = True
    cycle_cpu_ns: int = 0  # consumed in the current cycle, for the cycle log


class PaperScheduler:
    """Figure 3. ``lazy=False`` measures every eligible principal in every quantum (the paper's unoptimized version).

    Implements model.Scheduler. ``decide`` is one invocation of the algorithm and is due every quantum.
    """

    def __init__(self, settings: CoreSettings, *, lazy: bool = True) -> None:
        self._settings = settings
        self._lazy = lazy
        self._principals: dict[str, _Principal] = {}
        self._count = 0  # quanta so far
        self._cycle_left_ns = 0  # the figure's t_c
        self._next_wake_ns: int | None = None
        self._cycles = 0

    @property
    def stretch(self) -> float:
        """See model.Scheduler. This core knows nothing of what switching takes."""
        return 1.0

    def put(self, spec: PrincipalSpec, now_ns: int, reading: Reading) -> None:
        """See model.Scheduler. A newcomer gets its allotment at once and is measured in the next quantum."""
        known = self._principals.get(spec.name)
        if known is None:
            self._principals[spec.name] = _Principal(spec, 0, 0, reading.cpu_ns)
        else:
            known.spec = spec
        self._reallot()

    def remove(self, name: str) -> None:
        """See model.Scheduler. Its allowance leaves the cycle with it."""
        gone = self._principals.pop(name)
        self._cycle_left_ns -= gone.allowance_ns
        self._reallot()

    def _reallot(self) -> None:
        allotted = allotments_ns([p.spec for p in self._principals.values()], self._settings)
        for name, principal in self._principals.items():
            change_ns = allotted[name] - principal.allotment_ns
            principal.allotment_ns = allotted[name]
            principal.allowance_ns += change_ns
            self._cycle_left_ns += change_ns

    def follow(self, switches: Sequence[Switch], *, failed: bool) -> tuple[CycleRecord, ...]:
        """See model.Scheduler. This core never plans."""
        return ()

    def due(self, now_ns: int) -> Mapping[str, bool]:
        """The measurement set of the next invocation: state_i = eligible and update_i <= count."""
        if self._next_wake_ns is not None and now_ns < self._next_wake_ns:
            return {}
        count = self._count + 1
        return {n: True for n, p in self._principals.items() if p.eligible and p.update <= count}

    def decide(self, now_ns: int, readings: Mapping[str, Reading]) -> Decision:
        """One invocation of Figure 3; a no-op if the quantum has not passed yet."""
        if self._next_wake_ns is not None and now_ns < self._next_wake_ns:
            return Decision((), (), self._next_wake_ns)
        self._count += 1
        self._measure(readings)
        closed = self._close_cycles(now_ns)
        quantum_ns = self._settings.quantum_ns
        ineligible: list[str] = []
        eligible: list[str] = []
        for name, principal in self._principals.items():
            may_run = principal.allowance_ns > 0
            if may_run != principal.eligible:
                (eligible if may_run else ineligible).append(name)
                principal.eligible = may_run
            if principal.update <= self._count:
                principal.update = self._count + self._lazy_quanta(principal)
        # Timer events come on a fixed grid; the ones that a late wake-up missed are gone, as with setitimer.
        previous_ns = self._next_wake_ns if self._next_wake_ns is not None else now_ns
        missed = (now_ns - previous_ns) // quantum_ns
        self._count += missed
        self._next_wake_ns = previous_ns + (missed + 1) * quantum_ns
        return Decision(tuple(ineligible), tuple(eligible), self._next_wake_ns, closed)

    def _measure(self, readings: Mapping[str, Reading]) -> None:
        quantum_ns = self._settings.quantum_ns
        for name, reading in readings.items():
            principal = self._principals.get(name)
            if principal is None:
                continue
            consumed_ns = max(0, reading.cpu_ns - principal.last_cpu_ns)
            principal.last_cpu_ns = reading.cpu_ns
            principal.cycle_cpu_ns += consumed_ns
            principal.allowance_ns -= consumed_ns
            self._cycle_left_ns -= consumed_ns
            if reading.blocked:
                # 2.4: it gave up its right to this quantum, and the cycle shrinks by as much.
                principal.allowance_ns -= quantum_ns
                self._cycle_left_ns -= quantum_ns

    def _close_cycles(self, now_ns: int) -> tuple[CycleRecord, ...]:
        if self._cycle_left_ns > 0 or not self._principals:
            return ()
        record = CycleRecord(self._cycles, now_ns, {n: p.cycle_cpu_ns for n, p in self._principals.items()})
        self._cycles += 1
        for principal in self._principals.values():
            principal.allowance_ns += principal.allotment_ns
            self._cycle_left_ns += principal.allotment_ns
            principal.cycle_cpu_ns = 0
        return (record,)

    def _lazy_quanta(self, principal: _Principal) -> int:
        """2.3: how many quanta it must stay eligible, at least, to use up its allowance; rounded up."""
        if not self._lazy:
            return 1
        fastest_ns = self._settings.quantum_ns * min(principal.spec.parallelism, self._settings.cores)
        return max(1, -(-principal.allowance_ns // fastest_ns))
