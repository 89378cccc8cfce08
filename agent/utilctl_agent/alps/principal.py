"""A principal of the default core, and what is concluded from watching it: hungry or light. Pure.

An observation spans at least half a quantum in which the principal was eligible. From what it used and how long it
waited follow: whether it wanted CPU all the time (hungry), how many CPUs it uses when nothing holds it back, and, if
it was blocked, what it forfeits (paper, section 2.4).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple

from utilctl_agent.alps.feasible import most_cores
from utilctl_agent.alps.model import CoreSettings, PrincipalSpec, Reading

ROUNDING: Final = 0.02
"""Fraction of an interval below which use and waiting are put down to the rounding of the kernel's counters."""
BLOCKED_TOLERANCE: Final = 0.1
"""Fraction of an observation that a hungry principal may seem blocked. Time that the hypervisor or interrupts took
is neither use nor waiting, so a lower bound would lose control on a noisy machine. Work conservation does not hang on
it: a principal that leaves part of a core unused shows so in its rate, and another one is admitted beside it."""
ASLEEP: Final = 0.5
"""Seemingly blocked for more than this, a principal is light at once; for less, only if it was not trusted."""
DOUBTFUL: Final = 0.8
"""Up to this, one that is seen ready at the instant of the observation stays hungry: beside foreign load the kernel's
pressure counters lose time, and a principal that really blocks this much is soon seen blocked."""
FULL_TOLERANCE_CORES: Final = 0.05
"""Cores that may stay unused before another hungry principal is admitted."""
FILLS: Final = 0.85
"""On several cores, one that uses this part of what it can use at most is taken to use all of it: switching hundreds of
processes takes some time on every core, and two groups side by side are divided by their threads, not by shares."""
RECOVERY: Final = 1.05
"""A group that finds no idle core is taken to be able to use this much more than was thought, until it shows."""
QUEUED: Final = 0.8
"""One of which some thread waited for this part of an observation could have used every CPU that it may use. Less than
all of it, for the kernel's pressure counters lose time."""
TRUSTED: Final = 3
"""Observations in a row after which a hungry principal is taken to stay so, and observed again only every LOOK_NS
or when a turn leaves CPU time unused. Each doubles the time after which a turn is looked at before its end."""
LOOK_NS: Final = 1_000_000_000
MAX_PROOF_QUANTA: Final = 16
Role = Literal["turn", "queue", "spent", "light", "shut", "capped"]
"""Where a principal stands: hungry and in a turn, waiting for one, or done for this cycle; light with allowance, or
without it; out of its cap's budget. Those in ``turn`` and ``light`` are eligible."""


@dataclass(slots=True, eq=False)
class Principal:
    """A principal as the default core keeps it. Times and amounts in nanoseconds."""

    spec: PrincipalSpec
    last_cpu_ns: int
    last_wait_ns: int | None
    last_queued_ns: int | None = field(default=None, init=False)
    last_ns: int  # when it was last read, or became eligible
    rate_cores: float  # CPUs it uses when nothing holds it back, as far as seen
    role: Role = "light"
    eligible: bool = True  # as the outside was last told
    hungry: bool = False
    active: bool = True  # used or waited for CPU when last observed
    streak: int = 0  # observations in a row that found it hungry
    proof_ns: int = 0  # how long it must have wanted CPU without a break to count as hungry
    proven_ns: int = 0  # how long it has
    allotment_ns: int = 0
    allowance_ns: int = 0
    turn_floor_ns: int = 0  # allowance at which this turn ends: 0, or more if the cycle is long
    turns: int = 0  # that it has begun in this cycle
    together: bool = False  # it shares its turn with others,
    finish_ns: int = 0  # and is done when each of their threads has moved on this far
    turn_began_ns: int = 0
    turn_used_ns: int = 0  # its consumption when its turn began
    due_ns: int = 0  # when its turn is expected to end, 0: not planned
    pending_ns: int = 0  # expected to have been used in its last turn beyond what was read, while readings lag
    used_ns: int = 0  # consumption since it joined
    cycle_start_used_ns: int = 0
    credit_ns: int = 0  # CPU time it could have used in this cycle had we, or the kernel, let it
    ineligible_since_ns: int = 0
    cap_budget_ns: int = 0
    # The current observation: long enough to tell hungry from light, over several readings if they are close.
    observe_at_ns: int = 0
    observed_ns: int = 0
    observed_used_ns: int = 0
    observed_others_ns: int = 0  # what the others used meanwhile, up to the mark
    others_mark_ns: int = 0

    @property
    def left_ns(self) -> int:
        """Its allowance, as far as is known or expected."""
        return self.allowance_ns - self.pending_ns


def proven(principal: Principal) -> None:
    """It used all that it could since it was last observed: that needs no observation."""
    principal.observed_ns = principal.observed_used_ns = principal.observed_others_ns = 0
    principal.observe_at_ns = principal.last_ns + LOOK_NS


class Use(NamedTuple):
    """Consumption of all principals so far, and in this cycle, and what is allotted to all in a cycle."""

    total_ns: int
    cycle_used_ns: int
    cycle_ns: int


def _waited_ns(principal: Principal, reading: Reading) -> int:
    longest_ns = max(0, principal.observed_ns - principal.observed_used_ns)
    if reading.wait_ns is not None and principal.last_wait_ns is not None:
        return min(max(0, reading.wait_ns - principal.last_wait_ns), longest_ns)
    # No counter of waiting time: a principal that is not blocked now is taken to have been ready throughout.
    return 0 if reading.blocked else longest_ns


def _queued(principal: Principal, reading: Reading) -> bool:
    """Whether some thread of it waited for a CPU nearly all the time."""
    before_ns, principal.last_queued_ns = principal.last_queued_ns, reading.queued_ns
    if reading.queued_ns is None or before_ns is None:
        return False
    return reading.queued_ns - before_ns >= QUEUED * principal.observed_ns


def observe(principal: Principal, reading: Reading, settings: CoreSettings, use: Use) -> bool:
    """Conclude an observation: hungry or light, how many CPUs it uses, what it forfeits. True if it changed sides."""
    elapsed_ns = principal.observed_ns
    waited_ns = _waited_ns(principal, reading)
    principal.last_wait_ns = reading.wait_ns
    principal.credit_ns += waited_ns
    wanted_ns = min(elapsed_ns, principal.observed_used_ns + waited_ns)
    blocked_ns = elapsed_ns - wanted_ns
    principal.active = wanted_ns > ROUNDING * elapsed_ns
    was_hungry = principal.hungry
    if principal.active and blocked_ns <= BLOCKED_TOLERANCE * elapsed_ns + settings.reading_error_ns:
        principal.proven_ns += elapsed_ns
        if principal.hungry or principal.proven_ns >= principal.proof_ns:
            principal.hungry = True
            principal.streak = min(principal.streak + 1, TRUSTED)
        if principal.proven_ns >= LOOK_NS + principal.proof_ns:
            principal.proof_ns //= 2
            principal.proven_ns = principal.proof_ns
    elif principal.hungry and reading.blocked is False and blocked_ns <= DOUBTFUL * elapsed_ns:
        pass  # the counters may have lost waiting time, and at this instant it is ready
    else:
        trusted = principal.hungry and principal.streak >= TRUSTED
        principal.hungry = trusted and blocked_ns <= ASLEEP * elapsed_ns
        principal.streak = 0
        principal.proven_ns = 0
        if was_hungry and not principal.hungry:
            # Bursts that fill an observation are no hunger; each time it deceives, it must prove itself longer.
            longest_ns = MAX_PROOF_QUANTA * settings.quantum_ns
            principal.proof_ns = min(longest_ns, max(settings.quantum_ns, 2 * principal.proof_ns))
    total_ns = use.total_ns - principal.used_ns
    others_ns = principal.observed_others_ns + total_ns - principal.others_mark_ns
    # Where readings lag, part of what was used is not seen yet: matters for short observations only.
    unseen_ns = settings.reading_error_ns * settings.cores
    # While it waited, at least one CPU more would have been used than was.
    seen_cores = (max(wanted_ns, principal.observed_used_ns) + unseen_ns) / elapsed_ns
    full_ns = (settings.cores - 2 * FULL_TOLERANCE_CORES) * elapsed_ns - unseen_ns
    if waited_ns > ROUNDING * elapsed_ns or principal.observed_used_ns + others_ns >= full_ns:
        seen_cores = max(seen_cores, RECOVERY * principal.rate_cores)  # it would have used more
    most = most_cores(principal.spec, settings.cores)
    if _queued(principal, reading) or (settings.cores > 1 and seen_cores >= FILLS * most):
        seen_cores = most
    principal.rate_cores = min(most, max(seen_cores, FULL_TOLERANCE_CORES))
    if not principal.hungry and principal.allowance_ns > 0:
        # 2.4, made continuous: blocked, it gives up its allotment at the pace at which the others use theirs.
        # What they used before this cycle began took nothing from what it was allotted since.
        in_cycle_ns = min(others_ns, use.cycle_used_ns - principal.used_ns + principal.cycle_start_used_ns)
        pace = in_cycle_ns / max(1, use.cycle_ns - principal.allotment_ns)
        forfeit_ns = round(principal.allotment_ns * blocked_ns / elapsed_ns * max(0.0, pace))
        principal.allowance_ns = max(0, principal.allowance_ns - forfeit_ns)
    principal.observed_ns = principal.observed_used_ns = principal.observed_others_ns = 0
    principal.others_mark_ns = total_ns
    return principal.hungry != was_hungry
