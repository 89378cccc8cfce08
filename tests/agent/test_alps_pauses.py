"""No pause outlasts its bound, whatever the shares say; and pauses are accounted for."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from utilctl_agent.alps.model import CoreSettings, Decision, PrincipalSpec
from utilctl_agent.alps.pauses import BREATH_NS, LONGEST_BREATH_NS, PauseGovernor, PauseSettings, Switches
from utilctl_agent.alps.turns import TurnScheduler
from utilctl_agent.engine import Engine
from utilctl_agent.testing import SimulatedHost, Spin
from utilctl_common.quantities import NS_PER_MS, NS_PER_S

MAX = NS_PER_S
MARGIN = 60 * NS_PER_MS


def hold(*names: str) -> Decision:
    return Decision(names, (), 0)


def free(*names: str) -> Decision:
    return Decision((), names, 0)


class Governor(PauseGovernor):
    """Answers in tuples, whatever sequences it is made of, so that answers compare."""

    def apply(self, decision: Decision, now_ns: int) -> Switches:
        return _in_tuples(super().apply(decision, now_ns))

    def tick(self, now_ns: int) -> Switches:
        return _in_tuples(super().tick(now_ns))


def _in_tuples(switches: Switches) -> Switches:
    return Switches(tuple(switches.pause), tuple(switches.resume), switches.next_wake_ns)


class TestDecisions:
    def test_the_ineligible_are_paused_and_the_eligible_resumed(self) -> None:
        governor = Governor()
        assert governor.apply(hold("a", "b"), 0) == Switches(("a", "b"), (), MAX - MARGIN)
        assert governor.paused() == {"a", "b"}
        assert governor.apply(free("a"), 5) == Switches((), ("a",), MAX - MARGIN)
        assert governor.paused() == {"b"}

    def test_what_is_already_so_is_not_done_again(self) -> None:
        governor = Governor()
        governor.apply(hold("a"), 0)
        assert governor.apply(hold("a"), 5).pause == ()
        governor.apply(free("a"), 6)
        assert governor.apply(free("a"), 7).resume == ()

    def test_without_pauses_nothing_is_due(self) -> None:
        governor = Governor()
        assert governor.apply(Decision((), (), 0), 0).next_wake_ns is None
        governor.apply(hold("a"), 0)
        assert governor.apply(free("a"), 5).next_wake_ns is None

    def test_the_defaults_are_pinned(self) -> None:
        assert PauseSettings() == PauseSettings(max_pause_ns=MAX, margin_ns=MARGIN)


class TestBreaths:
    def test_before_the_bound_the_paused_draws_a_breath_and_is_paused_again(self) -> None:
        governor = Governor()
        governor.apply(hold("a"), 0)
        due_ns = MAX - MARGIN
        assert governor.tick(due_ns - 1) == Switches((), (), due_ns)
        assert governor.tick(due_ns) == Switches((), ("a",), due_ns + BREATH_NS)
        assert governor.paused() == frozenset()
        assert governor.tick(due_ns + BREATH_NS - 1) == Switches((), (), due_ns + BREATH_NS)
        assert governor.tick(due_ns + BREATH_NS) == Switches(("a",), (), 2 * due_ns + BREATH_NS)
        assert governor.paused() == {"a"}

    def test_who_becomes_eligible_in_a_breath_is_not_paused_after_it(self) -> None:
        governor = Governor()
        governor.apply(hold("a"), 0)
        governor.tick(MAX - MARGIN)
        assert governor.apply(free("a"), MAX - MARGIN + 1) == Switches((), (), None)
        assert governor.tick(MAX) == Switches((), (), None)

    def test_who_has_not_got_a_cpu_in_its_breath_breathes_on_for_a_while(self) -> None:
        governor = Governor()
        governor.apply(hold("a"), 0)
        governor.tick(MAX - MARGIN)
        now_ns = MAX - MARGIN
        while True:
            now_ns += BREATH_NS
            assert governor.ending(now_ns) == ["a"]
            if not governor.prolong("a", now_ns):
                break
            assert governor.tick(now_ns) == Switches((), (), now_ns + BREATH_NS)
            assert governor.breathes("a")
        assert now_ns == MAX - MARGIN + LONGEST_BREATH_NS
        assert governor.tick(now_ns).pause == ("a",)

    def test_a_longer_breath_does_not_keep_others_from_ending_theirs(self) -> None:
        governor = Governor()
        governor.apply(hold("a"), 0)
        governor.apply(hold("b"), 1)
        governor.tick(MAX - MARGIN + 1)
        now_ns = MAX - MARGIN + 1 + BREATH_NS
        assert governor.prolong("a", now_ns)
        assert governor.tick(now_ns) == Switches(("b",), (), now_ns + BREATH_NS)

    def test_each_pause_has_its_own_bound(self) -> None:
        governor = Governor()
        governor.apply(hold("a"), 0)
        governor.apply(hold("b"), 100)
        assert governor.tick(MAX - MARGIN).resume == ("a",)
        assert governor.tick(MAX - MARGIN + 100).resume == ("b",)

    def test_a_late_tick_makes_up_for_everything_that_is_due(self) -> None:
        governor = Governor()
        governor.apply(hold("a", "b"), 0)
        switches = governor.tick(5 * MAX)
        assert set(switches.resume) == {"a", "b"}
        assert switches.pause == ()

    @settings(max_examples=150, deadline=None)
    @given(
        steps=st.lists(
            st.tuples(
                st.integers(1, 300 * NS_PER_MS),
                st.sampled_from(["a", "b", "c"]),
                st.sampled_from(["hold", "free", "forget", "nothing"]),
            ),
            max_size=60,
        ),
        max_pause_ms=st.sampled_from([100, 250, 1000]),
        late_ns=st.integers(0, 40 * NS_PER_MS),
    )
    def test_no_pause_outlasts_the_bound(
        self, steps: list[tuple[int, str, str]], max_pause_ms: int, late_ns: int
    ) -> None:
        """Whatever is decided, as long as wake-ups come when asked for, late by less than the margin."""
        governor = Governor(PauseSettings(max_pause_ms * NS_PER_MS, MARGIN))
        since_ns: dict[str, int] = {}
        now_ns = 0
        wake_ns: int | None = None

        def follow(switches: Switches) -> None:
            nonlocal wake_ns
            wake_ns = switches.next_wake_ns
            for name in switches.resume:
                assert now_ns - since_ns.pop(name) <= max_pause_ms * NS_PER_MS
            for name in switches.pause:
                assert name not in since_ns
                since_ns[name] = now_ns
            assert governor.paused() == since_ns.keys()
            if since_ns:
                assert wake_ns is not None

        for wait_ns, name, action in steps:
            end_ns = now_ns + wait_ns
            while wake_ns is not None and wake_ns + late_ns < end_ns:
                now_ns = max(now_ns, wake_ns + late_ns)
                follow(governor.tick(now_ns))
            now_ns = max(now_ns, end_ns)
            if action == "forget":
                assert governor.forget(name, now_ns) == (name in since_ns)
                since_ns.pop(name, None)
            elif action != "nothing":
                follow(governor.apply(hold(name) if action == "hold" else free(name), now_ns))


class TestAccounting:
    def test_time_paused_adds_up_breaths_apart(self) -> None:
        governor = Governor()
        governor.apply(hold("a"), 0)
        assert governor.paused_ns("a", 40) == 40
        governor.tick(MAX - MARGIN)
        assert governor.paused_ns("a", MAX) == MAX - MARGIN
        governor.tick(MAX)  # the breath is over
        governor.apply(free("a"), MAX + 7)
        assert governor.paused_ns("a", 2 * MAX) == MAX - MARGIN + 7

    def test_who_was_never_paused_was_paused_for_no_time(self) -> None:
        assert Governor().paused_ns("a", 40) == 0


class TestForgetting:
    def test_who_goes_away_paused_must_be_resumed(self) -> None:
        governor = Governor()
        governor.apply(hold("a"), 0)
        assert governor.forget("a", 5)
        assert governor.paused() == frozenset()
        assert governor.tick(2 * MAX) == Switches((), (), None)

    def test_who_goes_away_running_need_not(self) -> None:
        assert not Governor().forget("a", 5)

    def test_who_goes_away_in_a_breath_is_not_paused_after_it(self) -> None:
        governor = Governor()
        governor.apply(hold("a"), 0)
        governor.tick(MAX - MARGIN)
        assert not governor.forget("a", MAX - MARGIN + 1)
        assert governor.tick(2 * MAX) == Switches((), (), None)


@pytest.mark.parametrize("shares", [(1.0, 1000.0), (1.0, 1e6)])
def test_however_small_its_share_a_principal_is_never_paused_beyond_the_bound(shares: tuple[float, float]) -> None:
    host = SimulatedHost()
    engine = Engine(TurnScheduler(CoreSettings()))
    small, big = host.group("small", Spin()), host.group("big", Spin())
    engine.put(PrincipalSpec("small", shares[0]), 0, small)
    engine.put(PrincipalSpec("big", shares[1]), 0, big)
    stopped_since_ns: int | None = None
    longest_ns = 0
    while host.now_ns() < 20 * NS_PER_S:
        step = engine.step(host.now_ns())
        if not small.stopped:
            stopped_since_ns = None
        elif stopped_since_ns is None:
            stopped_since_ns = host.now_ns()
        host.advance_to(step.next_wake_ns)
        if stopped_since_ns is not None:
            longest_ns = max(longest_ns, host.now_ns() - stopped_since_ns)
    assert 0 < longest_ns <= MAX
    engine.close()
    host.assert_clean()


def test_on_a_full_host_a_breath_lasts_until_its_owner_has_got_a_cpu() -> None:
    """The other one's slice is longer than a breath: let go for a breath alone, it would not have run for seconds."""
    host = SimulatedHost(slice_ns=8 * NS_PER_MS)
    engine = Engine(TurnScheduler(CoreSettings()), PauseSettings(MAX, MARGIN))
    small, big = host.group("small", Spin()), host.group("big", Spin())
    engine.put(PrincipalSpec("small", 0.01), 0, small)
    engine.put(PrincipalSpec("big", 10), 0, big)
    next_ns = used_ns = ran_ns = longest_ns = 0
    while host.now_ns() < 20 * NS_PER_S:
        if host.now_ns() >= next_ns:
            next_ns = engine.step(host.now_ns()).next_wake_ns
        host.advance_to(min(next_ns, host.now_ns() + NS_PER_MS))
        if small.used_ns > used_ns:
            used_ns, ran_ns = small.used_ns, host.now_ns()
        longest_ns = max(longest_ns, host.now_ns() - ran_ns)
    assert longest_ns <= MAX
