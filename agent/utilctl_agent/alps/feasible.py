"""Shares that M cores can actually deliver.

With M cores a principal that can use at most p of them at once gets at most p / M of the host, whatever its share
says. Its share is then *infeasible*. Left alone it would hoard allowance that it can never spend while the others,
out of theirs, leave cores idle. So it is clamped to p / M and the rest is spread over the others by their shares,
again and again until nobody is above its bound (the same idea as "water-filling": at most n rounds, each clamps at
least one).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from utilctl_agent.alps.model import PrincipalSpec


def usable_cores(spec: PrincipalSpec, cores: int) -> int:
    """How fast a principal can burn CPU time on a host of ``cores``, in CPU seconds a second."""
    return min(spec.parallelism, cores)


def most_cores(spec: PrincipalSpec, cores: int) -> float:
    """The most cores that a principal can use on a host of ``cores``: its parallelism or its cap."""
    usable = float(usable_cores(spec, cores))
    return usable if spec.cap_cores is None else min(usable, spec.cap_cores)


def feasible_fractions(specs: Sequence[PrincipalSpec], cores: int) -> dict[str, float]:
    """Fraction of the host's CPU time due to each principal; sums to 1 unless all together cannot use M cores.

    If the parallelism of all together is below M, every fraction is its own bound divided by the sum of the bounds:
    everybody may run all the time.
    """
    if not specs:
        return {}
    bound = {spec.name: most_cores(spec, cores) / cores for spec in specs}
    total_bound = sum(bound.values())
    if total_bound <= 1:
        return {name: value / total_bound for name, value in bound.items()}
    fractions: dict[str, float] = {}
    left = list(specs)
    rest = 1.0
    while left:
        share_sum = sum(spec.share for spec in left)
        clamped = [spec for spec in left if spec.share / share_sum * rest > bound[spec.name]]
        if not clamped:
            fractions.update({spec.name: spec.share / share_sum * rest for spec in left})
            break
        for spec in clamped:
            fractions[spec.name] = bound[spec.name]
        left = [spec for spec in left if spec.name not in fractions]
        rest = max(0.0, 1.0 - sum(fractions.values()))
    return fractions


def spread_ns(fractions: Mapping[str, float], total_ns: int) -> dict[str, int]:
    """Split ``total_ns`` by ``fractions`` into whole nanoseconds that add up exactly (largest remainder)."""
    if not fractions:
        return {}
    weight_sum = sum(fractions.values())
    exact = {name: fraction / weight_sum * total_ns for name, fraction in fractions.items()}
    whole = {name: int(value) for name, value in exact.items()}
    missing = total_ns - sum(whole.values())
    for name in sorted(exact, key=lambda key: (whole[key] - exact[key], key))[: max(0, missing)]:
        whole[name] += 1
    return whole
