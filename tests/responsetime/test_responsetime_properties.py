"""The fast method against enumeration, conservation, and what must hold for any tree of workloads."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from utilctl_common.responsetime import (
    Batch,
    BeyondModelError,
    Machine,
    Node,
    SaturatedError,
    Transactions,
    predict,
)
from utilctl_common.responsetime.enumeration import enumerated, wait

SHARES = st.floats(-3, 6).map(lambda power: 10**power)
PARTS = st.floats(-4, 0).map(lambda power: 10**power)
SERVICE_S = st.floats(-3, 2).map(lambda power: 10**power)


@st.composite
def trees(draw: st.DrawFn, most_leaves: int, prefix: str = "w", depth: int = 3) -> tuple[Node, ...]:
    """Trees with at most that many leaves; utilizations are parts, to be scaled."""
    count = draw(st.integers(1, most_leaves))
    nodes: list[Node] = []
    left = count
    while left:
        name = f"{prefix}{len(nodes)}"
        inside = draw(st.integers(1, left)) if depth and draw(st.booleans()) else 1
        share = draw(SHARES)
        if inside > 1:
            nodes.append(Node(name, share, children=draw(trees(inside, f"{name}/w", depth - 1))))
        else:
            nodes.append(Node(name, share, load=Transactions(draw(PARTS), draw(SERVICE_S))))
        left -= inside
    return tuple(nodes)


def scaled(nodes: tuple[Node, ...], factor: float) -> tuple[Node, ...]:
    def scale(node: Node) -> Node:
        if not isinstance(node.load, Transactions):
            return replace(node, children=scaled(node.children, factor))
        return replace(node, load=replace(node.load, utilization_cores=node.load.utilization_cores * factor))

    return tuple(scale(node) for node in nodes)


@st.composite
def machines(draw: st.DrawFn, most_leaves: int, cores: st.SearchStrategy[int]) -> Machine:
    """A machine that is busy to any degree below saturation."""
    nodes = draw(trees(most_leaves))
    size = draw(cores)
    busy = size * (1 - draw(st.floats(-4, -0.05).map(lambda power: 10**power)))
    return Machine(size, "guarantee", scaled(nodes, busy / sum(node.utilization_cores for node in nodes)))


def conserved(machine: Machine) -> tuple[float, float]:
    """The sum of utilization times response time that is predicted, and the one that any order must give."""
    loads = {leaf.name: leaf.load for leaf in machine.leaves()}
    spent = due = used = 0.0
    for one in predict(machine).workloads:
        load = loads[one.name]
        assert isinstance(load, Transactions)
        assert one.response_time_s is not None
        spent += load.utilization_cores * one.response_time_s
        due += load.utilization_cores * load.service_time_s
        used += load.utilization_cores
    return spent, due * (1 + wait(int(machine.cores), used))


@settings(deadline=None, max_examples=60)
@given(machines(6, st.just(1)))
def test_on_one_core_the_fast_method_agrees_with_every_order_enumerated(machine: Machine) -> None:
    expected = enumerated(machine)
    found = {one.name: one.response_time_s for one in predict(machine).workloads}
    assert found == {name: pytest.approx(time, rel=1e-9) for name, time in expected.items()}


@settings(deadline=None, max_examples=40)
@given(machines(5, st.sampled_from([2, 3, 8, 64])))
def test_on_several_cores_the_fast_method_agrees_with_every_order_enumerated(machine: Machine) -> None:
    expected = enumerated(machine)
    found = {one.name: one.response_time_s for one in predict(machine).workloads}
    assert found == {name: pytest.approx(time, rel=1e-9) for name, time in expected.items()}


def test_eight_workloads_agree_with_all_40320_orders() -> None:
    nodes = tuple(Node(f"w{n}", 3.0**n, load=Transactions(0.02 * (n + 1.5), 2.0 ** (n % 4))) for n in range(8))
    machine = Machine(1, "guarantee", nodes)
    found = {one.name: one.response_time_s for one in predict(machine).workloads}
    assert found == {name: pytest.approx(time, rel=1e-9) for name, time in enumerated(machine).items()}


@settings(deadline=None, max_examples=60)
@given(machines(60, st.sampled_from([1, 1, 1, 2, 5, 32])))
def test_what_one_workload_gains_others_lose(machine: Machine) -> None:
    spent, due = conserved(machine)
    assert spent == pytest.approx(due, rel=1e-9)


@settings(deadline=None, max_examples=30)
@given(machines(6, st.sampled_from([1, 2])), st.floats(1.1, 100), st.data())
def test_a_larger_share_never_makes_a_workload_slower_or_a_sibling_faster(
    machine: Machine, factor: float, data: st.DataObject
) -> None:
    chosen = data.draw(st.integers(0, len(machine.nodes) - 1))
    more = tuple(replace(n, share=n.share * factor) if i == chosen else n for i, n in enumerate(machine.nodes))
    before, after = predict(machine), predict(replace(machine, nodes=more))
    own = {leaf.name for leaf in machine.nodes[chosen].leaves()}
    for one, then in zip(before.workloads, after.workloads, strict=True):
        assert one.response_time_s is not None
        assert then.response_time_s is not None
        if one.name in own:
            assert then.response_time_s <= one.response_time_s * (1 + 1e-9)
        else:
            assert then.response_time_s >= one.response_time_s * (1 - 1e-9)


@settings(deadline=None, max_examples=30)
@given(machines(8, st.just(1)), st.floats(0.1, 10))
def test_only_ratios_of_shares_count(machine: Machine, factor: float) -> None:
    other = replace(machine, nodes=tuple(replace(node, share=node.share * factor) for node in machine.nodes))
    for one, same in zip(predict(machine).workloads, predict(other).workloads, strict=True):
        assert one.response_time_s == pytest.approx(same.response_time_s, rel=1e-9)


def test_a_workload_that_uses_next_to_nothing_is_the_limit_of_small_ones() -> None:
    def first(used: float) -> float | None:
        nodes = (Node("a", 1, load=Transactions(used, 1.0)), Node("b", 2, load=Transactions(0.6, 3.0)))
        return predict(Machine(1, "guarantee", nodes)).workloads[0].response_time_s

    assert first(0.0) == pytest.approx(first(1e-9), rel=1e-6)


def test_equal_shares_of_equal_workloads_are_as_if_there_were_no_shares() -> None:
    nodes = tuple(Node(f"w{n}", 2.0, load=Transactions(0.009, 0.5)) for n in range(100))
    for cores, factor in ((1, 1.0), (4, 4.0)):
        shared = scaled(nodes, factor)
        fair = predict(Machine(cores, "guarantee", shared))
        none = predict(Machine(cores, "none", shared))
        for one, other in zip(fair.workloads, none.workloads, strict=True):
            assert one.response_time_s == pytest.approx(other.response_time_s, rel=1e-9)


def test_half_a_core_is_a_core_of_half_the_speed() -> None:
    nodes = (Node("a", 1, load=Transactions(0.2, 1.0)), Node("b", 3, load=Transactions(0.1, 2.0)))
    slow = predict(Machine(0.5, "guarantee", nodes))
    doubled = tuple(
        replace(n, load=Transactions(*(2 * x for x in (n.utilization_cores, t))))
        for n, t in zip(nodes, (1.0, 2.0), strict=True)
    )
    fast = predict(Machine(1, "guarantee", doubled))
    for one, other in zip(slow.workloads, fast.workloads, strict=True):
        assert one.response_time_s == pytest.approx(other.response_time_s)


def test_guarantees_inside_a_cap_are_a_machine_of_their_own() -> None:
    inside = (Node("g/a", 1, load=Transactions(0.2, 1.0)), Node("g/b", 3, load=Transactions(0.1, 2.0)))
    group = Node("g", 1, semantics="guarantee", children=inside)
    prediction = predict(Machine(1, "cap", (group, Node("c", 1, load=Batch(1.0)))))
    alone = predict(Machine(0.5, "guarantee", inside))
    times = [one.response_time_s for one in prediction.workloads]
    assert times == pytest.approx([*(one.response_time_s for one in alone.workloads), 2.0])


def test_floors_are_parts_and_shares_divide_the_rest() -> None:
    loads = [Transactions(0.2, 1.0)] * 3
    floors = (Node("a", 1, 0.5, loads[0]), Node("b", 1, load=loads[1]), Node("c", 3, load=loads[2]))
    shares = tuple(Node(name, share, load=load) for name, share, load in zip("abc", (4, 1, 3), loads, strict=True))
    for one, same in zip(
        predict(Machine(1, "guarantee", floors)).workloads,
        predict(Machine(1, "guarantee", shares)).workloads,
        strict=True,
    ):
        assert one.response_time_s == pytest.approx(same.response_time_s)


def test_a_cap_above_one_core_between_whole_numbers_lies_between_them() -> None:
    def time(cap: float) -> float:
        nodes = (Node("a", 1, cap, Transactions(1.5, 1.0)),)
        found = predict(Machine(8, "cap", nodes)).workloads[0].response_time_s
        assert found is not None
        return found

    assert time(2) == pytest.approx(1 / (1 - 0.75**2))  # M/M/2
    caps = [1.6, 2.0, 2.001, 2.5, 2.999, 3.0, 8.0]
    assert [time(cap) for cap in caps] == sorted((time(cap) for cap in caps), reverse=True)
    assert time(2.999) == pytest.approx(time(3), rel=1e-2)
    assert time(2.001) == pytest.approx(time(2), rel=1e-2)


def test_one_batch_process_uses_one_core_and_leaves_the_rest_to_the_others() -> None:
    nodes = tuple(Node(name, share, load=Batch(1.0)) for name, share in zip("abcde", (90, 5, 5, 1, 1), strict=True))
    times = [one.response_time_s for one in predict(Machine(4, "guarantee", nodes)).workloads]
    assert times == pytest.approx([1, 1, 1, 2, 2])


def test_one_batch_process_does_not_fill_a_cap_of_two_cores() -> None:
    nodes = (Node("a", 1, 2.0, load=Batch(3.0)), Node("b", 1, 0.5, load=Batch(3.0)))
    times = [one.response_time_s for one in predict(Machine(4, "cap", nodes)).workloads]
    assert times == pytest.approx([3, 6])


@pytest.mark.parametrize("semantics", ["guarantee", "cap", "none"])
def test_more_work_than_cores_is_refused_with_both_figures(semantics: str) -> None:
    nodes = (Node("a", 1, load=Transactions(1.4, 1.0)), Node("b", 1, load=Transactions(0.8, 1.0)))
    with pytest.raises(SaturatedError, match=r"need 2\.2 cores.*has 2.*a 1\.4"):
        predict(Machine(2, semantics, nodes))  # type: ignore[arg-type]  # a parameter of the test


@pytest.mark.parametrize(
    ("machine", "said"),
    [
        (
            Machine(1, "guarantee", (Node("a", 1, load=Batch(1.0)), Node("b", 1, load=Transactions(0.1, 1.0)))),
            "a: batch: it never leaves the CPU",
        ),
        (
            Machine(
                1,
                "guarantee",
                (Node("g", 1, semantics="cap", children=(Node("g/a", 1, load=Transactions(0.1, 1.0)),)),),
            ),
            "g: semantics: cap inside guarantee",
        ),
        (
            Machine(
                5,
                "cap",
                (
                    Node("g", 1, semantics="guarantee", children=(Node("g/a", 1, load=Transactions(0.1, 1.0)),)),
                    Node("b", 1, load=Transactions(0.1, 1.0)),
                ),
            ),
            "cap of 2.5 cores",
        ),
        (Machine(0, "guarantee", ()), "out of range"),
        (Machine(math.inf, "guarantee", ()), "out of range"),
    ],
)
def test_what_has_no_formula_is_refused_with_the_reason(machine: Machine, said: str) -> None:
    with pytest.raises(BeyondModelError, match=said):
        predict(machine)


@pytest.mark.parametrize("rest", [0.5, 0.6])
def test_floors_that_leave_nothing_or_less_are_refused(rest: float) -> None:
    load = Transactions(0.1, 1.0)
    nodes = (Node("a", 1, 0.5, load), Node("b", 1, rest, load), Node("c", 1, load=load))
    with pytest.raises(SaturatedError, match="a and its 2 siblings"):
        predict(Machine(1, "guarantee", nodes))
