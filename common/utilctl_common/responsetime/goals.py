"""The model asked backwards: the smallest shares, floors or caps at which given workloads are as fast as they must be.

A workload's response time falls with its own number and rises with those of its siblings. So there is one smallest
setting for several goals at once, and raising each number in turn, never by more than its goal needs, finds it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from utilctl_common.errors import FailedError, UsageError
from utilctl_common.quantities import MAX_SHARE, MIN_SHARE
from utilctl_common.responsetime.knobs import Knob, cores_due, find, knob, semantics_around, siblings, turned
from utilctl_common.responsetime.model import Machine, Prediction, SaturatedError, Transactions
from utilctl_common.responsetime.predict import predict

_DIGITS: Final = 4
"""Digits of the values that are tried: more than anybody sets."""
_SMALLEST_CORES: Final = 1e-3
"""Smallest floor or cap that is tried, in cores."""


_MARGIN: Final = 1e-9
"""By how much of a goal one must be below it: what the model computes is this exact."""


class GoalUnreachableError(FailedError):
    """No setting meets the goals."""


@dataclass(frozen=True, slots=True)
class Goal:
    """The workload's mean response time is to be below ``below_s``."""

    name: str
    below_s: float

    def is_met(self, machine: Machine) -> bool:
        """Whether that machine does it."""
        return _time_s(machine, self.name) < self.below_s * (1 - _MARGIN)


@dataclass(frozen=True, slots=True)
class Setting:
    """What to set: a share, floor or cap. ``cores`` is what it stands for with the other numbers as they are."""

    name: str
    knob: Knob
    value: float
    cores: float


@dataclass(frozen=True, slots=True)
class Answer:
    """The smallest settings, by goal, and what they do to everybody."""

    settings: tuple[Setting, ...]
    prediction: Prediction


def smallest(machine: Machine, goals: Sequence[Goal]) -> Answer:
    """The smallest numbers, of four digits, that meet all ``goals``; the other workloads keep theirs.

    Raises UsageError for a goal that is no workload's, and GoalUnreachableError, saying why, where none does.
    """
    names = [goal.name for goal in goals]
    for goal in goals:
        if names.count(goal.name) > 1:
            raise UsageError(f"two goals are given for {goal.name}", hint="give one of them")
        _refuse_what_has_no_knob(machine, goal)
    predict(machine)  # what no setting can help is said first
    scales = {name: _scale(machine, name, names) for name in names}
    places = dict.fromkeys(names, 0)
    current = _all_at_their_smallest(machine, scales)
    behind = True
    while behind:
        behind = False
        for goal in goals:
            if goal.is_met(current):
                continue
            behind = True
            scale = scales[goal.name]
            place = _first_that_meets(current, goal, scale, places[goal.name])
            if place is None:
                raise GoalUnreachableError(_why(machine, current, goal, goals, scales))
            places[goal.name] = place
            current = turned(current, goal.name, scale[place])
    settings = tuple(
        Setting(name, knob(current, name), scales[name][places[name]], cores_due(current, name)) for name in names
    )
    return Answer(settings, predict(current))


def _refuse_what_has_no_knob(machine: Machine, goal: Goal) -> None:
    node = find(machine, goal.name)
    if node.load is None:
        inside = ", ".join(leaf.name for leaf in list(node.leaves())[:3])
        raise UsageError(f"{goal.name} is a group", hint=f"give goals to its workloads, for example {inside}")
    if semantics_around(machine, goal.name) == "none":
        raise UsageError("a goal needs shares to set, and semantics is none", hint="use guarantee or cap")


def _scale(machine: Machine, name: str, names: Sequence[str]) -> list[float]:
    """All values that are tried, ascending."""
    low, high = MIN_SHARE, MAX_SHARE
    if knob(machine, name) != "share":
        low, high = _SMALLEST_CORES, machine.cores
    elif all(sibling.name in names and sibling.reserved_cores is None for sibling in siblings(machine, name)):
        low = 1.0  # only ratios count among them, so the smallest may as well be 1
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    steps = 10 ** (_DIGITS - 1)
    values = (
        float(f"{digits}e{power - _DIGITS + 1}")
        for power in range(first, last + 1)
        for digits in range(steps, 10 * steps)
    )
    return [value for value in values if low <= value <= high]


def _all_at_their_smallest(machine: Machine, scales: Mapping[str, Sequence[float]]) -> Machine:
    for name, scale in scales.items():
        machine = turned(machine, name, scale[0])
    return machine


def _time_s(machine: Machine, name: str) -> float:
    """The response time; infinity where it has no bound, or where floors or caps do not fit beside each other."""
    try:
        found = next(one for one in predict(machine).workloads if one.name == name).response_time_s
    except SaturatedError:
        return math.inf
    return math.inf if found is None else found


def _first_that_meets(machine: Machine, goal: Goal, scale: Sequence[float], low: int) -> int | None:
    """The first place on the scale, above ``low`` where it is not met, that meets the goal; None: there is none."""
    high = _largest_that_fits(machine, goal.name, scale, low)
    if not goal.is_met(turned(machine, goal.name, scale[high])):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        if goal.is_met(turned(machine, goal.name, scale[middle])):
            high = middle
        else:
            low = middle
    return high


def _largest_that_fits(machine: Machine, name: str, scale: Sequence[float], low: int) -> int:
    """The last place at or above ``low`` that leaves the siblings what they reserve."""
    high = len(scale) - 1
    if _fits(turned(machine, name, scale[high])):
        return high
    while high - low > 1:
        middle = (low + high) // 2
        if _fits(turned(machine, name, scale[middle])):
            low = middle
        else:
            high = middle
    return low


def _fits(machine: Machine) -> bool:
    try:
        predict(machine)
    except SaturatedError:
        return False
    return True


def _why(
    machine: Machine, current: Machine, goal: Goal, goals: Sequence[Goal], scales: Mapping[str, Sequence[float]]
) -> str:
    """Why a goal is out of reach, as one sentence."""
    load, what, wanted = (
        find(machine, goal.name).load,
        knob(machine, goal.name),
        f"{goal.name} below {goal.below_s:g} s",
    )
    if load is not None and load.service_time_s >= goal.below_s:
        return f"no {what} gets {wanted}: its service time alone is {load.service_time_s:g} s; make its jobs smaller"
    scale = scales[goal.name]

    def best_s(around: Machine) -> float:
        return _time_s(turned(around, goal.name, scale[_largest_that_fits(around, goal.name, scale, 0)]), goal.name)

    alone_s = best_s(_all_at_their_smallest(machine, scales))
    if alone_s < goal.below_s:
        others = ", ".join(f"{other.name} below {other.below_s:g} s" for other in goals if other is not goal)
        return (
            f"the goals exclude each other: with {others}, {goal.name} takes {best_s(current):.4g} s at best, because"
            " what one workload gains others lose; relax one, or take work away"
        )
    ahead = "even ahead of all its siblings" if what == "share" and isinstance(load, Transactions) else "at its largest"
    group = goal.name.rpartition("/")[0]
    hint = f"raise {group} too, or take work away" if group else "take work away, or add cores"
    return f"no {what} gets {wanted}: {ahead} it takes {alone_s:.4g} s; {hint}"
