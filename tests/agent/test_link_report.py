"""Reports of a host, and how busy it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from utilctl_agent.link.codec import HostReport
from utilctl_agent.link.hoststat import CpuTimes, busy_cores, read_cpu_times
from utilctl_agent.link.report import Reporter
from utilctl_agent.link.roster import SeeMembers
from utilctl_agent.orders import LoopReport, PrincipalReport

S = 1_000_000_000
MEMBERS = {"svc=web": SeeMembers(((1, 1), (2, 2)), (), ((1, 1), (2, 2)), 2)}


def loop(now_s: float, /, cycles: int = 0, error_sum: float = 0.0, **principals: PrincipalReport) -> LoopReport:
    return LoopReport(
        now_ns=round(now_s * S),
        epoch=1,
        generation=1,
        cycles_since_roster=0,
        loop_class="fifo",
        algorithm="default",
        wakeups=cycles * 3,
        overhead_ns=cycles * 1000,
        cycles=cycles,
        rms_error_sum=error_sum,
        late_sum_ns=0,
        late_max_ns=0,
        principals={name.replace("_", "="): report for name, report in principals.items()},
    )


def web(cpu_s: float, paused_s: float = 0.0, wait_s: float | None = 0.0, problem: str = "") -> PrincipalReport:
    wait_ns = None if wait_s is None else round(wait_s * S)
    return PrincipalReport(round(cpu_s * S), wait_ns, round(paused_s * S), "freezer", problem)


def times(wall_s: float, busy_core_s: float, cores: int = 2) -> CpuTimes:
    return CpuTimes(round(wall_s * 100 * cores), round(busy_core_s * 100))


def two_reports(
    first: LoopReport, second: LoopReport, *, busy_core_s: float = 1.0, reporter: Reporter | None = None
) -> HostReport:
    reporter = reporter or Reporter(2)
    reporter.make(first, times(0, 0), MEMBERS, {})
    wall_s = (second.now_ns - first.now_ns) / S
    return reporter.make(second, times(wall_s, busy_core_s), MEMBERS, {})


class TestReporter:
    def test_the_first_report_carries_totals_only(self) -> None:
        report = Reporter(2).make(loop(5, svc_web=web(3, paused_s=1)), times(100, 50), MEMBERS, {})
        (see,) = report.sees
        assert (report.sequence, report.interval_ns, report.capacity_cores, report.unclaimed_cores) == (1, 0, 2.0, 0.0)
        assert (see.consumed_total_ns, see.paused_total_ns, see.processes) == (3 * S, S, 2)
        assert (see.consumption_cores, see.demand_cores) == (0.0, 0.0)

    def test_consumption_is_that_of_the_interval(self) -> None:
        report = two_reports(loop(5, svc_web=web(3)), loop(7, svc_web=web(4)), busy_core_s=1.5)
        (see,) = report.sees
        assert report.sequence == 2
        assert report.interval_ns == 2 * S
        assert see.consumption_cores == 0.5
        assert see.consumed_total_ns == 4 * S

    def test_what_no_see_used_of_the_busy_time_is_unclaimed(self) -> None:
        report = two_reports(loop(0, svc_web=web(0)), loop(1, svc_web=web(0.5)), busy_core_s=1.25)
        assert report.unclaimed_cores == pytest.approx(0.75)

    def test_unclaimed_time_is_never_negative_nor_above_the_host(self) -> None:
        less = two_reports(loop(0, svc_web=web(0)), loop(1, svc_web=web(1.5)), busy_core_s=1.0)
        assert less.unclaimed_cores == 0.0

    def test_unclaimed_time_is_smoothed(self) -> None:
        reporter = Reporter(2)
        two_reports(loop(0), loop(1), busy_core_s=1.0, reporter=reporter)
        assert reporter.unclaimed_cores == pytest.approx(1.0)
        reporter.make(loop(2), times(2, 3.0), {}, {})
        assert reporter.unclaimed_cores == pytest.approx(1.3)

    def test_a_spinner_held_back_on_a_full_host_wants_all_that_its_threads_can_use(self) -> None:
        report = two_reports(loop(0, svc_web=web(0)), loop(1, svc_web=web(0.5, paused_s=0.5)), busy_core_s=2.0)
        assert report.sees[0].demand_cores == pytest.approx(2.0)

    def test_on_a_host_with_an_idle_core_it_wants_what_it_uses(self) -> None:
        report = two_reports(loop(0, svc_web=web(0)), loop(1, svc_web=web(1)), busy_core_s=1.0)
        assert report.sees[0].demand_cores == pytest.approx(1.0)

    def test_an_unknown_waiting_time_counts_as_none(self) -> None:
        report = two_reports(loop(0, svc_web=web(0, wait_s=None)), loop(1, svc_web=web(0.2, wait_s=4)), busy_core_s=2.0)
        assert report.sees[0].demand_cores == pytest.approx(0.2)

    def test_a_see_that_is_gone_is_not_reported(self) -> None:
        reporter = Reporter(2)
        two_reports(loop(0, svc_web=web(0)), loop(1, svc_web=web(1)), reporter=reporter)
        assert reporter.make(loop(2), times(2, 1.0), {}, {}).sees == ()

    def test_a_see_that_comes_back_begins_anew(self) -> None:
        reporter = Reporter(2)
        two_reports(loop(0, svc_web=web(0)), loop(1, svc_web=web(1)), reporter=reporter)
        reporter.make(loop(2), times(2, 1.0), {}, {})
        again = reporter.make(loop(3, svc_web=web(0)), times(3, 1.0), {}, {}).sees[0]
        assert (again.demand_cores, again.processes) == (0.0, 0)

    def test_totals_that_start_over_do_not_give_negative_consumption(self) -> None:
        report = two_reports(loop(0, svc_web=web(9)), loop(1, svc_web=web(1)))
        assert report.sees[0].consumption_cores == 0.0

    def test_problems_are_reported_also_of_sees_not_under_control(self) -> None:
        report = Reporter(2).make(
            loop(1, svc_web=web(1, problem="not permitted")), times(1, 1), MEMBERS, {"svc=etl": "two matches"}
        )
        assert {see.see: see.problem for see in report.sees} == {
            "svc=etl": "two matches",
            "svc=web": "not permitted",
        }

    def test_a_problem_of_the_link_outranks_one_of_the_loop(self) -> None:
        report = Reporter(2).make(
            loop(1, svc_web=web(1, problem="not permitted")), times(1, 1), MEMBERS, {"svc=web": "two matches"}
        )
        assert report.sees[0].problem == "two matches"

    def test_the_error_is_the_mean_over_the_cycles_of_the_interval(self) -> None:
        report = two_reports(loop(0, cycles=10, error_sum=5.0), loop(1, cycles=14, error_sum=5.2))
        assert report.rms_relative_error_ratio == pytest.approx(0.05)
        assert (report.cycles_total, report.wakeups_total, report.overhead_total_ns) == (14, 42, 14000)

    def test_without_a_cycle_there_is_no_error(self) -> None:
        assert (
            two_reports(loop(0, cycles=3, error_sum=1.0), loop(1, cycles=3, error_sum=1.0)).rms_relative_error_ratio
            == 0
        )

    def test_the_mechanisms_in_use_are_named(self) -> None:
        mixed = loop(1, svc_web=web(1), svc_etl=PrincipalReport(0, None, 0, "signal", ""))
        assert Reporter(2).make(mixed, times(1, 1), {}, {}).mechanism == "freezer+signal"
        assert Reporter(2).make(loop(1), times(1, 1), {}, {}).mechanism == ""


STAT = """\
cpu  1000 10 200 5000 100 1 2 30 7 8
cpu0 600 10 100 2000 50 1 1 20 7 8
cpu1 400 0 100 3000 50 0 1 10 0 0
cpu10 9 9 9 9 9 9 9 9 9 9
intr 12345 0 0
ctxt 99
btime 1700000000
"""


class TestCpuTimes:
    @pytest.fixture
    def stat(self, tmp_path: Path) -> Path:
        path = tmp_path / "stat"
        path.write_text(STAT)
        return path

    def test_only_the_cpus_asked_for_count(self, stat: Path) -> None:
        # user nice system idle iowait irq softirq steal; guest time is already within user time.
        assert read_cpu_times([0], stat) == CpuTimes(2782, 732)
        assert read_cpu_times([1], stat) == CpuTimes(3561, 511)
        assert read_cpu_times([0, 1], stat) == CpuTimes(2782 + 3561, 732 + 511)

    def test_a_cpu_that_is_offline_counts_for_nothing(self, stat: Path) -> None:
        assert read_cpu_times([5], stat) == CpuTimes(0, 0)

    def test_busy_cores_are_the_busy_part_of_the_interval(self) -> None:
        assert busy_cores(CpuTimes(1000, 300), CpuTimes(1400, 400), 4) == 1.0
        assert busy_cores(CpuTimes(1000, 300), CpuTimes(1000, 300), 4) == 0.0

    @pytest.mark.kernel
    def test_the_real_file_can_be_read(self) -> None:
        seen = read_cpu_times([0])
        assert 0 < seen.busy_ticks <= seen.total_ticks
