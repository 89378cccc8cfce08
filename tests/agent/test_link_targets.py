"""Which targets hold: the newest by epoch and generation, while its lease lasts; then static shares."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from utilctl_agent.link.targets import LocalTarget, TargetKeeper, TargetSet
from utilctl_common.policy import SeePolicy
from utilctl_common.quantities import NS_PER_S

LEASE_NS = 10 * NS_PER_S


def target(name: str, weight: float, *, share: float = 1.0, cap_cores: float | None = None) -> LocalTarget:
    return LocalTarget(SeePolicy(name, share), weight, weight / 2, cap_cores)


def targets(epoch: int, generation: int, *local: LocalTarget, lease_ns: int = LEASE_NS) -> TargetSet:
    return TargetSet(epoch, generation, lease_ns, "", local or (target("svc=web", 3.0),))


class TestOrder:
    def test_the_first_set_is_taken(self) -> None:
        keeper = TargetKeeper()
        assert keeper.offer(targets(1, 1), 0)
        assert keeper.weights(0)["svc=web"].weight == 3.0

    def test_a_newer_generation_replaces_an_older_one(self) -> None:
        keeper = TargetKeeper()
        keeper.offer(targets(1, 1), 0)
        assert keeper.offer(targets(1, 2, target("svc=web", 5.0)), 1)
        assert keeper.weights(1)["svc=web"].weight == 5.0

    def test_an_older_generation_is_refused_and_counted(self) -> None:
        keeper = TargetKeeper()
        keeper.offer(targets(1, 2), 0)
        assert not keeper.offer(targets(1, 1, target("svc=web", 5.0)), 1)
        assert keeper.weights(1)["svc=web"].weight == 3.0
        assert keeper.stale == 1

    def test_a_new_leader_outranks_any_generation_of_the_old_one(self) -> None:
        keeper = TargetKeeper()
        keeper.offer(targets(1, 900), 0)
        assert keeper.offer(targets(2, 1, target("svc=web", 5.0)), 1)
        assert not keeper.offer(targets(1, 901), 2)
        assert keeper.weights(2)["svc=web"].weight == 5.0

    def test_a_refused_set_does_not_renew_the_lease(self) -> None:
        keeper = TargetKeeper()
        keeper.offer(targets(2, 1), 0)
        keeper.offer(targets(1, 1), LEASE_NS - 1)
        assert keeper.expired(LEASE_NS)

    def test_a_repeated_set_is_recognised_by_its_number_alone_and_renews_the_lease(self) -> None:
        keeper = TargetKeeper()
        keeper.offer(targets(1, 2), 0)
        assert keeper.renew(1, 2, LEASE_NS, 5)
        assert not keeper.expired(LEASE_NS)
        assert keeper.lease_left_ns(LEASE_NS) == 5
        assert keeper.weights(LEASE_NS)["svc=web"].weight == 3.0

    def test_any_other_set_is_no_renewal_nor_is_one_after_the_lease_has_ended(self) -> None:
        keeper = TargetKeeper()
        assert not keeper.renew(1, 2, LEASE_NS, 0)
        assert keeper.lease_left_ns(0) is None
        keeper.offer(targets(1, 2), 0)
        assert not keeper.renew(1, 3, LEASE_NS, 5)
        assert not keeper.renew(2, 2, LEASE_NS, 5)
        assert not keeper.renew(1, 2, LEASE_NS, LEASE_NS)
        assert keeper.expired(LEASE_NS)
        assert keeper.lease_left_ns(LEASE_NS) is None

    def test_an_order_to_control_nothing_is_an_order(self) -> None:
        keeper = TargetKeeper()
        keeper.offer(targets(1, 1), 0)
        assert keeper.offer(TargetSet(1, 2, LEASE_NS, "", ()), 1)
        assert keeper.weights(1) == {}
        assert keeper.policies() == ()

    @given(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 3)), min_size=1, max_size=12))
    def test_whatever_the_order_of_arrival_the_newest_holds(self, arrivals: list[tuple[int, int]]) -> None:
        keeper = TargetKeeper()
        for now_ns, (epoch, generation) in enumerate(arrivals):
            keeper.offer(targets(epoch, generation, target("svc=web", epoch * 10.0 + generation)), now_ns)
        epoch, generation = max(arrivals)
        assert keeper.weights(len(arrivals))["svc=web"].weight == epoch * 10.0 + generation


class TestLease:
    def test_a_repeated_set_renews_the_lease_and_changes_nothing(self) -> None:
        keeper = TargetKeeper()
        keeper.offer(targets(1, 1), 0)
        assert not keeper.offer(targets(1, 1), LEASE_NS - 1)
        assert not keeper.expired(2 * LEASE_NS - 2)
        assert keeper.expired(2 * LEASE_NS - 1)

    def test_until_the_lease_ends_the_last_good_targets_hold(self) -> None:
        keeper = TargetKeeper()
        keeper.offer(targets(1, 1, target("svc=web", 7.0, share=2.0)), 0)
        assert keeper.weights(LEASE_NS - 1)["svc=web"].weight == 7.0

    def test_after_it_static_shares_hold_and_caps_stay(self) -> None:
        keeper = TargetKeeper()
        keeper.offer(targets(1, 1, target("svc=web", 7.0, share=2.0, cap_cores=1.5), target("svc=etl", 0.1)), 0)
        after = keeper.weights(LEASE_NS)
        assert {name: (local.weight, local.cap_cores) for name, local in after.items()} == {
            "svc=web": (2.0, 1.5),
            "svc=etl": (1.0, None),
        }
        assert {policy.name for policy in keeper.policies()} == {"svc=web", "svc=etl"}

    def test_the_same_set_after_the_lease_takes_effect_again(self) -> None:
        keeper = TargetKeeper()
        keeper.offer(targets(1, 1), 0)
        assert keeper.offer(targets(1, 1), 5 * LEASE_NS)
        assert not keeper.expired(5 * LEASE_NS)
        assert keeper.weights(5 * LEASE_NS)["svc=web"].weight == 3.0

    def test_a_set_may_shorten_the_lease(self) -> None:
        keeper = TargetKeeper()
        keeper.offer(targets(1, 1), 0)
        keeper.offer(targets(1, 2, lease_ns=NS_PER_S), 0)
        assert keeper.expired(NS_PER_S)

    def test_before_the_first_set_nothing_holds_and_nothing_expires(self) -> None:
        keeper = TargetKeeper()
        assert keeper.weights(10 * LEASE_NS) == {}
        assert not keeper.expired(10 * LEASE_NS)
        assert keeper.policies() == ()


class TestDisabled:
    def test_disabled_outlasts_the_lease_and_ends_with_a_newer_set_that_does_not_say_so(self) -> None:
        keeper = TargetKeeper()
        told = [keeper.disabled]
        for offered, now_ns in (
            (targets(1, 1), 0),
            (replace(targets(1, 2), disabled=True), 1),
            (targets(1, 1), 2 * LEASE_NS),  # an older one, after the lease: changes nothing
            (targets(1, 3), 2 * LEASE_NS),
        ):
            keeper.offer(offered, now_ns)
            told.append(keeper.disabled)
        assert told == [False, False, True, True, False]
