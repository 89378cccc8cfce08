"""A plan being carried out: when its switches come, and what is made up for on the way."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from utilctl_agent.alps.model import Decision, Turn
from utilctl_agent.testing import SimulatedGroup, SimulatedHost, Spin
from utilctl_agent.track import MADE_UP, Track
from utilctl_common.quantities import NS_PER_MS as MS

TOLERANCE_NS = 4 * MS
CORES = 2


@pytest.fixture
def groups() -> dict[str, SimulatedGroup]:
    host = SimulatedHost()
    return {name: host.group(name, Spin()) for name in "ab"}


def plan(turns: int, *, turn_ns: int = 10 * MS) -> tuple[Turn, ...]:
    """Turns of ``a`` and ``b`` by turns, each expected to use both CPUs."""
    made = []
    for at in range(turns):
        used_ns = (at // 2 + 1) * CORES * turn_ns
        made.append(Turn("ab"[at % 2], (at + 1) * turn_ns, used_ns - TOLERANCE_NS, used_ns + TOLERANCE_NS))
    return tuple(made)


def track(
    groups: dict[str, SimulatedGroup],
    turns: tuple[Turn, ...],
    *,
    lags: bool = True,
    reach_ns: int | None = None,
    avoid: str | None = None,
    clock_ns: Callable[[], int] = lambda: 0,
) -> Track:
    decision = Decision((), (), turns[0].until_ns, plan=turns, lags=lags, cores=CORES)
    return Track(decision, dict(groups), settles=None, reach_ns=reach_ns, avoid=avoid, clock_ns=clock_ns)


def use(group: SimulatedGroup, cpu_ns: int) -> None:
    group.processes[0].cpu_ns += cpu_ns


def test_switches_come_at_their_time_and_not_before(groups: dict[str, SimulatedGroup]) -> None:
    carried_out = track(groups, plan(4))
    assert carried_out.switch(10 * MS - 1) is None
    assert carried_out.switch(10 * MS) == 20 * MS
    assert groups["a"].stopped
    assert not groups["b"].stopped


def test_after_the_last_there_is_something_to_decide(groups: dict[str, SimulatedGroup]) -> None:
    carried_out = track(groups, plan(2), lags=False)
    use(groups["a"], 20 * MS)
    assert carried_out.switch(10 * MS) == 20 * MS
    assert carried_out.switch(20 * MS) is None
    assert [(switch.now_ns, switch.cpu_ns) for switch in carried_out.told()] == [(10 * MS, 20 * MS)]


def test_where_readings_lag_a_part_of_what_was_missed_is_added_to_the_next_turn(
    groups: dict[str, SimulatedGroup],
) -> None:
    carried_out = track(groups, plan(6))
    assert carried_out.switch(10 * MS) == 20 * MS
    missed_ns = 2 * MS
    use(groups["a"], 20 * MS - missed_ns)  # seen at the next switch, when its next turn begins
    longer_ns = missed_ns // (MADE_UP * CORES)
    assert carried_out.switch(20 * MS) == 30 * MS + longer_ns
    use(groups["b"], 20 * MS)
    assert carried_out.switch(30 * MS + longer_ns) == 40 * MS + longer_ns, "all that follows comes later"


def test_who_used_too_much_has_a_shorter_turn_next(groups: dict[str, SimulatedGroup]) -> None:
    carried_out = track(groups, plan(6))
    carried_out.switch(10 * MS)
    use(groups["a"], 22 * MS)
    assert carried_out.switch(20 * MS) == 30 * MS - 2 * MS // (MADE_UP * CORES)


def test_on_one_cpu_nothing_is_made_up_for(groups: dict[str, SimulatedGroup]) -> None:
    carried_out = track(groups, plan(6), lags=False)
    use(groups["a"], 19 * MS)
    assert carried_out.switch(10 * MS) == 20 * MS
    use(groups["b"], 19 * MS)
    assert carried_out.switch(20 * MS) == 30 * MS


@pytest.mark.parametrize("off_ns", [-TOLERANCE_NS - 1, TOLERANCE_NS + 1])
def test_who_is_too_far_off_ends_the_plan(groups: dict[str, SimulatedGroup], off_ns: int) -> None:
    carried_out = track(groups, plan(6))
    carried_out.switch(10 * MS)
    use(groups["a"], 20 * MS + off_ns)
    assert carried_out.switch(20 * MS) is None
    assert carried_out.failed
    assert carried_out.done == 1


def test_nothing_is_done_beyond_the_reach_also_when_turns_come_late(groups: dict[str, SimulatedGroup]) -> None:
    assert not track(groups, plan(3), reach_ns=20 * MS - 1)
    carried_out = track(groups, plan(6), reach_ns=30 * MS)
    carried_out.switch(10 * MS)
    use(groups["a"], 18 * MS)
    assert carried_out.switch(20 * MS) is None, "the turn would end after 30 ms"
    assert not carried_out.failed
    assert not groups["b"].stopped, "b goes on until that is decided"


def test_a_turn_that_is_to_begin_with_a_decision_ends_the_track(groups: dict[str, SimulatedGroup]) -> None:
    assert not track(groups, plan(3), avoid="b")


def test_it_tells_how_long_a_switch_took(groups: dict[str, SimulatedGroup]) -> None:
    instants_ns = iter([1_000, 6_000])
    carried_out = track(groups, plan(3), clock_ns=lambda: next(instants_ns))
    carried_out.switch(10 * MS)
    assert [switch.took_ns for switch in carried_out.told()] == [5_000]
