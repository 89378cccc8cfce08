"""Demand that steps, climbs, toggles and trembles: the fleet settles within three intervals and does not swing."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from support.closed_loop import ClosedLoop, Wants, skewed_fleet
from support.fleet_values import policies
from utilctl_common.policy import SeePolicy

CORES = {"a": 4.0, "b": 4.0, "c": 4.0}
SHARES = policies(SeePolicy("svc=web", 3), SeePolicy("svc=etl", 1), SeePolicy("svc=batch", 2))
SETTLES = 3
"""Intervals after which everybody has what is fair."""
CLOSE_RATIO = 0.05
"""Of the fleet's cores; also the most by which anybody may get more than before and after a change."""
CLOSE_CORES = CLOSE_RATIO * sum(CORES.values())


def wants(web: Sequence[float], etl: Sequence[float], batch: Sequence[float]) -> Wants:
    """On a, b and c."""
    return {host: {"svc=web": web[at], "svc=etl": etl[at], "svc=batch": batch[at]} for at, host in enumerate(CORES)}


QUIET = wants(web=(4, 0, 0), etl=(0, 4, 0), batch=(4, 4, 4))
BUSY = wants(web=(4, 4, 0), etl=(0, 4, 4), batch=(4, 4, 4))
WEB_SPREADS = wants(web=(4, 4, 4), etl=(0, 4, 0), batch=(4, 4, 4))
CASES = [(QUIET, BUSY), (BUSY, QUIET), (QUIET, WEB_SPREADS), (WEB_SPREADS, QUIET)]


def settled(at: Wants) -> ClosedLoop:
    loop = ClosedLoop(SHARES, CORES)
    for _ in range(12):
        loop.step(at)
    assert loop.error_cores() <= 0.01
    assert loop.pushes == 0
    return loop


@pytest.mark.parametrize(("before", "after"), CASES)
def test_after_a_step_everybody_has_what_is_fair_within_three_intervals_and_keeps_it(
    before: Wants, after: Wants
) -> None:
    loop = settled(before)
    for _ in range(SETTLES):
        loop.step(after)
    for _ in range(10):
        loop.step(after)
        assert loop.error_cores() <= CLOSE_CORES, (loop.used, loop.fair)


@pytest.mark.parametrize(("before", "after"), CASES)
def test_on_the_way_nobody_is_entitled_to_more_than_before_and_after(before: Wants, after: Wants) -> None:
    """Overshoot: beyond both ends of the step. What is used beyond a target is what nobody else on the host wants."""
    loop = settled(before)
    old = loop.targets()
    seen: list[dict[str, float]] = []
    for _ in range(12):
        loop.step(after)
        seen.append(loop.targets())
    for targets in seen:
        for see in SHARES:
            assert targets[see] <= max(old[see], loop.fair[see]) + CLOSE_CORES, (see, targets)


def test_once_settled_nothing_is_sent_any_more() -> None:
    loop = settled(QUIET)
    for _ in range(8):
        loop.step(BUSY)
    for _ in range(20):
        loop.step(BUSY)
        assert loop.pushes == 0


def test_a_climbing_demand_is_followed() -> None:
    loop = settled(QUIET)
    for tenth in range(1, 41):
        loop.step(wants(web=(4, tenth / 10, 0), etl=(0, 4, 0), batch=(4, 4, 4)))
        assert loop.error_cores() <= CLOSE_CORES + 0.3, "three intervals behind a climb of a tenth of a core each"
    for _ in range(SETTLES):
        loop.step(wants(web=(4, 4, 0), etl=(0, 4, 0), batch=(4, 4, 4)))
    assert loop.error_cores() <= CLOSE_CORES


@pytest.mark.parametrize("half_period", [5, 8, 13])
def test_a_demand_that_toggles_is_settled_after_every_edge(half_period: int) -> None:
    loop = settled(QUIET)
    for edge in range(8):
        now = BUSY if edge % 2 == 0 else QUIET
        for interval in range(half_period):
            loop.step(now)
            if interval >= SETTLES:
                assert loop.error_cores() <= CLOSE_CORES, (edge, interval, loop.used, loop.fair)


@pytest.mark.parametrize("half_period", [1, 2])
def test_one_that_toggles_faster_than_that_does_not_make_the_others_swing(half_period: int) -> None:
    """Demand falls after three reports only: to the rest of the fleet it looks steady, and little is sent."""
    loop = settled(QUIET)
    pushes = 0
    for interval in range(40):
        loop.step(BUSY if interval // half_period % 2 == 0 else QUIET)
        if interval >= 2 * SETTLES:
            pushes += loop.pushes
    assert pushes == 0


@pytest.mark.parametrize("seed", range(5))
def test_noise_in_what_is_measured_moves_nobody_by_much(seed: int) -> None:
    rng = random.Random(seed)
    partly = wants(web=(4, 0.5, 0), etl=(0, 4, 1.5), batch=(4, 4, 4))
    loop = settled(partly)
    for _ in range(60):
        noise = {(host, see): rng.uniform(0.9, 1.1) for host in CORES for see in SHARES}
        loop.step(partly, noise=noise)
        assert loop.error_cores() <= CLOSE_CORES, (loop.used, loop.fair)


def test_on_a_hundred_hosts_with_skewed_placement_everybody_has_the_same_per_share_within_one_percent() -> None:
    """F1. Beside it, what every host on its own would make of the shares."""
    fleet = skewed_fleet(seed=1)
    assert fleet.fleet_wide(intervals=12) >= 0.99
    assert fleet.host_by_host() <= 0.6
