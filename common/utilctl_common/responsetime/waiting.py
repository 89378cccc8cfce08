"""How long one waits on m cores, as sums of exponentials of the load.

``V(a)`` is the mean wait for a core in units of the service time, at an offered load of ``a`` cores (Erlang's C formula
over the free capacity)::

    V(a) = C(m, a) / (m - a)                                  one core: a / (1 - a)

Averages over random priority orders are averages of functions of "the load ahead of me", a sum of independent parts;
the average of an *exponential* of such a sum is a product. So V is written as a sum of exponentials, to 1e-11::

    V(a) = 1/(m - a) - S(a)        1/(m - a) = integral over z of exp(-z (m - a))
                                   S(a): smooth on [0, m], a short Fourier series on twice the interval
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from utilctl_common.responsetime.model import BeyondModelError

Floats = NDArray[np.float64]

_LEFT: Final = -3.7
"""Where sums over a whole half-line begin: exp(y - exp(-y)) is 1e-19 there, next to nothing of the smallest scale."""
_DECAY: Final = 45.0
"""exp(-45) is below 1e-19: an exponential that has come this far is over."""
_FIT_TOLERANCE: Final = 1e-11
_FOURIER_TERMS: Final = (24, 40, 80, 160)


@dataclass(frozen=True, slots=True)
class ExponentialSum:
    """``V(a) = Re sum(weight * exp(exponent * (a - load)))`` for a in [0, load]; real and imaginary exponents apart.

    Weights are those at ``a = load``, so that nothing overflows however large a real exponent is.
    """

    real: tuple[Floats, Floats]
    imaginary: tuple[Floats, NDArray[np.complex128]]
    load_cores: float

    def at(self, load_cores: Floats) -> Floats:
        """V at these loads."""
        back = load_cores - self.load_cores
        value = np.exp(np.outer(back, self.real[0])) @ self.real[1]
        frequencies, weights = self.imaginary
        if frequencies.size:
            value = value + (np.exp(1j * np.outer(back, frequencies)) @ weights).real
        return np.asarray(value, dtype=np.float64)


def half_line(slowest: float, fastest: float, step: float) -> tuple[Floats, Floats]:
    """Nodes and weights of an integral from 0 to infinity, where rates of decay go from ``slowest`` to ``fastest``.

    The trapezoidal rule after ``x = exp(y - exp(-y))`` (H. Takahasi and M. Mori, 1974): its error falls exponentially
    with 1/step for what is analytic to the right of 0, whatever scales the integrand has.
    """
    y = np.arange(_LEFT, math.log(_DECAY * fastest / slowest) + 2 * step, step)
    x = np.exp(y - np.exp(-y)) / fastest
    return x, step * x * (1.0 + np.exp(-y))


def waiting(cores: float, load_cores: Floats) -> Floats:
    """V at these loads, all below ``cores``; not below 1 core, also between whole numbers of them."""
    return _erlang_c(cores, load_cores) / (cores - load_cores)


def exponential_sum(cores: int, load_cores: float, step: float) -> ExponentialSum:
    """V on [0, load] as a sum of exponentials. ``load_cores`` must be below ``cores``.

    Raises BeyondModelError if it cannot be had to 1e-11 (of a service time, or of the longest wait where that is more).
    """
    exponents, weights = half_line(cores - load_cores, cores, step)
    grown = weights * np.exp(-exponents * (cores - load_cores))
    real = (np.append(exponents, 0.0), np.append(grown, -1.0 if cores == 1 else 0.0))
    none = (np.empty(0), np.empty(0, dtype=np.complex128))
    if cores == 1:
        found = ExponentialSum(real, none, load_cores)
    else:
        found = ExponentialSum(real, _smooth_part(cores, load_cores), load_cores)
    probes = np.linspace(0.0, load_cores, 257)
    exact = waiting(cores, probes)
    if np.abs(found.at(probes) - exact).max() > _FIT_TOLERANCE * _scale(cores, load_cores):
        raise BeyondModelError(f"{cores} cores cannot be computed exactly enough", hint="ask for fewer cores")
    return found


def _smooth_part(cores: int, load_cores: float) -> tuple[Floats, NDArray[np.complex128]]:
    """``-S(a)`` on [0, load] as frequencies and complex weights at a = load, with as few terms as are exact enough."""
    interval = load_cores if load_cores > 0 else 1e-3 * cores
    probes = np.linspace(0.0, interval, 513)
    enough = 0.1 * _FIT_TOLERANCE * _scale(cores, load_cores)
    frequencies, weights = np.empty(0), np.empty(0, dtype=np.complex128)
    for terms in _FOURIER_TERMS:
        # Twice the interval: the continuation is left to the least squares, and nothing jumps at the ends.
        frequencies = np.asarray(np.arange(terms) * (math.pi / interval), dtype=np.float64)
        points = interval * (1 - np.cos(math.pi * (np.arange(4 * terms) + 0.5) / (4 * terms))) / 2
        found = np.linalg.lstsq(_waves(points, frequencies), -_smooth(cores, points), rcond=1e-14)[0]
        weights = found[:terms].astype(np.complex128)
        weights[1:] -= 1j * found[terms:]
        if np.abs(_waves(probes, frequencies) @ found + _smooth(cores, probes)).max() < enough:
            break
    return frequencies, weights * np.exp(1j * frequencies * load_cores)


def _scale(cores: int, load_cores: float) -> float:
    """What errors are measured by: the larger part of V at its largest, or a service time."""
    return max(1.0, 1.0 / (cores - load_cores))


def _waves(points: Floats, frequencies: Floats) -> Floats:
    phases = np.outer(points, frequencies)
    return np.hstack([np.cos(phases), np.sin(phases[:, 1:])])


def _smooth(cores: int, load_cores: Floats) -> Floats:
    return (1.0 - _erlang_c(cores, load_cores)) / (cores - load_cores)


def _erlang_c(cores: float, load_cores: Floats) -> Floats:
    """The probability that all cores are busy (Erlang's C), through his B by its stable recursion over the cores."""
    whole = math.floor(cores)
    part = cores - whole
    blocked = np.ones_like(load_cores)
    if part > 0:
        from scipy.special import hyperu  # type: ignore[import-untyped]  # publishes no types

        # B at a part of a core, the start of the recursion: 1/B = a U(1, 2 + part, a), DLMF 8.6.4 and 13.6.
        used = load_cores > 0
        blocked[~used] = 0.0
        blocked[used] = 1.0 / (load_cores[used] * hyperu(1.0, 2.0 + part, load_cores[used]))
    for core in range(1, whole + 1):
        blocked = load_cores * blocked / (part + core + load_cores * blocked)
    return blocked / (1.0 - load_cores / cores * (1.0 - blocked))
