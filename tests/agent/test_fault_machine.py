"""The safety promise on the simulated host, whatever comes in whatever order: a state machine that looks for a way out.

Any system call may fail at any time; groups end, users freeze and thaw, processes come and go, the loop ends and
starts, a guard undoes what the journal names. The journal is a real one, the engine and its core are the product's.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, precondition, rule

from utilctl_agent.alps.model import CoreSettings, PrincipalSpec
from utilctl_agent.alps.pauses import PauseSettings
from utilctl_agent.alps.turns import TurnScheduler
from utilctl_agent.engine import Engine
from utilctl_agent.host.composite import CompositeGroup
from utilctl_agent.host.port import Group, MechanismError
from utilctl_agent.safety.journal import Journal, PausedCgroup
from utilctl_agent.testing import Bursts, SimulatedGroup, SimulatedHost, Spin
from utilctl_common.errors import FailedError
from utilctl_common.quantities import NS_PER_MS

CALLS = ("read", "look", "stop", "continue", "check")
SHARES = st.sampled_from([0.01, 1.0, 3.0, 50.0])


class AnyFault(RuleBasedStateMachine):
    """One host with an engine. Groups are named by the order in which they came."""

    names = Bundle("names")

    @initialize(cores=st.integers(1, 3))
    def start(self, cores: int) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.journal = Journal.create(str(Path(self.folder.name) / "journal"), slots=4096)
        self.host = SimulatedHost(cores)
        self.host.before_call = self.before_call
        self.engine = self.new_engine()
        self.frozen_by_users: set[str] = set()
        self.countdown = -1  # calls until one fails; -1: none will
        self.failing: frozenset[str] = frozenset()  # these calls fail until further notice
        self.made = 0

    def new_engine(self) -> Engine:
        core = CoreSettings(cores=self.host.cores)
        return Engine(TurnScheduler(core), PauseSettings(max_pause_ns=400 * NS_PER_MS))

    def before_call(self, call: str) -> None:
        self.countdown = max(-1, self.countdown - 1) if self.countdown else -2
        if self.countdown == -2 or call in self.failing:
            self.countdown = -1
            raise MechanismError(f"{call}: it fails because the test wants it to")

    def simulated(self, name: str) -> SimulatedGroup:
        return next(group for group in self.host.groups if group.name == name)

    # -- what may happen ----------------------------------------------------------------------------------------

    @rule(target=names, share=SHARES, parts=st.integers(1, 2), sleepy=st.booleans())
    def come(self, share: float, parts: int, sleepy: bool) -> str:
        name = f"g{self.made}"
        self.made += 1
        behaviour = Bursts(3 * NS_PER_MS, 5 * NS_PER_MS) if sleepy else Spin()
        groups = [self.host.group(f"{name}.{part}", behaviour, ledger=self.journal) for part in range(parts)]
        whole: Group = groups[0] if parts == 1 else CompositeGroup(groups)
        try:
            self.engine.put(PrincipalSpec(name, share), self.host.now_ns(), whole)
        except FailedError:
            self.engine.remove(name, self.host.now_ns())
            whole.close()
        return name

    @rule(name=names, share=SHARES, observe=st.booleans())
    def change(self, name: str, share: float, observe: bool) -> None:
        if name in self.engine.names():
            try:
                self.engine.put(PrincipalSpec(name, share), self.host.now_ns(), observe=observe)
            except FailedError:
                self.engine.remove(name, self.host.now_ns())

    @rule(name=consumes(names))
    def leave(self, name: str) -> None:
        self.engine.remove(name, self.host.now_ns())

    @rule(duration_ms=st.integers(1, 700))
    def work(self, duration_ms: int) -> None:
        end_ns = self.host.now_ns() + duration_ms * NS_PER_MS
        while self.host.now_ns() < end_ns:
            wake_ns = self.engine.step(self.host.now_ns()).next_wake_ns
            self.check_promise()
            self.host.advance_to(min(max(wake_ns, self.host.now_ns() + 1), end_ns))

    @rule(calls=st.integers(0, 30))
    def one_call_will_fail(self, calls: int) -> None:
        self.countdown = calls

    @rule(calls=st.frozensets(st.sampled_from(CALLS[1:]), min_size=1, max_size=2))
    def some_calls_fail(self, calls: frozenset[str]) -> None:
        self.failing = calls

    @precondition(lambda self: self.failing)
    @rule()
    def all_calls_succeed(self) -> None:
        self.failing = frozenset()

    @rule(name=names)
    def a_group_ends(self, name: str) -> None:
        self.simulated(f"{name}.0").end()
        self.frozen_by_users.discard(f"{name}.0")

    @rule(name=names)
    def a_process_comes(self, name: str) -> None:
        self.simulated(f"{name}.0").fork(Spin())

    @rule(name=names)
    def a_process_ends(self, name: str) -> None:
        self.simulated(f"{name}.0").end_one()

    @rule(name=names)
    def a_user_freezes(self, name: str) -> None:
        group = self.simulated(f"{name}.0")
        if group.removed:
            return
        if not group.paused:  # else it cannot be told from our own freeze
            self.frozen_by_users.add(group.name)
        group.freeze()

    @rule(name=names)
    def a_user_thaws(self, name: str) -> None:
        self.simulated(f"{name}.0").thaw()
        self.frozen_by_users.discard(f"{name}.0")

    @rule(name=names, stubborn=st.booleans())
    def a_process_cannot_be_interrupted(self, name: str, stubborn: bool) -> None:
        self.simulated(f"{name}.0").stubborn = stubborn

    @rule()
    def a_guard_undoes_what_the_journal_names(self) -> None:
        for slot, pause in self.journal.in_force():
            assert isinstance(pause, PausedCgroup)
            self.simulated(pause.path).thaw()
            self.journal.end(slot)
        self.host.assert_clean()

    @rule()
    def the_loop_ends_and_starts_again(self) -> None:
        self.engine.close()
        if not self.failing and not self.journal.any_in_force():
            self.host.assert_clean()
        self.a_guard_undoes_what_the_journal_names()
        self.engine = self.new_engine()

    @rule()
    def the_loop_is_killed_and_starts_again(self) -> None:
        self.a_guard_undoes_what_the_journal_names()
        self.engine = self.new_engine()

    # -- what must hold -----------------------------------------------------------------------------------------

    @invariant()
    def check_promise(self) -> None:
        if not hasattr(self, "journal"):
            return
        named = {pause.path for _, pause in self.journal.in_force() if isinstance(pause, PausedCgroup)}
        for group in self.host.groups:
            assert not group.stopped or group.name in named, f"{group.name} is paused and not in the journal"
        for name in self.frozen_by_users:
            assert self.simulated(name).stopped_by_user, f"{name} was frozen by a user and resumed by us"

    def teardown(self) -> None:
        if not hasattr(self, "journal"):
            return
        self.failing, self.countdown = frozenset(), -1
        self.engine.close()
        self.a_guard_undoes_what_the_journal_names()
        self.check_promise()
        self.journal.close()
        self.folder.cleanup()


AnyFault.TestCase.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


TestAnyFault = AnyFault.TestCase


@pytest.mark.parametrize("call", CALLS)
def test_without_a_guard_closing_resumes_all_once_calls_succeed(call: str) -> None:
    """A call that failed for a while leaves nothing behind."""
    host = SimulatedHost(2)
    engine = Engine(TurnScheduler(CoreSettings(cores=2)))
    groups = [host.group(name, Spin()) for name in "abc"]
    for group in groups:
        engine.put(PrincipalSpec(group.name, 1.0), 0, group)
    fails = False

    def before_call(name: str) -> None:
        if fails and name == call:
            raise MechanismError(f"{name} fails")

    host.before_call = before_call
    for turn in range(60):
        fails = turn % 3 == 1
        step = engine.step(host.now_ns())
        host.advance_to(max(step.next_wake_ns, host.now_ns() + 1))
    fails = False
    engine.close()
    host.assert_clean()
