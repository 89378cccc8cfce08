"""The core that caps by progress, on a simulated program: what is stretched, what is not, what is made up for."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from utilctl_agent.alps.model import CoreSettings, PrincipalSpec, Reading
from utilctl_agent.alps.progress import LONGEST_STRETCH_NS, MOST_CREDIT_NS, ProgressScheduler
from utilctl_common.quantities import NS_PER_MS, NS_PER_S

STEP_NS = 100_000


class Program:
    """Runs ``threads`` for ``busy_ns`` of CPU time each, waits for ``idle_ns``, and so on. Others may take the CPU."""

    def __init__(
        self, cap: float, *, threads: int = 1, busy_ns: int = NS_PER_S * 1000, idle_ns: int = 0, use_wait: bool = True
    ) -> None:
        self.core = ProgressScheduler(CoreSettings(cores=max(1, threads)), use_wait=use_wait)
        self.threads = threads
        self.busy_ns, self.idle_ns = busy_ns, idle_ns
        self.now_ns = self.cpu_ns = self.wait_ns = 0
        self.left_ns = busy_ns
        self.wakes_ns = 0
        self.paused = False
        self.pauses: list[int] = []
        self.paused_since_ns = 0
        self.bursts: list[tuple[int, int]] = []  # wall time of each burst, and its CPU time
        self.began_ns = 0
        self.others = False
        self.core.put(PrincipalSpec("p", 1.0, threads, cap), 0, self.reading())
        self._wake_ns = 0
        self.decisions = 0

    def reading(self) -> Reading:
        return Reading(self.cpu_ns, self.wait_ns if self.threads == 1 else None, blocked=self.waits)

    @property
    def waits(self) -> bool:
        return self.now_ns < self.wakes_ns

    def run(self, duration_ns: int) -> None:
        end_ns = self.now_ns + duration_ns
        while self.now_ns < end_ns:
            if self.now_ns >= self._wake_ns:
                self._decide()
            self._pass()

    def _decide(self) -> None:
        self.decisions += 1
        due = self.core.due(self.now_ns)
        decision = self.core.decide(self.now_ns, {name: self.reading() for name in due})
        if decision.ineligible:
            assert not self.paused
            self.paused, self.paused_since_ns = True, self.now_ns
        if decision.eligible:
            assert self.paused
            self.paused = False
            self.pauses.append(self.now_ns - self.paused_since_ns)
        assert decision.next_wake_ns > self.now_ns
        self._wake_ns = decision.next_wake_ns

    def _pass(self) -> None:
        if not self.waits and not self.paused:
            if self.others:
                self.wait_ns += STEP_NS
            else:
                self.cpu_ns += self.threads * STEP_NS
                self.left_ns -= STEP_NS
        self.now_ns += STEP_NS
        if self.left_ns <= 0:
            self.bursts.append((self.now_ns - self.began_ns, self.busy_ns))
            self.left_ns = self.busy_ns
            self.wakes_ns = self.now_ns + self.idle_ns
            self.began_ns = self.wakes_ns


def stretch(program: Program) -> float:
    """How much longer than its CPU time a burst took, on average."""
    return sum(wall for wall, _ in program.bursts) / sum(busy for _, busy in program.bursts)


@pytest.mark.parametrize("cap", [0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9])
def test_a_program_that_computes_gets_its_cap_in_pauses_that_are_short(cap: float) -> None:
    program = Program(cap)
    program.run(20 * NS_PER_S)
    assert program.cpu_ns / program.now_ns == pytest.approx(cap, rel=0.02, abs=0.001)
    assert max(program.pauses[1:]) <= 1.3 * LONGEST_STRETCH_NS + 2 * NS_PER_MS
    assert program.decisions < 20 * 40, "it is not looked at all the time"


def test_only_ready_periods_stretch_and_waiting_earns_no_credit() -> None:
    program = Program(0.5, busy_ns=60 * NS_PER_MS, idle_ns=200 * NS_PER_MS)
    program.run(60 * NS_PER_S)
    assert stretch(program) == pytest.approx(2.0, rel=0.02)


def test_by_states_alone_short_waits_are_taken_for_readiness() -> None:
    stretched = {}
    for use_wait in (True, False):
        program = Program(0.5, busy_ns=2 * NS_PER_MS, idle_ns=3 * NS_PER_MS, use_wait=use_wait)
        program.run(60 * NS_PER_S)
        stretched[use_wait] = stretch(program)
    assert stretched[True] == pytest.approx(2.0, rel=0.05)
    assert stretched[False] < 1.9


def test_after_a_long_wait_a_burst_is_as_slow_as_ever() -> None:
    program = Program(0.25, busy_ns=400 * NS_PER_MS, idle_ns=10 * NS_PER_S)
    program.run(60 * NS_PER_S)
    assert len(program.bursts) >= 4
    for wall_ns, busy_ns in program.bursts:
        assert wall_ns / busy_ns == pytest.approx(4.0, rel=0.12)


def test_what_others_take_is_made_up_for() -> None:
    program = Program(0.5)
    program.run(2 * NS_PER_S)
    used_ns = program.cpu_ns
    program.others = True
    program.run(NS_PER_S)
    assert program.cpu_ns == used_ns
    program.others = False
    program.run(3 * NS_PER_S)
    assert program.cpu_ns / program.now_ns == pytest.approx(0.5, rel=0.02), "half of all six seconds"


def test_what_is_made_up_for_is_bounded() -> None:
    program = Program(0.5)
    program.others = True
    program.run(60 * NS_PER_S)
    program.others = False
    program.run(20 * NS_PER_S)
    most_ns = 0.5 * (20 * NS_PER_S + MOST_CREDIT_NS) + 100 * NS_PER_MS
    assert program.cpu_ns <= most_ns


@pytest.mark.parametrize(("cap", "threads"), [(1.5, 2), (0.5, 4), (3.0, 4), (2.0, 2), (8.0, 2)])
def test_caps_above_one_core_hold_programs_with_several_threads(cap: float, threads: int) -> None:
    program = Program(cap, threads=threads)
    program.run(20 * NS_PER_S)
    assert program.cpu_ns / program.now_ns == pytest.approx(min(cap, threads), rel=0.03)
    assert bool(program.pauses) == (cap < threads)


def test_a_changed_cap_holds_at_once_and_owes_nothing_for_the_old_one() -> None:
    program = Program(0.05)
    program.run(10 * NS_PER_S)
    program.core.put(PrincipalSpec("p", 1.0, 1, 0.8), program.now_ns, program.reading())
    before_ns, since_ns = program.cpu_ns, program.now_ns
    program.run(2 * NS_PER_S)
    assert (program.cpu_ns - before_ns) / (program.now_ns - since_ns) == pytest.approx(0.8, abs=0.04)
    program.core.put(PrincipalSpec("p", 1.0, 1, 0.1), program.now_ns, program.reading())
    before_ns, since_ns = program.cpu_ns, program.now_ns
    program.run(4 * NS_PER_S)
    assert (program.cpu_ns - before_ns) / (program.now_ns - since_ns) == pytest.approx(0.1, abs=0.03)


def test_one_without_a_cap_is_let_run_and_one_that_is_gone_is_forgotten() -> None:
    core = ProgressScheduler(CoreSettings())
    core.put(PrincipalSpec("free", 1.0), 0, Reading(0))
    for number in range(1, 50):
        now_ns = number * 10 * NS_PER_MS
        decision = core.decide(now_ns, {"free": Reading(now_ns, 0)})
        assert decision.ineligible == ()
    core.remove("free")
    assert dict(core.due(NS_PER_S)) == {}
    with pytest.raises(KeyError):
        core.remove("free")


@settings(max_examples=60, deadline=None)
@given(
    cap=st.floats(0.01, 0.95),
    busy_ms=st.integers(1, 300),
    idle_ms=st.integers(0, 300),
)
@example(cap=0.5, busy_ms=1, idle_ms=10)  # the period of looks at one that waits
def test_nobody_gets_more_than_his_cap_of_the_time_in_which_he_could_run(
    cap: float, busy_ms: int, idle_ms: int
) -> None:
    program = Program(cap, busy_ns=busy_ms * NS_PER_MS, idle_ns=idle_ms * NS_PER_MS)
    program.run(20 * NS_PER_S)
    ready_ns = sum(wall for wall, _ in program.bursts) + max(0, program.now_ns - program.began_ns)
    slack_ns = 60 * NS_PER_MS + 0.02 * ready_ns * cap
    assert program.cpu_ns <= cap * ready_ns + slack_ns
