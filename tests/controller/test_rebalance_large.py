"""Decisions about many hosts: made in parts, and mostly of targets that are the same for all."""

from __future__ import annotations

import random

import pytest

from support.fleet_values import Fleet, policies, reading
from utilctl_common.policy import SeePolicy
from utilctl_controller.fleet import Push
from utilctl_controller.rebalance import HOSTS_A_PART
from utilctl_controller.shares import ShareTree
from utilctl_controller.targets import Standby, host_targets

HOSTS = [f"h{number:03d}" for number in range(3 * HOSTS_A_PART)]
SHARES = policies(*(SeePolicy(f"svc=s{number}", 1.0 + number % 3) for number in range(12)))


def settled() -> Fleet:
    fleet = Fleet(SHARES)
    for host in HOSTS:
        fleet.hello(host, 4.0)
    fleet.run({host: {"svc=s0": 4.0, "svc=s1": 4.0} for host in HOSTS}, 6)
    return fleet


@pytest.mark.parametrize("seed", range(40))
def test_kept_standby_targets_differ_from_those_worked_out_by_less_than_is_sent(seed: int) -> None:
    rng = random.Random(seed)
    tree, cores = ShareTree(SHARES), rng.uniform(0.1, 64)
    names = sorted(SHARES)
    demand = {see: rng.uniform(0.1, cores) for see in rng.sample(names, rng.randint(0, 6))}
    granted = {see: rng.uniform(0, wanted) for see, wanted in demand.items() if rng.random() < 0.8}
    caps = {see: rng.uniform(0, cores) for see in rng.sample(names, rng.randint(0, 3))}
    exact = host_targets(SHARES, tree, cores, granted, demand, caps)
    kept = host_targets(SHARES, tree, cores, granted, demand, caps, Standby(SHARES, tree))
    for one, other in zip(exact, kept, strict=True):
        assert (one.policy, one.entitlement_cores, one.cap_cores) == (
            other.policy,
            other.entitlement_cores,
            other.cap_cores,
        )
        assert other.weight == pytest.approx(one.weight, rel=0.06)
        if one.policy.name in demand:
            assert other.weight == one.weight


def test_a_target_that_is_the_same_on_two_hosts_is_the_same_object() -> None:
    standby = Standby(SHARES, tree := ShareTree(SHARES))
    one = host_targets(SHARES, tree, 4.0, {"svc=s0": 1.0}, {"svc=s0": 1.0}, {}, standby)
    other = host_targets(SHARES, tree, 4.0, {"svc=s0": 2.0}, {"svc=s0": 2.0}, {}, standby)
    assert [a is b for a, b in zip(one, other, strict=True)] == [False] + [True] * 11


def test_parts_add_up_to_the_whole() -> None:
    whole, in_parts = settled(), settled()
    for fleet in (whole, in_parts):
        fleet.rebalancer.on_policies({**SHARES, "svc=s0": SeePolicy("svc=s0", 7.0)})
    pushes = whole.rebalancer.conclude(None, None, whole.now_ns)
    parts = list(in_parts.rebalancer.conclude_in_parts(None, None, in_parts.now_ns))
    assert len(parts) == 3
    assert [push for part in parts for push in part] == pushes
    assert len(pushes) == len(HOSTS)


def test_what_is_decided_between_two_parts_is_never_overtaken_by_what_comes_after() -> None:
    fleet = settled()
    rebalancer = fleet.rebalancer
    rebalancer.on_policies({**SHARES, "svc=s0": SeePolicy("svc=s0", 7.0)})
    sent: list[Push] = []
    for number, part in enumerate(rebalancer.conclude_in_parts(None, None, fleet.now_ns)):
        sent += part
        if number == 0:
            rebalancer.on_switch(disabled=True)
            sent += rebalancer.conclude(None, None, fleet.now_ns)
    newest: dict[str, Push] = {}
    for push in sent:
        before = newest.get(push.host)
        assert before is None or push.generation >= before.generation
        newest[push.host] = push
    assert all(push.disabled for push in newest.values())


def test_a_policy_that_changes_between_two_parts_reaches_all_hosts() -> None:
    fleet = settled()
    rebalancer = fleet.rebalancer
    rebalancer.on_policies({**SHARES, "svc=s0": SeePolicy("svc=s0", 7.0)})
    parts = rebalancer.conclude_in_parts(None, None, fleet.now_ns)
    newest = {push.host: push for push in next(parts)}
    rebalancer.on_policies({**SHARES, "svc=s0": SeePolicy("svc=s0", 9.0)})
    newest |= {push.host: push for part in parts for push in part}
    newest |= {push.host: push for push in rebalancer.conclude(None, None, fleet.now_ns)}
    shares = {next(t.policy.share for t in push.targets if t.policy.name == "svc=s0") for push in newest.values()}
    assert shares == {9.0}


def test_a_host_that_goes_between_two_parts_is_told_nothing() -> None:
    fleet = settled()
    rebalancer = fleet.rebalancer
    rebalancer.on_policies({**SHARES, "svc=s0": SeePolicy("svc=s0", 7.0)})
    parts = rebalancer.conclude_in_parts(None, None, fleet.now_ns)
    told = {push.host for push in next(parts)}
    rebalancer.on_disconnect(HOSTS[-1], fleet.now_ns)
    rebalancer.on_report(HOSTS[-2], reading(99, {"svc=s0": 1.0}, cores=4.0), None, fleet.now_ns)
    told |= {push.host for part in parts for push in part}
    assert told == set(HOSTS[:-1])
