"""The default core: event-driven turns.

The paper lets every principal with allowance compete and looks at them once a quantum. This core keeps the paper's
model (allowances, cycles, errors carried over) and changes who is looked at, and when:

- A principal is *hungry* if it was ready or running all the time we last watched it, else *light*. Light ones stay
  eligible while they have allowance: they take little, and the kernel serves them promptly.
- Hungry ones take *turns*: only as many are eligible at once as the cores can run. A turn ends when the allowance is
  used up, at an instant known in advance, so nobody has to be sampled before it.
- A cycle ends when no hungry principal has allowance left, or when a core would idle although somebody is hungry.
  What is left over is carried into the next cycle only as far as the principal was held back (paused by us, or ready
  and waiting); time in which it wanted nothing earns no credit. Overruns are carried as debts.
- Nobody is paused while nobody else wants the CPU.

Work conservation (paper section 2.4) follows: a principal that blocks during its turn turns light, and the next
hungry one is admitted beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from utilctl_agent.alps.allotment import allotments_ns
from utilctl_agent.alps.feasible import most_cores, usable_cores
from utilctl_agent.alps.model import CoreSettings, CycleRecord, Decision, PrincipalSpec, Reading

DONE_NS: Final = 25_000
"""An allowance this small counts as used up. Arbitrary: half a wake-up latency; the rest is carried over."""
MIN_TURN_NS: Final = 1_000_000
"""Principals with less than half of this a cycle save it up and take one turn of it every few cycles."""
ROUNDING: Final = 0.02
"""Fraction of an interval below which use and waiting are put down to the rounding of the kernel's counters."""
BLOCKED_TOLERANCE: Final = 0.1
"""Fraction of an observation that a hungry principal may seem blocked. Time that the hypervisor or interrupts took
is neither use nor waiting, so a lower bound would lose control on a noisy machine. Work conservation does not hang on
it: a principal that leaves part of a core unused shows so in its rate, and another one is admitted beside it."""
ASLEEP: Final = 0.5
"""Seemingly blocked for more than this, a principal is light at once; for less, only if it happens twice running."""
DOUBTFUL: Final = 0.8
"""Up to this, one that is seen ready at the instant of the observation stays hungry: beside foreign load the kernel's
pressure counters lose time, and a principal that really blocks this much is soon seen blocked."""
FULL_TOLERANCE_CORES: Final = 0.05
"""Cores that may stay unused before another hungry principal is admitted."""
TRUSTED: Final = 2
"""Observations in a row after which a hungry principal is taken to stay so, and observed again only every LOOK_NS
or when a turn leaves CPU time unused."""
LOOK_NS: Final = 100_000_000
IDLING: Final = 0.9
"""A principal that used less than this of its time in a turn, alone on its cores, is observed at once."""
MAX_LEAD_NS: Final = 500_000
LEAD_GAIN: Final = 0.25
LEAD_AIM_NS: Final = 10_000
"""Turns are aimed to end this much late: ending early costs another wake-up."""


@dataclass(slots=True)
class _Principal:
    spec: PrincipalSpec
    last_cpu_ns: int
    last_wait_ns: int | None
    last_ns: int  # when it was last read, or became eligible
    rate_cores: float  # CPUs it uses when nothing holds it back, as far as seen
    allotment_ns: int = 0
    allowance_ns: int = 0
    eligible: bool = True
    capped: bool = False  # out of cap budget, whatever its allowance
    hungry: bool = False
    active: bool = True  # used or waited for CPU when last observed
    streak: int = 0  # observations in a row that found it hungry
    observe_at_ns: int = 0  # when to observe it next
    due_ns: int = 0  # when its turn is expected to end, 0: not planned
    used_ns: int = 0  # consumption since it joined
    cycle_start_used_ns: int = 0
    credit_ns: int = 0  # CPU time it could have used in this cycle had we, or the kernel, let it
    ineligible_since_ns: int = 0
    cap_budget_ns: int = 0
    # The current observation: long enough to tell hungry from light, over several readings if they are close.
    observed_ns: int = 0
    observed_used_ns: int = 0
    observed_others_ns: int = 0


class TurnScheduler:
    """The default core; implements model.Scheduler. Deterministic: same calls, same decisions."""

    def __init__(self, settings: CoreSettings) -> None:
        self._settings = settings
        self._principals: dict[str, _Principal] = {}
        self._cycles = 0
        self._cycle_ns = 0  # CPU time allotted to all in a cycle
        self._held_back = False  # somebody who wanted CPU was paused in this cycle
        self._scan_ns = 0  # when to look at idle principals again
        self._lead_ns = 0  # how much longer than its allowance a turn takes, learned: the loop itself needs the CPU
        self._caps_filled_ns: int | None = None

    # -- membership ---------------------------------------------------------------------------------------------

    def put(self, spec: PrincipalSpec, now_ns: int, reading: Reading) -> None:
        """See model.Scheduler. A newcomer is eligible with a full allotment and is observed for half a quantum."""
        most = most_cores(spec, self._settings.cores)
        known = self._principals.get(spec.name)
        if known is None:
            newcomer = _Principal(spec, reading.cpu_ns, reading.wait_ns, now_ns, most)
            self._principals[spec.name] = newcomer
        else:
            if known.spec.parallelism != spec.parallelism:
                known.rate_cores = most
            known.spec = spec
            known.rate_cores = min(known.rate_cores, most)
            known.capped = known.capped and spec.cap_cores is not None
        self._reallot()

    def remove(self, name: str) -> None:
        """See model.Scheduler."""
        del self._principals[name]
        self._reallot()

    def _reallot(self) -> None:
        allotted = allotments_ns([p.spec for p in self._principals.values()], self._settings)
        for name, principal in self._principals.items():
            principal.allowance_ns += allotted[name] - principal.allotment_ns
            principal.allotment_ns = allotted[name]
        self._cycle_ns = sum(allotted.values())

    # -- one decision -------------------------------------------------------------------------------------------

    def due(self, now_ns: int) -> Mapping[str, bool]:
        """Everybody who is in a turn or was lately active; the idle ones only now and then."""
        scan = now_ns >= self._scan_ns
        return {
            n: now_ns >= p.observe_at_ns
            for n, p in self._principals.items()
            if p.eligible and (p.hungry or p.active or scan)
        }

    def decide(self, now_ns: int, readings: Mapping[str, Reading]) -> Decision:
        """See model.Scheduler."""
        self._account(now_ns, readings)
        if now_ns >= self._scan_ns:
            self._scan_ns = now_ns + self._settings.idle_sleep_ns
        self._fill_caps(now_ns)
        running, closed = self._rotate(now_ns)
        ineligible: list[str] = []
        eligible: list[str] = []
        for name, principal in self._principals.items():
            may_run = not principal.capped and (
                name in running or (not principal.hungry and principal.allowance_ns > DONE_NS)
            )
            if may_run != principal.eligible:
                self._switch(principal, may_run, now_ns)
                (eligible if may_run else ineligible).append(name)
        return Decision(tuple(ineligible), tuple(eligible), self._next_wake_ns(now_ns), closed)

    @staticmethod
    def _switch(principal: _Principal, may_run: bool, now_ns: int) -> None:
        if may_run:
            principal.credit_ns += round((now_ns - principal.ineligible_since_ns) * principal.rate_cores)
            principal.last_ns = now_ns
        else:
            principal.ineligible_since_ns = now_ns
        principal.eligible = may_run

    # -- accounting ---------------------------------------------------------------------------------------------

    def _account(self, now_ns: int, readings: Mapping[str, Reading]) -> None:
        read = [(self._principals[name], r) for name, r in readings.items() if name in self._principals]
        for principal, reading in read:
            used_ns = max(0, reading.cpu_ns - principal.last_cpu_ns)
            elapsed_ns = max(0, now_ns - principal.last_ns)
            principal.last_cpu_ns = reading.cpu_ns
            principal.last_ns = now_ns
            principal.used_ns += used_ns
            principal.allowance_ns -= used_ns
            principal.cap_budget_ns -= used_ns
            principal.observed_ns += elapsed_ns
            principal.observed_used_ns += used_ns
            if principal.hungry:
                if used_ns < IDLING * elapsed_ns and elapsed_ns >= MIN_TURN_NS:
                    principal.observe_at_ns = 0
                elif 0 < principal.due_ns <= now_ns:
                    self._learn_lead(principal)
        total_ns = sum(p.used_ns for p in self._principals.values())
        for principal, reading in read:
            telling = reading.wait_ns is not None or reading.blocked is not None
            if telling and principal.observed_ns >= self._settings.quantum_ns // 2:
                self._observe(principal, reading, total_ns - principal.used_ns)
                trusted = principal.hungry and principal.streak >= TRUSTED
                principal.observe_at_ns = now_ns + (LOOK_NS if trusted else self._settings.quantum_ns // 2)

    def _learn_lead(self, principal: _Principal) -> None:
        """A turn that ran undisturbed should be over now: correct by what is left, or was overdrawn."""
        missed_ns = max(-MAX_LEAD_NS, min(MAX_LEAD_NS, principal.allowance_ns + LEAD_AIM_NS))
        self._lead_ns = max(0, min(MAX_LEAD_NS, self._lead_ns + round(LEAD_GAIN * missed_ns)))

    @staticmethod
    def _waited_ns(principal: _Principal, reading: Reading) -> int:
        longest_ns = max(0, principal.observed_ns - principal.observed_used_ns)
        if reading.wait_ns is not None and principal.last_wait_ns is not None:
            return min(max(0, reading.wait_ns - principal.last_wait_ns), longest_ns)
        # No counter of waiting time: a principal that is not blocked now is taken to have been ready throughout.
        return 0 if reading.blocked else longest_ns

    def _observe(self, principal: _Principal, reading: Reading, others_ns: int) -> None:
        """Conclude an observation: hungry or light, how many CPUs it uses, what it forfeits."""
        elapsed_ns = principal.observed_ns
        waited_ns = self._waited_ns(principal, reading)
        principal.last_wait_ns = reading.wait_ns
        principal.credit_ns += waited_ns
        wanted_ns = min(elapsed_ns, principal.observed_used_ns + waited_ns)
        slack_ns = ROUNDING * elapsed_ns
        blocked_ns = elapsed_ns - wanted_ns
        principal.active = wanted_ns > slack_ns
        if principal.active and blocked_ns <= BLOCKED_TOLERANCE * elapsed_ns + self._settings.reading_error_ns:
            principal.hungry = True
            principal.streak = min(principal.streak + 1, TRUSTED)
        elif principal.hungry and reading.blocked is False and blocked_ns <= DOUBTFUL * elapsed_ns:
            pass  # the counters may have lost waiting time, and at this instant it is ready
        else:
            principal.hungry = principal.hungry and principal.streak > 0 and blocked_ns <= ASLEEP * elapsed_ns
            principal.streak = 0
        seen_cores = principal.observed_used_ns / elapsed_ns
        if waited_ns > slack_ns:
            seen_cores = max(seen_cores, principal.rate_cores)  # it would have used more
        most = most_cores(principal.spec, self._settings.cores)
        principal.rate_cores = min(most, max(seen_cores, FULL_TOLERANCE_CORES))
        if not principal.hungry and principal.allowance_ns > 0:
            # 2.4, made continuous: blocked, it gives up its allotment at the pace at which the others use theirs.
            blocked = 1.0 - wanted_ns / elapsed_ns
            pace = (others_ns - principal.observed_others_ns) / max(1, self._cycle_ns - principal.allotment_ns)
            forfeit_ns = round(principal.allotment_ns * blocked * max(0.0, pace))
            principal.allowance_ns = max(0, principal.allowance_ns - forfeit_ns)
        principal.observed_ns = principal.observed_used_ns = 0
        principal.observed_others_ns = others_ns

    def _fill_caps(self, now_ns: int) -> None:
        elapsed_ns = 0 if self._caps_filled_ns is None else now_ns - self._caps_filled_ns
        self._caps_filled_ns = now_ns
        for principal in self._principals.values():
            cap = principal.spec.cap_cores
            if cap is None:
                continue
            # The bucket holds one quantum's worth, so that waiting earns no burst above the cap.
            bucket_ns = round(cap * self._settings.quantum_ns)
            principal.cap_budget_ns = min(bucket_ns, principal.cap_budget_ns + round(cap * elapsed_ns))
            if principal.cap_budget_ns <= 0:
                principal.capped = True
            elif principal.cap_budget_ns >= bucket_ns // 2:
                principal.capped = False

    # -- turns and cycles ---------------------------------------------------------------------------------------

    @staticmethod
    def _threshold_ns(principal: _Principal) -> int:
        """Allowance below which a hungry principal gets no new turn."""
        saves_up = principal.allotment_ns < MIN_TURN_NS // 2 and not principal.eligible
        return MIN_TURN_NS if saves_up else DONE_NS

    def _rotate(self, now_ns: int) -> tuple[frozenset[str], tuple[CycleRecord, ...]]:
        """Names that are in a turn from now on, and the cycle that ended, if one did."""
        hungry = {n: p for n, p in self._principals.items() if p.hungry and not p.capped}
        if not hungry:
            return frozenset(), self._close_idle(now_ns)
        running, load = self._admit(hungry)
        held = len(running) < len(hungry) or any(
            p.active and not p.hungry and p.allowance_ns <= DONE_NS for p in self._principals.values()
        )
        # On one core a hungry principal with allowance leaves nothing idle, however little of the core is left to it.
        full = self._settings.cores == 1 or load >= self._settings.cores - FULL_TOLERANCE_CORES
        closed: tuple[CycleRecord, ...] = ()
        if held and not (running and full):
            closed = self._close(now_ns, hungry)
            running, _ = self._admit(hungry)
            held = len(running) < len(hungry)
        self._held_back = self._held_back or held
        return running, closed

    def _admit(self, hungry: Mapping[str, _Principal]) -> tuple[frozenset[str], float]:
        """Whose turn it is: those in a turn first, then by the longest time their allowance needs.

        The longest first leaves the short ones to fill up the cores at the end of the cycle (the LPT rule).
        """
        ready = [(n, p) for n, p in hungry.items() if p.allowance_ns > self._threshold_ns(p)]
        if self._settings.cores > 1:
            ready.sort(key=lambda item: -item[1].allowance_ns / max(item[1].rate_cores, FULL_TOLERANCE_CORES))
        ready.sort(key=lambda item: not item[1].eligible)
        running: set[str] = set()
        load = 0.0
        for name, principal in ready:
            if load >= self._settings.cores - FULL_TOLERANCE_CORES:
                break
            running.add(name)
            load += principal.rate_cores
        return frozenset(running), load

    def _close(self, now_ns: int, hungry: Mapping[str, _Principal]) -> tuple[CycleRecord, ...]:
        """End the cycle, and as many empty ones after it as it takes until somebody hungry has allowance."""
        for principal in self._principals.values():
            if not principal.eligible:
                principal.credit_ns += round((now_ns - principal.ineligible_since_ns) * principal.rate_cores)
                principal.ineligible_since_ns = now_ns
            # Where nobody was held back, what was used beyond the allotment did no harm and is no debt.
            least_ns = -self._cycle_ns if self._held_back else 0
            most_ns = principal.allowance_ns if self._always_usable(principal) else principal.credit_ns
            principal.allowance_ns = max(least_ns, min(principal.allowance_ns, most_ns))
            principal.credit_ns = max(0, principal.allowance_ns)
        cycles = min(
            (
                max(0, self._threshold_ns(p) - p.allowance_ns) // p.allotment_ns + 1
                for p in hungry.values()
                if p.allotment_ns > 0
            ),
            default=1,
        )
        for principal in self._principals.values():
            principal.allowance_ns += cycles * principal.allotment_ns
        return (self._record(now_ns),)

    def _always_usable(self, principal: _Principal) -> bool:
        """Whether only we, or others, can keep it from using its allowance: hungry, with one core to use it on."""
        return principal.hungry and self._settings.cores == 1

    def _close_idle(self, now_ns: int) -> tuple[CycleRecord, ...]:
        """Nobody is hungry, so nobody's use takes anything from anybody: everyone starts afresh."""
        if all(p.allowance_ns > DONE_NS for p in self._principals.values()):
            return ()
        for principal in self._principals.values():
            principal.allowance_ns = principal.allotment_ns
            principal.credit_ns = 0
        return (self._record(now_ns),)

    def _record(self, now_ns: int) -> CycleRecord:
        consumed = {n: p.used_ns - p.cycle_start_used_ns for n, p in self._principals.items()}
        for principal in self._principals.values():
            principal.cycle_start_used_ns = principal.used_ns
        self._cycles += 1
        self._held_back = False
        return CycleRecord(self._cycles - 1, now_ns, consumed)

    # -- when to look again -------------------------------------------------------------------------------------

    def _next_wake_ns(self, now_ns: int) -> int:
        settings = self._settings
        everybody = self._principals.values()
        contended = any(p.hungry and not p.eligible for p in everybody)
        someone_hungry = any(p.hungry for p in everybody)
        held = any(not p.eligible for p in everybody)
        sleep_ns = settings.max_sleep_ns if held or someone_hungry else settings.idle_sleep_ns
        for principal in everybody:
            if principal.spec.cap_cores is not None:
                sleep_ns = min(sleep_ns, self._cap_due_ns(principal, principal.spec.cap_cores))
            if not principal.eligible:
                continue
            burn = usable_cores(principal.spec, settings.cores)
            principal.due_ns = 0
            if principal.hungry and contended:
                turn_ns = principal.allowance_ns // burn + self._lead_ns
                principal.due_ns = now_ns + turn_ns
                watch_ns = settings.max_sleep_ns if principal.streak >= TRUSTED else settings.quantum_ns
                sleep_ns = min(sleep_ns, watch_ns, turn_ns)
            elif principal.active and someone_hungry and not principal.hungry:
                sleep_ns = min(sleep_ns, max(settings.quantum_ns // 4, principal.allowance_ns // burn))
            elif principal.active and not principal.hungry:
                sleep_ns = min(sleep_ns, 2 * settings.quantum_ns)
        return now_ns + max(sleep_ns, settings.min_gap_ns)

    def _cap_due_ns(self, principal: _Principal, cap: float) -> int:
        """Time until the cap's bucket can run dry, or, if it is dry, until it is half full."""
        if principal.capped:
            missing_ns = round(cap * self._settings.quantum_ns) // 2 - principal.cap_budget_ns
            return max(0, round(missing_ns / cap)) + 1
        if not principal.active:
            return self._settings.idle_sleep_ns
        return max(0, principal.cap_budget_ns // usable_cores(principal.spec, self._settings.cores))
