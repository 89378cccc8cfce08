"""How much CPU time each principal is allotted in a cycle. Shared by all cores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from utilctl_agent.alps.feasible import feasible_fractions, spread_ns
from utilctl_agent.alps.model import CoreSettings, PrincipalSpec


def allotments_ns(specs: Sequence[PrincipalSpec], settings: CoreSettings, *, stretch: float = 1.0) -> dict[str, int]:
    """CPU time due to each principal in one cycle, in whole nanoseconds.

    The cycle is ``settings.cycle_ns``, or the paper's S * Q (section 2.1, shares as given, as in its Table 2),
    ``stretch`` times.
    Infeasible shares are clamped on M cores (module ``feasible``).
    """
    if not specs:
        return {}
    cycle_ns = settings.cycle_ns
    if cycle_ns is None:
        cycle_ns = max(settings.quantum_ns, round(sum(spec.share for spec in specs) * settings.quantum_ns))
    return spread_ns(feasible_fractions(specs, settings.cores), round(cycle_ns * stretch))


def rms_relative_error(actual_ns: Mapping[str, int], share: Mapping[str, float]) -> float:
    """RMS over principals of (actual - ideal) / ideal within one cycle (ALPS paper, section 3.1).

    The ideal splits what all of them together consumed by their shares. 0.0 for a cycle without consumption.
    """
    total_ns = sum(actual_ns[name] for name in share)
    share_sum = sum(share.values())
    if total_ns <= 0 or share_sum <= 0:
        return 0.0
    squares = [
        (actual_ns[name] / (total_ns * value / share_sum) - 1.0) ** 2 for name, value in share.items() if value > 0
    ]
    return float((sum(squares) / len(squares)) ** 0.5)
