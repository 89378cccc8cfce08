"""Was every write done once, none lost, and all in an order that nobody could tell from one after the other?

Writes carry a mark of their own, so the store's history says which of them happened, and in which order. A history is
linearizable if each write can be given an instant between its call and its answer so that this order results. With the
order known that is simple to check: no write may come after one that was called only when it had been answered.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Outcome = Literal["done", "not done", "unknown"]


@dataclass(frozen=True, slots=True)
class Write:
    """One write as its caller saw it. Times on one clock, in seconds; version: of the service, by the answer."""

    mark: str
    see: str
    called_s: float
    answered_s: float
    outcome: Outcome
    version: int = 0


def violations(writes: Iterable[Write], history: Mapping[str, Sequence[str]]) -> list[str]:
    """What is wrong, one sentence each. history: the marks in the store by service, oldest first."""
    by_mark = {write.mark: write for write in writes}
    found: list[str] = []
    for see, marks in history.items():
        found += [f"{mark} was applied {times} times" for mark, times in Counter(marks).items() if times > 1]
        found += [f"{mark} of {see} was written by nobody" for mark in marks if mark not in by_mark]
        found += _out_of_order(see, [by_mark[mark] for mark in marks if mark in by_mark])
    there = {mark for marks in history.values() for mark in marks}
    for write in by_mark.values():
        if write.outcome == "done" and write.mark not in there:
            found.append(f"{write.mark} was acknowledged and is lost")
        if write.outcome == "not done" and write.mark in there:
            found.append(f"{write.mark} was refused and is there")
    return found


def _out_of_order(see: str, ordered: Sequence[Write]) -> list[str]:
    found: list[str] = []
    for position, write in enumerate(ordered, start=1):
        if write.see != see:
            found.append(f"{write.mark} is in the history of {see}")
        if write.outcome == "done" and write.version != position:
            found.append(f"{write.mark} was answered version {write.version} and is number {position}")
    earliest_answer_s = math.inf  # of those that come later in the order
    for write in reversed(ordered):
        if write.called_s > earliest_answer_s:
            found.append(f"{write.mark} comes before a write that was answered before it was called")
        if write.outcome == "done":
            earliest_answer_s = min(earliest_answer_s, write.answered_s)
    return found
