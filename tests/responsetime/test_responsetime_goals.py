"""Goals: the smallest setting that meets them, and why there is none."""

from __future__ import annotations

import math

import pytest

from utilctl_common.errors import UsageError
from utilctl_common.responsetime import Batch, Machine, Node, SaturatedError, Transactions, predict
from utilctl_common.responsetime.goals import Goal, GoalUnreachableError, smallest
from utilctl_common.responsetime.knobs import turned


def machine(*workloads: tuple[float, float], semantics: str = "guarantee") -> Machine:
    nodes = (Node(f"w{n}", share, load=Transactions(used, 1.0)) for n, (share, used) in enumerate(workloads, 1))
    return Machine(1, semantics, tuple(nodes))  # type: ignore[arg-type]  # a parameter of the tests


def time_s(machine: Machine, name: str) -> float:
    found = next(one for one in predict(machine).workloads if one.name == name).response_time_s
    assert found is not None
    return found


def below(value: float) -> float:
    """The next smaller value of four digits."""
    return value - 10.0 ** (math.floor(math.log10(value)) - 3)


def test_the_smallest_share_meets_the_goal_and_the_next_smaller_one_does_not() -> None:
    asked = machine((1, 0.3), (2, 0.3), (3, 0.3))
    answer = smallest(asked, [Goal("w1", 5.0)])
    (setting,) = answer.settings
    assert setting.knob == "share"
    assert time_s(turned(asked, "w1", setting.value), "w1") < 5.0
    assert time_s(turned(asked, "w1", below(setting.value)), "w1") >= 5.0
    assert setting.cores == pytest.approx(setting.value / (setting.value + 5))
    assert answer.prediction.workloads[0].response_time_s == pytest.approx(5.0, rel=1e-3)


def test_two_goals_are_met_by_the_smallest_shares_of_both() -> None:
    asked = machine((1, 0.3), (2, 0.3), (3, 0.3))
    answer = smallest(asked, [Goal("w1", 2.5), Goal("w2", 7.0)])
    met = asked
    for setting in answer.settings:
        met = turned(met, setting.name, setting.value)
    assert time_s(met, "w1") < 2.5
    assert time_s(met, "w2") < 7.0
    for setting in answer.settings:
        less = turned(met, setting.name, below(setting.value))
        goal_s = 2.5 if setting.name == "w1" else 7.0
        assert time_s(less, setting.name) >= goal_s


def test_where_all_siblings_have_goals_the_smallest_share_is_1() -> None:
    answer = smallest(machine((5, 0.3), (5, 0.6)), [Goal("w1", 12.0), Goal("w2", 10.5)])
    assert min(setting.value for setting in answer.settings) == 1.0


def test_the_smallest_cap_is_the_utilization_plus_the_service_time_over_the_goal() -> None:
    nodes = (Node("w1", 1, 0.9, Transactions(0.3, 1.0)), Node("w2", 1, load=Transactions(0.05, 1.0)))
    (setting,) = smallest(Machine(1, "cap", nodes), [Goal("w1", 2.5)]).settings
    assert setting.knob == "cap"
    assert setting.value == pytest.approx(0.3 + 1 / 2.5, abs=1.1e-4)


def test_the_smallest_floor_is_found_beside_other_floors() -> None:
    nodes = (Node("w1", 1, 0.1, Transactions(0.3, 1.0)), Node("w2", 1, 0.3, Transactions(0.3, 1.0)),
             Node("w3", 1, load=Transactions(0.3, 1.0)))  # fmt: skip
    asked = Machine(1, "guarantee", nodes)
    (setting,) = smallest(asked, [Goal("w1", 6.0)]).settings
    assert setting.knob == "floor"
    assert setting.value < 0.7
    assert time_s(turned(asked, "w1", setting.value), "w1") < 6.0
    assert time_s(turned(asked, "w1", below(setting.value)), "w1") >= 6.0


@pytest.mark.parametrize(
    ("goals", "said"),
    [
        ([Goal("w1", 0.9)], "its service time alone is 1 s"),
        ([Goal("w1", 1.2)], "even ahead of all its siblings it takes 1.429 s"),
        ([Goal("w1", 1.5), Goal("w2", 2.0)], "exclude each other"),
    ],
)
def test_a_goal_out_of_reach_is_refused_with_the_reason(goals: list[Goal], said: str) -> None:
    with pytest.raises(GoalUnreachableError, match=said):
        smallest(machine((1, 0.3), (2, 0.3), (3, 0.3)), goals)


def test_a_goal_that_the_group_keeps_out_of_reach_says_so() -> None:
    group = Node(
        "g", 1, children=(Node("g/a", 1, load=Transactions(0.3, 1.0)), Node("g/b", 1, load=Transactions(0.1, 1.0)))
    )
    asked = Machine(1, "guarantee", (group, Node("c", 9, load=Transactions(0.4, 1.0))))
    with pytest.raises(GoalUnreachableError, match="raise g too"):
        smallest(asked, [Goal("g/a", 1.5)])


def test_a_batch_goal_is_a_speed() -> None:
    nodes = (Node("a", 1, load=Batch(10.0)), Node("b", 3, load=Batch(1.0)))
    (setting,) = smallest(Machine(1, "guarantee", nodes), [Goal("a", 20.0)]).settings
    assert setting.value == pytest.approx(3.0, rel=1e-3)


def test_goals_that_name_nothing_to_set_are_refused() -> None:
    group = Node("g", 1, children=(Node("g/a", 1, load=Transactions(0.3, 1.0)),))
    with pytest.raises(UsageError, match="g is a group"):
        smallest(Machine(1, "guarantee", (group,)), [Goal("g", 2.0)])
    with pytest.raises(UsageError, match="there are w1"):
        smallest(machine((1, 0.3)), [Goal("w9", 2.0)])
    with pytest.raises(UsageError, match="semantics is none"):
        smallest(machine((1, 0.3), semantics="none"), [Goal("w1", 2.0)])
    with pytest.raises(UsageError, match="two goals"):
        smallest(machine((1, 0.3)), [Goal("w1", 2.0), Goal("w1", 3.0)])
    with pytest.raises(SaturatedError):
        smallest(machine((1, 0.6), (1, 0.6)), [Goal("w1", 2.0)])
