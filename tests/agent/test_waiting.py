"""Waits are counted while they last, and once."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from utilctl_agent.host.waiting import WaitCounter, parse_schedstat


def test_a_wait_counts_while_it_lasts() -> None:
    counter = WaitCounter((10, 5), 1000)
    assert counter.waited_ns((10, 5), 1300, ready=True) == 300
    assert counter.waited_ns((10, 5), 1500, ready=True) == 200


def test_a_wait_that_was_counted_while_it_lasted_is_not_counted_again_when_it_is_over() -> None:
    counter = WaitCounter((10, 5), 1000)
    counter.waited_ns((10, 5), 1300, ready=True)
    assert counter.waited_ns((20, 405), 1500, ready=True) == 100


def test_one_that_sleeps_does_not_wait() -> None:
    counter = WaitCounter((10, 5), 1000)
    assert counter.waited_ns((10, 5), 9000, ready=False) == 0


def test_the_kernels_counters_are_read_in_their_order() -> None:
    assert parse_schedstat(b"123 456 7\n") == (123, 456)


@given(st.lists(st.tuples(st.sampled_from(["run", "wait", "sleep"]), st.integers(1, 10**9)), max_size=40))
def test_looked_at_after_every_change_all_that_was_waited_is_counted(phases: list[tuple[str, int]]) -> None:
    """The counters move as the kernel moves them: of a wait once it is over."""
    now_ns = ran_ns = over_ns = lasting_ns = counted_ns = 0
    counter = WaitCounter((0, 0), 0)
    for phase, length_ns in [*phases, ("run", 1)]:
        now_ns += length_ns
        if phase == "wait":
            lasting_ns += length_ns
        else:
            # Whoever goes to sleep has got a CPU before, for an instant at least.
            ran_ns += length_ns if phase == "run" else lasting_ns > 0
            over_ns, lasting_ns = over_ns + lasting_ns, 0
        counted_ns += counter.waited_ns((ran_ns, over_ns), now_ns, ready=phase != "sleep")
    assert counted_ns == sum(length_ns for phase, length_ns in phases if phase == "wait")
