"""When a word is enough instead of a report."""

from __future__ import annotations

from utilctl_agent.link.codec import HostReport, SeeStatus
from utilctl_agent.link.quiet import FULL_EVERY_NS, NOTICE_CORES, PATIENCE, QUIET_CORES, Quiet
from utilctl_common.quantities import NS_PER_S


def report(consumption_cores: float = 0.0, demand_cores: float = 0.0, problem: str = "") -> HostReport:
    see = SeeStatus("svc=web", 1, 0, consumption_cores, demand_cores, 1, problem)
    return HostReport(1, NS_PER_S, 2.0, 0.0, (see,), "default", "freezer", 0, 0, 0, 0.0)


def settled(*, busy_cores: float = 0.1, last: HostReport | None = None) -> Quiet:
    quiet = Quiet()
    for _ in range(PATIENCE):
        quiet.reported(report(), busy_cores, 0)
    if last is not None:
        quiet.reported(last, busy_cores, 0)
    return quiet


def test_after_some_quiet_reports_a_word_is_enough_for_a_while() -> None:
    quiet = settled()
    assert quiet.repeats(0.1, FULL_EVERY_NS - 1)
    assert not quiet.repeats(0.1, FULL_EVERY_NS)


def test_fewer_quiet_reports_are_not_enough() -> None:
    quiet = Quiet()
    for _ in range(PATIENCE - 1):
        quiet.reported(report(), 0.0, 0)
    assert not quiet.repeats(0.0, 1)


def test_whoever_uses_or_wants_cpu_is_reported_in_full() -> None:
    assert not settled(last=report(consumption_cores=QUIET_CORES)).repeats(0.1, 1)
    assert not settled(last=report(demand_cores=QUIET_CORES)).repeats(0.1, 1)


def test_a_new_problem_is_reported_until_it_is_an_old_one() -> None:
    quiet = settled(last=report(problem="a tie"))
    assert not quiet.repeats(0.1, 1)
    for _ in range(PATIENCE):
        quiet.reported(report(problem="a tie"), 0.1, 0)
    assert quiet.repeats(0.1, 1)


def test_a_host_that_is_busier_or_idler_than_at_the_last_report_is_reported_in_full() -> None:
    quiet = settled(busy_cores=0.5)
    assert quiet.repeats(0.5 + 0.9 * NOTICE_CORES, 1)
    assert not quiet.repeats(0.5 + 1.1 * NOTICE_CORES, 1)
    assert not quiet.repeats(0.5 - 1.1 * NOTICE_CORES, 1)


def test_a_disturbance_brings_complete_reports_back() -> None:
    quiet = settled()
    quiet.disturb()
    assert not quiet.settled
    assert not quiet.repeats(0.1, 1)
