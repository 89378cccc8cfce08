"""Was every write done once, none lost, and all in an order that nobody could tell from one after the other?

Writes carry a mark of their own, so the store's history says which of them happened, and in which order. A history is
linearizable if each write and each read can be given an instant between its call and its answer so that this order
results. With the order known that is simple to check: nothing may come after what was called only when it had been
answered. A read comes right after the write that it saw.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
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


@dataclass(frozen=True, slots=True)
class Read:
    """One service as somebody saw it: as the write ``mark`` left it, or None: it was not there. Times as of Write."""

    see: str
    mark: str | None
    called_s: float
    answered_s: float


def violations(writes: Iterable[Write], history: Mapping[str, Sequence[str]], reads: Iterable[Read] = ()) -> list[str]:
    """What is wrong, one sentence each. history: the marks in the store by service, oldest first."""
    reads_of: dict[str, list[Read]] = {}
    for read in reads:
        reads_of.setdefault(read.see, []).append(read)
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
    for see, seen in reads_of.items():
        found += _misread(history.get(see, ()), by_mark, seen)
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


def _misread(marks: Sequence[str], by_mark: Mapping[str, Write], reads: Sequence[Read]) -> list[str]:
    """Reads of one service that saw what was over, or what was not there yet."""
    place = {mark: position for position, mark in enumerate(marks, start=1)}
    found: list[str] = []
    answered = [
        (write.answered_s, place[mark], f"write {mark}")
        for mark, write in by_mark.items()
        if mark in place and write.outcome == "done"
    ]
    for read in reads:
        if read.mark is None:
            continue
        if read.mark not in place:
            found.append(f"{read.mark} was read and is not there")
        elif read.mark in by_mark and by_mark[read.mark].called_s > read.answered_s:
            found.append(f"{read.mark} was read before it was written")
        else:
            answered.append((read.answered_s, place[read.mark], f"read of {read.mark}"))
    answered.sort()
    times_s = [answered_s for answered_s, _, _ in answered]
    newest = list(accumulate(answered, _later))  # of all that had been answered by then
    for read in reads:
        before = bisect_left(times_s, read.called_s)
        at = place.get(read.mark, 0) if read.mark is not None else 0
        if before and newest[before - 1][1] > at:
            found.append(f"{read.mark} was read after a {newest[before - 1][2]} had been answered")
    return found


def _later(one: tuple[float, int, str], other: tuple[float, int, str]) -> tuple[float, int, str]:
    return max(one, other, key=lambda entry: entry[1])
