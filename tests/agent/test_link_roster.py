"""From targets and members to what the loop is ordered to control."""

from __future__ import annotations

import pytest

from utilctl_agent.link.roster import SeeMembers, make_orders
from utilctl_agent.link.targets import LocalTarget
from utilctl_agent.orders import PrincipalOrder
from utilctl_common.policy import SeePolicy
from utilctl_common.quantities import MAX_SHARE, MIN_SHARE

MEMBERS = SeeMembers(
    processes=((10, 1), (11, 2), (12, 3)), cgroups=("/sys/fs/cgroup/web",), loose=((12, 3),), threads=5
)


def target(mode: str = "auto", *, weight: float = 3.0, cap_cores: float | None = None) -> LocalTarget:
    return LocalTarget(SeePolicy("svc=web", 1.0, mode=mode), weight, 0.5, cap_cores)


def one_order(
    local: LocalTarget,
    *,
    freezer: bool = True,
    observe: bool = False,
    weigh: bool = False,
    members: SeeMembers = MEMBERS,
) -> tuple[PrincipalOrder, dict[str, str]]:
    orders, problems = make_orders(
        {"svc=web": local}, {"svc=web": members}, freezer=freezer, observe=observe, cores=8, weigh=weigh
    )
    (order,) = orders
    return order, problems


def test_with_the_freezer_whole_cgroups_are_controlled_and_the_loose_processes_besides() -> None:
    order, problems = one_order(target(cap_cores=0.5))
    assert order == PrincipalOrder("svc=web", 3.0, 5, 0.5, ("/sys/fs/cgroup/web",), ((12, 3),), False)
    assert problems == {}


def test_without_the_freezer_all_processes_are_controlled_one_by_one() -> None:
    order, problems = one_order(target(), freezer=False)
    assert (order.cgroups, order.processes) == ((), MEMBERS.processes)
    assert problems == {}


def test_mode_signal_leaves_cgroups_alone() -> None:
    order, problems = one_order(target("signal"))
    assert (order.cgroups, order.processes) == ((), MEMBERS.processes)
    assert problems == {}


def test_mode_freezer_where_there_is_none_falls_back_to_signals_and_says_so() -> None:
    order, problems = one_order(target("freezer"), freezer=False)
    assert (order.cgroups, order.processes, order.observe) == ((), MEMBERS.processes, False)
    assert "signals are used" in problems["svc=web"]


WEIGHABLE = SeeMembers(MEMBERS.processes, MEMBERS.cgroups, MEMBERS.loose, 5, weight_cgroup="/sys/fs/cgroup/cpu/web")


@pytest.mark.parametrize(("mode", "host_weighs"), [("weight", False), ("weight", True), ("auto", True)])
def test_mode_weight_weighs_the_one_cgroup_that_is_all_of_it(mode: str, host_weighs: bool) -> None:
    order, problems = one_order(target(mode), members=WEIGHABLE, weigh=host_weighs)
    assert order == PrincipalOrder("svc=web", 3.0, 5, cgroups=("/sys/fs/cgroup/cpu/web",), weight=True)
    assert problems == {}


@pytest.mark.parametrize(("freezer", "instead"), [(True, "frozen instead"), (False, "signals are used instead")])
def test_mode_weight_without_such_a_cgroup_falls_back_to_pauses_and_says_why(freezer: bool, instead: str) -> None:
    members = SeeMembers(MEMBERS.processes, MEMBERS.cgroups, MEMBERS.loose, 5, weight_refusal="it is spread out")
    order, problems = one_order(target("weight"), freezer=freezer, members=members)
    assert not order.weight
    assert not order.observe
    assert order.processes
    assert "it is spread out" in problems["svc=web"]
    assert instead in problems["svc=web"]


@pytest.mark.parametrize("mode", ["freezer", "signal", "observe"])
def test_a_policy_that_says_otherwise_overrules_an_agent_that_weighs(mode: str) -> None:
    order, problems = one_order(target(mode), members=WEIGHABLE, weigh=True)
    assert not order.weight
    assert problems == {}


def test_what_is_only_observed_is_not_weighed() -> None:
    order, problems = one_order(target("weight"), observe=True, members=MEMBERS)
    assert (order.observe, order.weight, problems) == (True, False, {})


@pytest.mark.parametrize(
    ("mode", "host_observes", "observe"),
    [("auto", False, False), ("auto", True, True), ("observe", False, True), ("freezer", True, True)],
)
def test_who_is_only_to_be_observed_is(mode: str, host_observes: bool, observe: bool) -> None:
    order, _ = one_order(target(mode), observe=host_observes)
    assert order.observe == observe


@pytest.mark.parametrize(("weight", "share"), [(0.0, MIN_SHARE), (1e-9, MIN_SHARE), (2.5, 2.5), (1e9, MAX_SHARE)])
def test_weights_are_brought_into_the_range_of_shares(weight: float, share: float) -> None:
    order, _ = one_order(target(weight=weight))
    assert order.share == share


def test_no_threads_known_counts_as_one() -> None:
    order, _ = one_order(target(), members=SeeMembers(((1, 1),), (), ((1, 1),), 0))
    assert order.parallelism == 1


def test_who_has_no_processes_here_gets_no_order() -> None:
    nobody = SeeMembers((), (), (), 0)
    assert make_orders({"svc=web": target()}, {"svc=web": nobody}, freezer=True, observe=False, cores=8) == ((), {})
    assert make_orders({"svc=web": target()}, {}, freezer=True, observe=False, cores=8) == ((), {})


def test_members_without_a_target_are_not_controlled() -> None:
    assert make_orders({}, {"svc=web": MEMBERS}, freezer=True, observe=False, cores=8) == ((), {})


def test_orders_come_by_name_so_that_equal_inputs_give_equal_rosters() -> None:
    names = ["svc=c", "svc=a", "svc=b"]
    locals_ = {name: LocalTarget(SeePolicy(name, 1.0), 1.0, 0.0, None) for name in names}
    orders, _ = make_orders(locals_, dict.fromkeys(names, MEMBERS), freezer=True, observe=False, cores=8)
    assert [order.name for order in orders] == sorted(names)
