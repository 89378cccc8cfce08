"""What the loop may take of its CPU in the long run."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from utilctl_agent.duty import BURST_NS, LONGEST_REST_NS, MOST, Duty
from utilctl_common.quantities import NS_PER_MS, NS_PER_S


def test_a_loop_that_takes_little_never_rests() -> None:
    duty = Duty()
    assert all(duty.rest_ns(now_ns, NS_PER_MS // 5) == 0 for now_ns in range(0, NS_PER_S, NS_PER_MS))


def test_a_burst_is_allowed() -> None:
    assert Duty().rest_ns(0, BURST_NS) == 0


def test_after_a_burst_it_rests_until_what_it_took_is_within_its_part_again() -> None:
    duty = Duty()
    assert duty.rest_ns(0, BURST_NS + 2 * NS_PER_MS) == 2 * NS_PER_MS / MOST


def test_time_that_passes_makes_up_for_what_was_taken_but_earns_no_more_than_a_burst() -> None:
    duty = Duty()
    duty.rest_ns(0, BURST_NS)
    assert duty.rest_ns(100 * NS_PER_S, BURST_NS) == 0
    assert duty.rest_ns(100 * NS_PER_S + 1, NS_PER_MS) > 0


def test_no_rest_is_longer_than_somebody_may_stay_paused_for_it() -> None:
    assert Duty().rest_ns(0, 10 * NS_PER_S) == LONGEST_REST_NS


@given(st.lists(st.integers(1, 8 * NS_PER_MS), min_size=200, max_size=400), st.integers(0, NS_PER_MS))
def test_it_never_takes_more_than_its_part_and_a_burst(steps_ns: list[int], gap_ns: int) -> None:
    duty = Duty()
    now_ns = taken_ns = 0
    for step_ns in steps_ns:
        now_ns += step_ns
        taken_ns += step_ns
        # A step that is under way is not cut short.
        assert taken_ns <= BURST_NS + MOST * now_ns + step_ns
        now_ns += max(gap_ns, duty.rest_ns(now_ns, step_ns))
