"""The rebalancer by scenario: who is told what, when, and when nobody is told anything."""

from __future__ import annotations

from dataclasses import replace

import pytest

from support.fleet_values import Fleet, policies
from utilctl_common.policy import Hold, SeePolicy
from utilctl_common.quantities import NS_PER_S
from utilctl_controller.allocation.solver import allocate
from utilctl_controller.fleet import Push
from utilctl_controller.learning import Learning
from utilctl_controller.settings import ControllerSettings

THREE = policies(SeePolicy("svc=web", 3), SeePolicy("svc=etl", 1), SeePolicy("svc=batch", 2))
BUSY = {"a": {"svc=web": 1.0, "svc=batch": 1.0}, "b": {"svc=etl": 1.0, "svc=batch": 1.0}}
"""The worked example of the design: one core a host, all busy."""

STATIC = {"svc=web": 3 / 6, "svc=etl": 1 / 6, "svc=batch": 2 / 6}
"""What shares alone give on a host of one core; sent with six decimals."""


def settled() -> Fleet:
    """The worked example after its demand is known everywhere."""
    fleet = Fleet(THREE)
    fleet.hello("a")
    fleet.hello("b")
    fleet.tick()
    fleet.run(BUSY, 3)
    return fleet


def test_the_worked_example_converges_to_its_entitlements() -> None:
    fleet = settled()
    assert fleet.entitlements("a")["svc=web"] == pytest.approx(1.0, abs=1e-5)
    assert fleet.entitlements("a")["svc=batch"] == pytest.approx(0.0, abs=1e-5)
    assert fleet.entitlements("b")["svc=batch"] == pytest.approx(2 / 3, abs=1e-5)
    assert fleet.entitlements("b")["svc=etl"] == pytest.approx(1 / 3, abs=1e-5)


def test_weights_are_entitlements_and_demand_without_entitlement_weighs_next_to_nothing() -> None:
    fleet = settled()
    assert fleet.weights("a")["svc=web"] == pytest.approx(1.0, abs=1e-5)
    assert fleet.weights("a")["svc=batch"] == pytest.approx(0.001)
    assert fleet.weights("b")["svc=batch"] == pytest.approx(2 / 3, abs=1e-5)


def test_an_idle_service_keeps_its_static_part_as_standby() -> None:
    fleet = settled()
    assert fleet.weights("a")["svc=etl"] == pytest.approx(1 / 6, abs=1e-5), "shares 3, 2 and its own 1 on host a"
    assert fleet.weights("b")["svc=web"] == pytest.approx(3 / 6), "shares 1, 2 and its own 3 on host b"


def test_a_new_host_gets_static_shares_until_its_first_report() -> None:
    fleet = settled()
    fleet.hello("c", 4.0)
    pushes = fleet.tick(0.01)
    assert [push.host for push in pushes] == ["c"]
    assert fleet.weights("c") == pytest.approx({see: 4 * part for see, part in STATIC.items()}, abs=1e-5)
    fleet.report("c", {"svc=etl": 4.0}, cores=4.0)
    fleet.tick(0.01)
    assert fleet.entitlements("c")["svc=etl"] == pytest.approx(4.0)


def test_demand_moves_nothing_while_the_controller_learns() -> None:
    fleet = Fleet(THREE)
    fleet.hello("a")
    fleet.report("a", BUSY["a"])
    fleet.tick(0.5)
    assert fleet.weights("a") == pytest.approx(STATIC, abs=1e-5)
    assert fleet.rebalancer.learning(fleet.now_ns)


def test_an_agent_with_targets_of_an_earlier_controller_keeps_them_until_its_demand_is_known() -> None:
    fleet = Fleet(THREE)
    fleet.hello("a", epoch=3)
    fleet.report("a", {"svc=web": 1.0})
    assert fleet.tick(1) == []
    fleet.report("a", {"svc=web": 1.0})
    fleet.tick(2)
    assert fleet.entitlements("a")["svc=web"] == pytest.approx(1.0)


def test_an_agent_with_earlier_targets_that_never_reports_gets_static_shares_in_the_end() -> None:
    fleet = Fleet(THREE)
    fleet.hello("a", epoch=3)
    assert fleet.tick(2) == []
    assert [push.host for push in fleet.tick(2)] == ["a"]


def test_after_a_change_of_leader_nothing_moves_before_agents_that_are_slow_to_come_back_are_there() -> None:
    """Host a alone would be split as shares say; with b, where batch gets its part, web is owed all of a."""
    fleet = Fleet(THREE, ControllerSettings(report_interval_ns=NS_PER_S // 5))
    fleet.hello("a", epoch=6)
    for _ in range(9):
        fleet.report("a", BUSY["a"])
        assert fleet.tick(0.2) == []
    fleet.hello("b", epoch=6)
    pushes: list[Push] = []
    while not pushes:
        fleet.report("a", BUSY["a"])
        fleet.report("b", BUSY["b"])
        pushes = fleet.tick(0.2)
    assert fleet.entitlements("a")["svc=web"] == pytest.approx(1.0)
    assert fleet.entitlements("b")["svc=batch"] == pytest.approx(2 / 3)


def test_agents_that_keep_coming_back_do_not_keep_a_new_leader_from_deciding() -> None:
    fleet = Fleet(THREE)
    waited_s = 0.0
    for number in range(100):
        fleet.hello(f"late-{number}", epoch=6)
        fleet.hello("a", epoch=6)
        fleet.report("a", BUSY["a"])
        waited_s += 0.2
        if any(push.host == "a" for push in fleet.tick(0.2)):
            break
    lease_s = ControllerSettings().lease_ns / NS_PER_S
    assert waited_s == pytest.approx(lease_s / 3, abs=0.5), "before the lease of their targets ends"


def test_the_first_leader_of_all_learns_for_two_intervals_only() -> None:
    settings = ControllerSettings(report_interval_ns=NS_PER_S // 5)
    learning = {epoch: Learning(settings, epoch, 0) for epoch in (1, 2)}
    assert [learning[1].active(at) for at in (0, 399_999_999, 400_000_000)] == [True, True, False]
    assert [learning[2].active(at) for at in (400_000_000, 1_999_999_999, 2_000_000_000)] == [True, True, False]


def test_nothing_is_sent_when_nothing_changed() -> None:
    fleet = settled()
    assert fleet.run(BUSY, 3) == []


def test_nothing_is_sent_for_moves_inside_the_dead_band() -> None:
    fleet = settled()
    assert fleet.run({"a": BUSY["a"], "b": {"svc=etl": 1.0, "svc=batch": 0.664}}, 3) == []


def test_a_move_beyond_the_dead_band_is_sent_to_the_hosts_it_concerns_alone() -> None:
    fleet = settled()
    pushes = fleet.run({"a": BUSY["a"], "b": {"svc=etl": 0.2, "svc=batch": 1.0}}, 3)
    assert [push.host for push in pushes] == ["b"]
    assert fleet.entitlements("b")["svc=batch"] == pytest.approx(0.8)


def test_demand_rises_at_once_and_falls_after_three_reports() -> None:
    fleet = settled()
    quiet = {"a": BUSY["a"], "b": {"svc=etl": 0.2, "svc=batch": 1.0}}
    assert fleet.run(quiet, 2) == []
    fleet.run(quiet, 1)
    assert fleet.entitlements("b")["svc=batch"] == pytest.approx(0.8)
    fleet.run(BUSY, 1)
    assert fleet.entitlements("b")["svc=batch"] == pytest.approx(2 / 3, abs=1e-5)


def test_a_service_whose_processes_are_gone_has_no_demand_at_once() -> None:
    fleet = settled()
    fleet.run({"a": BUSY["a"], "b": {"svc=batch": 1.0}}, 1)
    assert fleet.entitlements("b")["svc=batch"] == pytest.approx(1.0)


def test_a_change_of_policy_is_sent_to_every_host_at_once() -> None:
    fleet = settled()
    fleet.rebalancer.on_policies({**THREE, "svc=web": SeePolicy("svc=web", 5)})
    pushes = fleet.tick(0.001)
    assert sorted(push.host for push in pushes) == ["a", "b"]
    assert all(not push.renewal for push in pushes)
    assert {target.policy.share for target in pushes[0].targets} == {1, 2, 5}


def test_setting_the_same_policies_again_changes_nothing() -> None:
    fleet = settled()
    assert not fleet.rebalancer.on_policies(dict(THREE))
    assert fleet.tick(0.001) == []


def test_a_deleted_service_disappears_from_the_targets() -> None:
    fleet = settled()
    fleet.rebalancer.on_policies({see: entry for see, entry in THREE.items() if see != "svc=web"})
    fleet.tick(0.001)
    assert set(fleet.weights("a")) == {"svc=etl", "svc=batch"}
    assert fleet.entitlements("a")["svc=batch"] > 0.9, "what web had is batch's now"


def test_leases_are_renewed_before_a_third_is_used_up_under_the_same_generation() -> None:
    fleet = settled()
    before = dict(fleet.held)
    sent = fleet.run(BUSY, 6)
    assert sorted(push.host for push in sent) == ["a", "b"]
    for push in sent:
        assert push.renewal
        assert (push.generation, push.targets) == (before[push.host].generation, before[push.host].targets)


def test_a_host_that_says_that_nothing_has_changed_is_renewed_with_what_it_reported_last() -> None:
    fleet = settled()
    before = {host: fleet.entitlements(host) for host in ("a", "b")}
    for _ in range(17):
        fleet.run({"b": BUSY["b"]}, 1, unchanged=("a",))
    assert {host: fleet.entitlements(host) for host in ("a", "b")} == before
    assert fleet.rebalancer.fresh(fleet.rebalancer.hosts["a"], fleet.now_ns)


def test_a_silent_host_is_not_renewed_and_drops_out_when_its_lease_is_over() -> None:
    fleet = settled()
    only_b = {"b": BUSY["b"]}
    sent = fleet.run(only_b, 13)
    assert {push.host for push in sent} == {"b"}
    assert fleet.entitlements("b")["svc=batch"] == pytest.approx(2 / 3, abs=1e-5), "a still counts in its lease"
    fleet.run(only_b, 4)
    assert fleet.rebalancer.decision is not None
    assert [host.name for host in fleet.rebalancer.decision.problem.hosts] == ["b"]


def test_a_disconnected_host_counts_until_its_lease_is_over() -> None:
    fleet = settled()
    fleet.rebalancer.on_disconnect("a", fleet.now_ns)
    fleet.run({"b": BUSY["b"]}, 5)
    assert fleet.rebalancer.counts(fleet.rebalancer.hosts["a"], fleet.now_ns)
    fleet.run({"b": BUSY["b"]}, 10)
    assert not fleet.rebalancer.counts(fleet.rebalancer.hosts["a"], fleet.now_ns)


def test_a_host_that_comes_back_in_its_lease_gets_its_set_again_and_nobody_else_hears_of_it() -> None:
    fleet = settled()
    before = fleet.held["a"]
    fleet.rebalancer.on_disconnect("a", fleet.now_ns)
    fleet.tick(1)
    fleet.hello("a", instance="second")
    pushes = fleet.tick(0.01)
    assert [(push.host, push.generation) for push in pushes] == [("a", before.generation)]


def test_a_host_that_comes_back_after_its_lease_is_unknown_again() -> None:
    fleet = settled()
    fleet.rebalancer.on_disconnect("a", fleet.now_ns)
    fleet.run({"b": BUSY["b"]}, 16)
    fleet.hello("a", instance="second")
    fleet.tick(0.01)
    assert fleet.weights("a") == pytest.approx(STATIC, abs=1e-5)


def test_a_host_gone_for_long_is_forgotten() -> None:
    fleet = settled()
    fleet.rebalancer.on_disconnect("a", fleet.now_ns)
    fleet.tick(3599)
    assert "a" in fleet.rebalancer.hosts
    fleet.tick(2)
    assert "a" not in fleet.rebalancer.hosts


def test_unclaimed_use_is_not_given_away() -> None:
    fleet = Fleet(THREE)
    fleet.hello("a", 2.0)
    fleet.tick(2)
    fleet.report("a", {"svc=web": 2.0}, cores=2.0, unclaimed=0.5)
    fleet.tick(1)
    assert fleet.entitlements("a")["svc=web"] == pytest.approx(1.5)


def test_a_host_that_others_use_up_keeps_static_shares() -> None:
    fleet = Fleet(THREE)
    fleet.hello("a")
    fleet.tick(2)
    fleet.report("a", {"svc=web": 1.0, "svc=etl": 1.0}, unclaimed=1.0)
    fleet.tick(1)
    assert fleet.weights("a")["svc=web"] == pytest.approx(3 * fleet.weights("a")["svc=etl"], abs=1e-5)


def test_a_cap_is_kept_over_the_fleet_also_between_decisions() -> None:
    fleet = Fleet(policies(SeePolicy("svc=web", 1, cap_cores=1.0), SeePolicy("svc=etl", 1)))
    for host in ("a", "b", "c"):
        fleet.hello(host, 4.0)
    fleet.tick(2)
    for host in ("a", "b"):
        fleet.report(host, {"svc=web": 0.2}, cores=4.0)
    fleet.report("c", {"svc=etl": 4.0}, cores=4.0)
    fleet.tick(1)
    caps = [fleet.caps(host)["svc=web"] for host in ("a", "b", "c")]
    assert all(cap is not None and cap > 0 for cap in caps)
    assert sum(cap for cap in caps if cap) <= 1.0 + 1e-4
    assert caps[0] == pytest.approx(0.2 + 0.6 * 0.9 / 2)
    assert fleet.caps("a")["svc=etl"] is None


def test_the_cap_of_a_parent_holds_its_children_together() -> None:
    tree = policies(
        SeePolicy("svc=web", 1, cap_cores=1.0),
        SeePolicy("svc=web/class=gold", 3),
        SeePolicy("svc=web/class=free", 1),
        SeePolicy("svc=etl", 1),
    )
    fleet = Fleet(tree)
    fleet.hello("a", 4.0)
    fleet.tick(2)
    fleet.report("a", {"svc=web/class=gold": 4.0, "svc=web/class=free": 4.0, "svc=etl": 4.0}, cores=4.0)
    fleet.tick(1)
    assert fleet.entitlements("a")["svc=web/class=gold"] == pytest.approx(0.75)
    assert fleet.entitlements("a")["svc=web/class=free"] == pytest.approx(0.25)
    assert fleet.entitlements("a")["svc=web"] == 0, "the parent has no processes of its own"
    children = [fleet.caps("a")[see] or 0.0 for see in tree if see.startswith("svc=web/")]
    assert sum(children) == pytest.approx(1.0, abs=0.01)


def test_a_parents_own_processes_get_their_part_beside_its_children() -> None:
    fleet = Fleet(policies(SeePolicy("svc=web", 1), SeePolicy("svc=web/class=gold", 3)))
    fleet.hello("a", 4.0)
    fleet.tick(2)
    fleet.report("a", {"svc=web": 4.0, "svc=web/class=gold": 4.0}, cores=4.0)
    fleet.tick(1)
    assert fleet.entitlements("a") == pytest.approx({"svc=web": 1.0, "svc=web/class=gold": 3.0})


def test_targets_that_were_never_sent_are_not_believed_to_be_applied() -> None:
    fleet = settled()
    fleet.rebalancer.on_applied("a", 7, 10_000)
    fleet.rebalancer.on_applied("a", 6, 1)
    assert fleet.rebalancer.hosts["a"].applied_generation == 0
    fleet.rebalancer.on_applied("a", 7, fleet.held["a"].generation)
    assert fleet.rebalancer.hosts["a"].applied_generation == fleet.held["a"].generation


def test_hosts_mode_gives_every_host_its_own_split() -> None:
    fleet = Fleet(THREE, ControllerSettings(mode="host"))
    fleet.hello("a")
    fleet.hello("b")
    fleet.tick()
    fleet.run(BUSY, 3)
    assert fleet.entitlements("a")["svc=web"] == pytest.approx(0.6, abs=1e-5)
    assert fleet.entitlements("b")["svc=etl"] == pytest.approx(1 / 3, abs=1e-5)


# Holds and the fleet's switch.


def held(fleet: Fleet, see: str, until_unix_ns: int = 1) -> Hold:
    """A hold of what the SEE has now."""
    return Hold(until_unix_ns, fleet.rebalancer.targets_of(see, fleet.now_ns))


def test_a_held_service_keeps_its_targets_and_its_cores_are_nobody_elses() -> None:
    fleet = settled()
    before = {host: (fleet.weights(host)["svc=batch"], fleet.entitlements(host)["svc=batch"]) for host in BUSY}
    keep = replace(THREE["svc=batch"], hold=held(fleet, "svc=batch"))
    fleet.rebalancer.on_policies({**THREE, "svc=batch": keep, "svc=new": SeePolicy("svc=new", 50)})
    fleet.run({host: {**demand, "svc=new": 1.0} for host, demand in BUSY.items()}, 8)
    for host in BUSY:
        assert (fleet.weights(host)["svc=batch"], fleet.entitlements(host)["svc=batch"]) == before[host]
        assert sum(fleet.entitlements(host).values()) == pytest.approx(1.0, abs=1e-4)
    assert fleet.entitlements("b")["svc=new"] + fleet.entitlements("b")["svc=etl"] == pytest.approx(1 / 3, abs=1e-4)
    fleet.rebalancer.on_policies({**THREE, "svc=new": SeePolicy("svc=new", 50)})
    fleet.run({host: {**demand, "svc=new": 1.0} for host, demand in BUSY.items()}, 3)
    assert fleet.entitlements("b")["svc=batch"] < 0.1, "released, it is moved again"


def test_a_hold_is_of_a_part_and_keeps_nothing_of_what_strangers_used_for_a_moment() -> None:
    fleet = settled()
    for _ in range(3):
        fleet.report("a", BUSY["a"], unclaimed=0.5)
        fleet.tick(1)
    assert fleet.entitlements("a")["svc=web"] == pytest.approx(0.5, abs=1e-4)
    keep = replace(THREE["svc=web"], hold=held(fleet, "svc=web"))
    fleet.rebalancer.on_policies({**THREE, "svc=web": keep, "svc=batch": SeePolicy("svc=batch", 1000)})
    fleet.run(BUSY, 5)
    assert fleet.entitlements("a")["svc=web"] == pytest.approx(1.0, abs=1e-4)
    assert fleet.weights("a")["svc=batch"] < 0.01


def test_a_hold_keeps_a_part_of_what_was_decided_on_when_strangers_left_before_it_was_sent() -> None:
    fleet = settled()
    fleet.report("a", BUSY["a"], unclaimed=0.5)
    problem = fleet.rebalancer.plan(fleet.now_ns)
    assert problem is not None
    fleet.report("a", BUSY["a"])
    fleet.rebalancer.conclude(problem, allocate(problem), fleet.now_ns)
    hold = held(fleet, "svc=web")
    assert hold.hosts["a"].weight_ratio == pytest.approx(1.0, abs=1e-4), "it had all of what was there to share"
    keep = replace(THREE["svc=web"], hold=hold)
    fleet.rebalancer.on_policies({**THREE, "svc=web": keep, "svc=batch": SeePolicy("svc=batch", 1000)})
    fleet.run(BUSY, 5)
    assert fleet.weights("a")["svc=batch"] < 0.01


def test_a_held_service_that_wants_nothing_keeps_nothing_from_others() -> None:
    fleet = settled()
    keep = replace(THREE["svc=etl"], hold=held(fleet, "svc=etl"))
    fleet.rebalancer.on_policies({**THREE, "svc=etl": keep})
    fleet.run(BUSY, 3)
    assert fleet.weights("a")["svc=etl"] == pytest.approx(1 / 6, abs=1e-5), "its standby weight, as it was"
    assert sum(fleet.entitlements("a").values()) == pytest.approx(1.0, abs=1e-4)


def test_a_host_on_which_a_held_service_starts_later_gives_it_its_static_part() -> None:
    fleet = settled()
    keep = replace(THREE["svc=web"], hold=held(fleet, "svc=web"))
    fleet.rebalancer.on_policies({**THREE, "svc=web": keep})
    fleet.hello("c")
    fleet.run({**BUSY, "c": {"svc=web": 1.0, "svc=etl": 1.0}}, 5)
    assert fleet.weights("c")["svc=web"] == pytest.approx(3 / 4, abs=1e-2)
    assert fleet.entitlements("c")["svc=etl"] == pytest.approx(1.0, abs=1e-4)


def test_a_disabled_fleet_is_told_at_once_and_once_and_renewals_repeat_it() -> None:
    fleet = settled()
    assert fleet.rebalancer.on_switch(disabled=True)
    assert not fleet.rebalancer.on_switch(disabled=True)
    pushes = fleet.rebalancer.conclude(None, None, fleet.now_ns)
    assert {push.host: push.disabled for push in pushes} == {"a": True, "b": True}
    assert all(push.generation > before.generation for push in pushes for before in [fleet.held[push.host]])
    later = fleet.run(BUSY, 20)
    assert later
    assert all(push.disabled and push.renewal for push in later)
    assert fleet.rebalancer.on_switch(disabled=False)
    assert [push.disabled for push in fleet.tick()] == [False, False]


def test_a_host_that_keeps_the_targets_of_an_earlier_controller_is_told_that_the_fleet_is_disabled() -> None:
    fleet = Fleet(THREE)
    fleet.rebalancer.on_switch(disabled=True)
    fleet.hello("a", epoch=6)
    assert [(push.host, push.disabled) for push in fleet.tick()] == [("a", True)]
