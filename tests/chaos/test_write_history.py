"""The checker of write histories finds each kind of fault, and none where there is none."""

from __future__ import annotations

from support.write_history import Outcome, Write, violations

SEE = "svc=a"


def write(mark: str, called_s: float, answered_s: float, outcome: Outcome = "done", version: int = 0) -> Write:
    return Write(mark, SEE, called_s, answered_s, outcome, version)


ONE = write("1", 0, 1, version=1)
TWO = write("2", 2, 3, version=2)


def test_writes_one_after_the_other_are_fine() -> None:
    assert violations([ONE, TWO], {SEE: ["1", "2"]}) == []


def test_writes_at_the_same_time_may_come_in_any_order() -> None:
    first, second = write("1", 0, 3, version=2), write("2", 1, 2, version=1)
    assert violations([first, second], {SEE: ["2", "1"]}) == []


def test_one_whose_outcome_is_unknown_may_be_there_or_not_and_late() -> None:
    unknown = write("?", 0, 0.5, "unknown")
    assert violations([ONE, unknown], {SEE: ["1"]}) == []
    assert violations([ONE, unknown], {SEE: ["1", "?"]}) == []


def test_a_lost_write_is_found() -> None:
    assert violations([ONE, TWO], {SEE: ["1"]}) == ["2 was acknowledged and is lost"]


def test_a_write_that_was_done_twice_is_found() -> None:
    assert "1 was applied 2 times" in violations([ONE], {SEE: ["1", "1"]})


def test_a_refused_write_that_is_there_is_found() -> None:
    assert violations([write("no", 0, 1, "not done")], {SEE: ["no"]}) == ["no was refused and is there"]


def test_a_write_of_nobody_is_found() -> None:
    assert violations([ONE], {SEE: ["1", "ghost"]}) == ["ghost of svc=a was written by nobody"]


def test_an_order_against_time_is_found() -> None:
    late, early = write("2", 2, 3, version=1), write("1", 0, 1, version=2)
    assert violations([early, late], {SEE: ["2", "1"]}) == [
        "2 comes before a write that was answered before it was called"
    ]


def test_a_wrong_version_in_an_answer_is_found() -> None:
    assert violations([write("1", 0, 1, version=7)], {SEE: ["1"]}) == ["1 was answered version 7 and is number 1"]
