"""What holds for every history of a fleet."""

from __future__ import annotations

import math

from hypothesis import given, settings
from hypothesis import strategies as st

from support.fleet_values import SETTINGS, Fleet, policies
from utilctl_common.policy import SeePolicy

SEES = ("svc=a", "svc=b", "svc=c", "svc=c/x=1", "svc=c/x=2")
HOSTS = ("h1", "h2", "h3")

shares = st.fixed_dictionaries({see: st.sampled_from((0.5, 1.0, 2.0, 7.0)) for see in SEES})
caps = st.dictionaries(st.sampled_from(SEES), st.sampled_from((0.3, 1.0, 5.0)))
events = st.one_of(
    st.tuples(st.just("hello"), st.sampled_from(HOSTS), st.sampled_from(("first", "second"))),
    st.tuples(
        st.just("report"),
        st.sampled_from(HOSTS),
        st.dictionaries(st.sampled_from(SEES), st.floats(0, 2).map(lambda cores: round(cores, 2))),
    ),
    st.tuples(st.just("leave"), st.sampled_from(HOSTS), st.none()),
    st.tuples(st.just("policy"), st.sampled_from(SEES), st.sampled_from((1.0, 4.0))),
    st.tuples(st.just("wait"), st.none(), st.sampled_from((0.1, 1.0, 4.0, 20.0))),
)
histories = st.lists(events, max_size=40)


def play(fleet: Fleet, history: list[tuple[str, str, object]]) -> None:
    """Let every event happen, with a decision after each."""
    for kind, what, detail in history:
        known = fleet.rebalancer.hosts.get(what)
        if kind == "hello" and isinstance(detail, str):
            fleet.hello(what, 2.0, instance=detail)
        elif kind == "report" and known and known.connected and isinstance(detail, dict):
            fleet.report(what, detail, cores=2.0)
        elif kind == "leave" and known and known.connected:
            fleet.rebalancer.on_disconnect(what, fleet.now_ns)
        elif kind == "policy" and isinstance(detail, float):
            fleet.rebalancer.on_policies({**fleet.rebalancer.policies, what: SeePolicy(what, detail)})
        fleet.tick(detail if kind == "wait" and isinstance(detail, float) else 0.0)


def fresh(chosen: dict[str, float], capped: dict[str, float]) -> Fleet:
    """A fleet with these shares and caps."""
    return Fleet(policies(*(SeePolicy(see, share, cap_cores=capped.get(see)) for see, share in chosen.items())))


@settings(max_examples=60, deadline=None)
@given(shares, caps, histories)
def test_generations_increase_strictly_and_renewals_repeat_what_was_sent(
    chosen: dict[str, float], capped: dict[str, float], history: list[tuple[str, str, object]]
) -> None:
    fleet = fresh(chosen, capped)
    play(fleet, history)
    newest = 0
    sent: dict[tuple[str, int], object] = {}
    for push in fleet.sent:
        assert push.epoch == 7
        if push.renewal:
            assert sent[push.host, push.generation] == push.targets
        else:
            assert (push.host, push.generation) not in sent
            assert push.generation >= newest
            newest = push.generation
            sent[push.host, push.generation] = push.targets


@settings(max_examples=60, deadline=None)
@given(shares, caps, histories)
def test_every_set_is_complete_sorted_and_positive_and_grants_no_more_than_there_is(
    chosen: dict[str, float], capped: dict[str, float], history: list[tuple[str, str, object]]
) -> None:
    fleet = fresh(chosen, capped)
    play(fleet, history)
    for push in fleet.sent:
        names = [target.policy.name for target in push.targets]
        assert names == sorted(SEES)
        for target in push.targets:
            assert math.isfinite(target.weight)
            assert target.weight > 0
            assert target.cap_cores is None or target.cap_cores > 0
        assert sum(target.entitlement_cores for target in push.targets) <= 2.0 + 1e-4


@settings(max_examples=60, deadline=None)
@given(shares, caps, histories)
def test_a_second_decision_at_the_same_moment_sends_nothing(
    chosen: dict[str, float], capped: dict[str, float], history: list[tuple[str, str, object]]
) -> None:
    fleet = fresh(chosen, capped)
    play(fleet, history)
    fleet.tick()
    assert fleet.tick() == []


@settings(max_examples=40, deadline=None)
@given(shares, histories)
def test_a_connected_host_that_reports_never_holds_a_lease_shorter_than_half(
    chosen: dict[str, float], history: list[tuple[str, str, object]]
) -> None:
    fleet = fresh(chosen, {})
    play(fleet, history)
    fleet.hello("h1", 2.0)
    for _ in range(30):
        fleet.report("h1", {"svc=a": 1.0}, cores=2.0)
        fleet.tick(1)
        left_ns = fleet.rebalancer.hosts["h1"].pushed_at_ns + SETTINGS.lease_ns - fleet.now_ns
        assert left_ns > SETTINGS.lease_ns // 2


@settings(max_examples=40, deadline=None)
@given(shares, histories)
def test_the_same_history_makes_the_same_messages(
    chosen: dict[str, float], history: list[tuple[str, str, object]]
) -> None:
    one, two = fresh(chosen, {}), fresh(chosen, {})
    play(one, history)
    play(two, history)
    assert one.sent == two.sent
