"""Averages over random priority orders of siblings, without going through the n! of them.

The model: at any instant the order is random; first comes a sibling with probability share / sum of shares, next one of
the others in the same way. That is the order of independent exponential clocks that ring at rates equal to the shares:
given that a's clock rings at t, each sibling j is ahead of a with probability 1 - exp(-share_j t), independently of the
others. With U_j the load of j (or of its whole subtree) and H the load ahead of a::

    E[exp(z H)] = integral over t of share_a exp(-share_a t) product over j of
                  (exp(-share_j t) + (1 - exp(-share_j t)) exp(z U_j))

which takes O(n) for each t and z, and all n siblings at once. Groups of a tree are ordered independently, level by
level, so their averages multiply.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from utilctl_common.responsetime.waiting import Floats, half_line

Array = NDArray[Any]
"""Of floats, or of complex numbers where exponents are imaginary."""

_CHUNK: Final = 1_000_000
"""Array elements handled at once: some tens of MB."""
_TINY: Final = 1e-300


@dataclass(frozen=True, slots=True)
class Ahead:
    """Averages over what is ahead of somebody, one for each exponent z, relative to everybody being ahead.

    ``load``: of exp(z (H - all)). ``work``: of Q exp(z (H - all)), Q the sum of load times service time ahead.
    """

    load: Array
    work: Array

    def below(self, other: Ahead) -> Ahead:
        """What is ahead at this level and, independently, at the ``other``, nearer to the root."""
        return Ahead(self.load * other.load, self.work * other.load + self.load * other.work)


def nobody(exponents: Array) -> Ahead:
    """Ahead of the whole tree there is nothing."""
    return Ahead(np.ones_like(exponents), np.zeros_like(exponents))


def ahead_of_siblings(
    shares: Floats, loads_cores: Floats, works: Floats, exponents: Array, step: float
) -> tuple[Ahead, ...]:
    """For each sibling, what is ahead of it among the others.

    ``works`` are the sums of load times service time of each sibling's subtree; ``exponents`` are real and not
    negative, or imaginary. ``all`` is the sum of the other siblings' loads. ``step`` is that of ``half_line``.
    """
    count = len(shares)
    if count == 1:
        return (nobody(exponents),)
    rates = shares / shares.sum()
    times, weights = half_line(float(rates.min()), 1.0, step)
    behind: Floats = np.asarray(
        -np.outer(times, rates), dtype=np.float64
    )  # log of the probability that j's clock has not rung at t
    ahead = np.log(-np.expm1(behind))
    density = np.log(rates) + behind + np.log(weights)[:, None]
    density -= np.log(np.exp(density).sum(axis=0))  # a probability: its sum is 1 to 1e-13 and made so
    load = np.empty((len(exponents), count), dtype=exponents.dtype)
    work = np.empty_like(load)
    chunk = max(1, _CHUNK // (len(times) * count))
    for first in range(0, len(exponents), chunk):
        part = slice(first, first + chunk)
        factors = _log_sum(ahead, behind, exponents[part, None, None] * loads_cores)
        others = np.exp(factors.sum(axis=2, keepdims=True) - factors + density)
        shifted = np.exp(ahead - factors) * works
        load[part] = others.sum(axis=1)
        work[part] = (others * (shifted.sum(axis=2, keepdims=True) - shifted)).sum(axis=1)
    return tuple(Ahead(load[:, sibling], work[:, sibling]) for sibling in range(count))


def _log_sum(ahead: Floats, behind: Floats, growth: Array) -> Array:
    """``log(exp(ahead) + exp(behind - growth))``: a sibling's factor, relative to its being ahead."""
    if not np.iscomplexobj(growth):
        return np.asarray(np.logaddexp(ahead, behind - growth))
    total = np.exp(ahead) + np.exp(behind - growth)
    return np.log(np.where(np.abs(total) < _TINY, _TINY, total))
