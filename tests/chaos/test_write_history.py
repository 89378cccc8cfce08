"""The checker of write histories finds each kind of fault, and none where there is none."""

from __future__ import annotations

from support.write_history import Outcome, Read, Write, violations

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


def read(mark: str | None, called_s: float, answered_s: float) -> Read:
    return Read(SEE, mark, called_s, answered_s)


def test_reads_of_what_was_there_or_may_have_been_are_fine() -> None:
    during = [read(None, 0.1, 0.9), read("1", 0.1, 0.9), read("1", 2.1, 2.9), read("2", 2.1, 2.9)]
    before_and_after = [read(None, -2, -1), read("1", 1.1, 1.9), read("2", 4, 5)]
    for seen in (*during, *before_and_after):
        assert violations([ONE, TWO], {SEE: ["1", "2"]}, [seen]) == []
    assert violations([ONE, TWO], {SEE: ["1", "2"]}, before_and_after) == []


def test_a_read_of_what_was_over_is_found() -> None:
    assert violations([ONE, TWO], {SEE: ["1", "2"]}, [read("1", 4, 5)]) == [
        "1 was read after a write 2 had been answered"
    ]
    assert violations([ONE], {SEE: ["1"]}, [read(None, 4, 5)]) == ["None was read after a write 1 had been answered"]


def test_a_read_that_goes_back_behind_an_earlier_one_is_found() -> None:
    slow = write("2", 2, 30, version=2)
    seen = [read("2", 3, 4), read("1", 5, 6)]
    assert violations([ONE, slow], {SEE: ["1", "2"]}, seen) == ["1 was read after a read of 2 had been answered"]


def test_a_read_of_what_was_not_there_yet_or_never_is_found() -> None:
    assert violations([ONE, TWO], {SEE: ["1", "2"]}, [read("2", 0.1, 1.5)]) == ["2 was read before it was written"]
    unknown = write("?", 0, 1, "unknown")
    assert violations([ONE, unknown], {SEE: ["1"]}, [read("?", 0.1, 0.5)]) == ["? was read and is not there"]
