"""What an SEE could use on this host if nothing held it back, from what it did while it could. Pure.

Over an interval a principal was paused for some time, waited (ready, nothing of it running) for some, and ran or
slept for the rest. Outside pauses and waits it shows how fast it burns CPU; with the waits counted as wanted, how
much of the time it wants any. Their product is its demand.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

HUNGRY: Final = 0.95
"""Wanting CPU this much of the unpaused time counts as wanting it always; absorbs the counters' rounding."""
LEAST_SIGHT: Final = 0.05
"""With less than this fraction of the interval unpaused there is nothing to judge by; the last estimate stands. An SEE
that is held back nearly always only has breaths of 2 ms, in which it may not even get to run; taking that for a want
of nothing would keep it held back for ever."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What one SEE did over an interval, in nanoseconds, and the CPUs its threads can use at once on this host."""

    elapsed_ns: int
    cpu_ns: int
    paused_ns: int
    wait_ns: int
    parallelism: int
    cores: int


def demand_cores(usage: Usage, last_cores: float, *, host_is_full: bool) -> float:
    """Estimated demand in cores.

    host_is_full: no core was idle; then an SEE that always wants CPU may want as much as its threads can use.
    """
    most = float(min(usage.parallelism, usage.cores))
    unpaused_ns = usage.elapsed_ns - usage.paused_ns
    if usage.elapsed_ns <= 0 or unpaused_ns < LEAST_SIGHT * usage.elapsed_ns:
        return min(last_cores, most)
    wait_ns = min(max(0, usage.wait_ns), unpaused_ns)
    free_ns = max(1, unpaused_ns - wait_ns)
    rate_cores = usage.cpu_ns / free_ns
    wanted = min(1.0, (min(usage.cpu_ns, unpaused_ns) + wait_ns) / unpaused_ns)
    if wanted >= HUNGRY:
        return most if host_is_full else min(most, max(1.0, rate_cores))
    return min(most, rate_cores)
