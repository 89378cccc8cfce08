"""Rounds of long cycles, in each of which everybody has a turn; and what is used beside turns."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.simulated import MS, Alps, make, run_for, spinners
from utilctl_agent.alps.allotment import rms_relative_error
from utilctl_agent.alps.carry import MIN_TURN_NS
from utilctl_agent.alps.pauses import BREATH_NS, PauseSettings
from utilctl_agent.alps.rounds import ROUND_NS, floor_ns, rounds_in, turns_used
from utilctl_agent.engine import Engine
from utilctl_agent.testing import Bursts

RIGHT = 0.10
"""RMS relative error of a cycle that counts as right again, as in the benchmark of blocking."""
SKEWED = [1] * 19 + [381]
LINEAR = list(range(1, 40, 2))


@given(allowance_ns=st.integers(1, 10**10), rounds=st.integers(1, 30))
def test_what_is_left_is_divided_among_the_rounds_that_are_left(allowance_ns: int, rounds: int) -> None:
    left_ns, portions = allowance_ns, list[int]()
    for turns in range(rounds):
        floor = floor_ns(left_ns, turns, rounds)
        portions.append(left_ns - floor)
        left_ns = floor
        if left_ns == 0:
            break
    assert left_ns == 0
    assert len(portions) == rounds or max(portions) < 2 * MIN_TURN_NS
    assert max(portions) <= max(2 * MIN_TURN_NS, allowance_ns // rounds + rounds)


@given(rounds=st.integers(1, 30), left=st.integers(1, 30))
def test_turns_that_were_had_are_told_from_what_is_left(rounds: int, left: int) -> None:
    allotment_ns = rounds * 10 * MS
    assert turns_used(left * 10 * MS, allotment_ns, rounds) == max(0, rounds - left)


def test_a_cycle_has_a_round_for_every_880_ms_of_each_core() -> None:
    assert [rounds_in(ns, 1) for ns in (1, ROUND_NS, ROUND_NS + 1, 4_000 * MS)] == [1, 1, 2, 5]
    assert rounds_in(4_000 * MS, 2) == 3


def longest_pauses_ns(alps: Alps, from_ns: int) -> dict[str, int]:
    """By principal, the longest time between a pause and the resume after it."""
    since_ns: dict[str, int] = {}
    longest: dict[str, int] = {}
    for now_ns, decision in alps.core.decisions:
        for name in decision.ineligible:
            since_ns[name] = now_ns
        for name in decision.eligible:
            if now_ns >= from_ns and name in since_ns:
                longest[name] = max(longest.get(name, 0), now_ns - since_ns[name])
    return longest


@pytest.mark.parametrize("shares", [SKEWED, LINEAR], ids=["skewed", "linear"])
@pytest.mark.parametrize("latency_ns", [0, 100_000])
def test_nobody_waits_longer_than_a_round_for_its_next_turn(shares: list[int], latency_ns: int) -> None:
    """Without breaths: each of them would be an inexact turn, and two wake-ups."""
    alps = spinners(make(latency_ns=latency_ns), shares)
    run_for(alps.host, 30_000 * MS, alps)
    settings = PauseSettings()
    longest_ns = max(longest_pauses_ns(alps, 10_000 * MS).values())
    assert longest_ns <= settings.max_pause_ns - settings.margin_ns


def test_what_a_debtor_has_left_lasts_for_all_rounds() -> None:
    """A burst while it was thought idle costs one of the small ones half of its next cycle, but no round of it."""
    alps = spinners(make(), SKEWED)
    run_for(alps.host, 9_000 * MS, alps)
    run_for(alps.host, 20_000 * MS, alps)
    cycle = alps.log.cycles[-1]
    assert cycle.cpu_ns["p0"] == pytest.approx(10 * MS, rel=0.02)


def test_breaths_are_charged_to_the_cycle_in_which_they_were_taken() -> None:
    alps = make()
    alps.engine = Engine(alps.core, PauseSettings(max_pause_ns=100 * MS, margin_ns=10 * MS))
    for name, share in {"small": 1, "big": 99}.items():
        alps.add(name, share)
    used: list[dict[str, int]] = []
    closed = 0
    while alps.host.now_ns() < 20_000 * MS:
        alps.step()
        alps.log.cycles.extend(alps.engine.settle())
        if len(alps.log.cycles) > closed:
            closed = len(alps.log.cycles)
            used.append(alps.used_ns())
        alps.host.advance_to(alps.next_ns)
    assert closed >= 10
    for name in ("small", "big"):
        logged_ns = [cycle.cpu_ns[name] for cycle in alps.log.cycles]
        assert max(abs(sum(logged_ns[: n + 1]) - used[n][name]) for n in range(closed)) < BREATH_NS // 4


@pytest.mark.parametrize("asleep_ms", [240, 253, 266, 279, 291])
def test_one_that_wakes_up_has_its_share_from_the_first_whole_cycle_on(asleep_ms: int) -> None:
    """The paper's experiment on blocking (section 3.3), at several phases: no debt and no credit from its sleep."""
    alps = make()
    alps.add("a", 1)
    alps.add("b", 2, Bursts(400 * MS, asleep_ms * MS))
    alps.add("c", 3)
    run_for(alps.host, 20_000 * MS, alps)
    right = 0
    asleep = True
    for before, cycle, after in zip(alps.log.cycles, alps.log.cycles[1:], alps.log.cycles[2:], strict=False):
        woke = asleep and cycle.cpu_ns["b"] > 0
        asleep = cycle.cpu_ns["b"] == 0
        if woke and before.cpu_ns["b"] == 0:  # it woke in this cycle; the next one is whole
            assert rms_relative_error(after.cpu_ns, alps.shares) < RIGHT
            right += 1
    assert right >= 5
