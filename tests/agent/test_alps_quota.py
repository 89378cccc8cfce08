"""The core that moves a quota, on a simulated kernel: programs that compute, wait, and are kept waiting."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from utilctl_agent.alps.model import Reading
from utilctl_agent.alps.quota import (
    FIRST_LOOK_NS,
    HIGHEST,
    KERNEL_LEAST_NS,
    LAST_LOOK_NS,
    LOWEST,
    MOST_CREDIT_NS,
    Quota,
    QuotaScheduler,
)
from utilctl_common.quantities import NS_PER_MS, NS_PER_S

STEP_NS = NS_PER_MS // 4


class Kernel:
    """One CPU with a quota that is refilled every period, and a program: ``busy_ns`` of computing, then waiting.

    ``others``: part of the time in which others have the CPU.
    """

    def __init__(self, cap: float, *, busy_ns: int = 1 << 60, idle_ns: int = 0, others: float = 0.0) -> None:
        self.busy_ns, self.idle_ns, self.others = busy_ns, idle_ns, others
        self.now_ns = self.cpu_ns = self.wait_ns = self.ready_ns = self.wakes_ns = 0
        self.left_ns, self.local_ns, self.taken = busy_ns, 0, 0.0
        self.core = QuotaScheduler(cap, 1, 0, Reading(0, 0))
        self.quota = self.core.decide(0, Reading(0, 0))
        self.looks: list[Quota] = []

    def run(self, duration_ns: int) -> None:
        end_ns = self.now_ns + duration_ns
        while self.now_ns < end_ns:
            if self.now_ns >= self.quota.next_look_ns:
                self.quota = self.core.decide(self.now_ns, Reading(self.cpu_ns, self.wait_ns))
                self.looks.append(self.quota)
            if self.now_ns % self.quota.period_ns < STEP_NS:
                self.local_ns = min(self.quota.quota_ns, self.local_ns + self.quota.quota_ns)
            self._pass()

    def _pass(self) -> None:
        if self.now_ns >= self.wakes_ns:
            self.ready_ns += STEP_NS
            self.taken += self.others
            if self.taken >= 1.0 or self.local_ns <= 0:
                self.taken -= self.taken >= 1.0
                self.wait_ns += STEP_NS
            else:
                self.cpu_ns += STEP_NS
                self.local_ns -= STEP_NS
                self.left_ns -= STEP_NS
                if self.left_ns <= 0:
                    self.left_ns, self.wakes_ns = self.busy_ns, self.now_ns + self.idle_ns
        self.now_ns += STEP_NS


@pytest.mark.parametrize("cap", [0.01, 0.05, 0.1, 0.25, 0.5, 0.75])
def test_a_program_that_computes_gets_its_cap_and_is_looked_at_rarely(cap: float) -> None:
    kernel = Kernel(cap)
    kernel.run(60 * NS_PER_S)
    assert kernel.cpu_ns / kernel.now_ns == pytest.approx(cap, rel=0.01)
    assert len(kernel.looks) < 60
    assert all(quota.quota_ns >= KERNEL_LEAST_NS for quota in kernel.looks)


@pytest.mark.parametrize(("busy_ms", "idle_ms"), [(50, 80), (5, 100), (200, 30), (3, 3)])
def test_only_ready_time_counts(busy_ms: int, idle_ms: int) -> None:
    kernel = Kernel(0.5, busy_ns=busy_ms * NS_PER_MS, idle_ns=idle_ms * NS_PER_MS)
    kernel.run(10 * NS_PER_S)
    used_ns, ready_ns = kernel.cpu_ns, kernel.ready_ns
    kernel.run(120 * NS_PER_S)
    assert (kernel.cpu_ns - used_ns) / (kernel.ready_ns - ready_ns) == pytest.approx(0.5, rel=0.03)


def test_what_others_take_is_made_up_for_up_to_a_bound() -> None:
    kernel = Kernel(0.25)
    kernel.run(4 * NS_PER_S)
    kernel.others = 0.95
    kernel.run(2 * NS_PER_S)
    assert kernel.core.balance_ns <= 0.25 * MOST_CREDIT_NS
    kernel.others = 0.0
    kernel.run(14 * NS_PER_S)
    assert kernel.cpu_ns / kernel.now_ns == pytest.approx(0.25, rel=0.02), "a quarter of all twenty seconds"


def test_waiting_earns_nothing() -> None:
    kernel = Kernel(0.25, busy_ns=NS_PER_S, idle_ns=10 * NS_PER_S)
    kernel.run(100 * NS_PER_S)
    assert kernel.cpu_ns / kernel.ready_ns == pytest.approx(0.25, rel=0.03)


def test_a_changed_cap_owes_nothing_for_the_old_one() -> None:
    kernel = Kernel(0.5)
    kernel.others = 0.9
    kernel.run(5 * NS_PER_S)
    kernel.core.change(0.1, 1)
    assert kernel.core.balance_ns == 0
    kernel.others = 0.0
    kernel.quota = kernel.core.decide(kernel.now_ns, Reading(kernel.cpu_ns, kernel.wait_ns))
    before_ns = kernel.cpu_ns
    kernel.run(5 * NS_PER_S)
    assert (kernel.cpu_ns - before_ns) / (5 * NS_PER_S) == pytest.approx(0.1, abs=0.01)


def test_without_figures_of_waiting_all_time_counts_as_ready() -> None:
    core = QuotaScheduler(0.5, 1, 0, Reading(0))
    core.decide(NS_PER_S, Reading(NS_PER_S // 4))
    assert core.balance_ns == pytest.approx(NS_PER_S // 4)


@settings(max_examples=200, deadline=None)
@given(
    cap=st.floats(0.005, 8.0),
    cores=st.integers(1, 8),
    used=st.lists(st.tuples(st.integers(0, 3 * NS_PER_S), st.integers(0, 3 * NS_PER_S)), min_size=1, max_size=30),
)
def test_quotas_stay_within_their_bounds_whatever_is_read(cap: float, cores: int, used: list[tuple[int, int]]) -> None:
    core = QuotaScheduler(cap, cores, 0, Reading(0, 0))
    now_ns = cpu_ns = wait_ns = 0
    for more_ns, waited_ns in used:
        cpu_ns, wait_ns = cpu_ns + more_ns, wait_ns + waited_ns
        quota = core.decide(now_ns, Reading(cpu_ns, wait_ns))
        assert LOWEST * cap * quota.period_ns - 1 <= quota.quota_ns or quota.quota_ns == KERNEL_LEAST_NS
        assert quota.quota_ns <= max(KERNEL_LEAST_NS, HIGHEST * cap * quota.period_ns + 1)
        assert FIRST_LOOK_NS <= quota.next_look_ns - now_ns <= LAST_LOOK_NS
        now_ns = quota.next_look_ns
