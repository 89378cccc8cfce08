"""The model along a range of one workload's share, floor or cap."""

from __future__ import annotations

from dataclasses import dataclass

from utilctl_common.errors import UsageError
from utilctl_common.responsetime.knobs import Knob, knob, turned
from utilctl_common.responsetime.model import Machine, Prediction
from utilctl_common.responsetime.predict import predict


@dataclass(frozen=True, slots=True)
class Sweep:
    """What was turned, and the predictions by its value, ascending."""

    name: str
    knob: Knob
    points: tuple[tuple[float, Prediction], ...]


def sweep(machine: Machine, name: str, first: float, last: float, count: int) -> Sweep:
    """Predictions for ``count`` values from ``first`` to ``last``, evenly spaced.

    Raises UsageError for a range that is none or a name that is not there, and what ``predict`` raises.
    """
    if not 0 < first < last:
        raise UsageError(f"{first:g}..{last:g} is no range above 0", hint="write the smaller value first")
    values = [first + (last - first) * place / (count - 1) for place in range(count)]
    found = [(value, predict(turned(machine, name, value))) for value in values]
    return Sweep(name, knob(machine, name), tuple(found))
