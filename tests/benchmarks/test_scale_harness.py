"""The benchmarks of many agents and of fairness, with few agents and for seconds: they measure what they say."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import fleet
from bench.tables import fleet as table
from support.closed_loop import skewed_fleet

AGENTS = 20
BRISK = fleet.Pace(interval_s=0.5, settle_s=1.0, run_s=3.0, witnesses=5)

pytestmark = pytest.mark.kernel


def test_twenty_agents_report_are_timed_and_come_back_after_a_kill(tmp_path: Path) -> None:
    row = fleet.load(AGENTS, BRISK)
    assert row["connected"] == AGENTS
    assert row["reports_timed"] == BRISK.witnesses
    assert 0 < row["report_p50_ms"] <= row["report_p99_ms"] <= row["report_max_ms"]
    assert 0 < row["call_p50_ms"] <= row["call_p99_ms"]
    assert 0 < row["controller_cores"] < 2
    assert row["controller_rss_mb"] > 10
    assert row["all_back_after_kill_s"] > 0
    assert "20 agents" in table({"20 agents": row})
    fleet.plot({"20 agents": row}, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 0


def test_a_share_is_timed_until_every_agent_has_it() -> None:
    row = fleet.way_of_a_share(AGENTS, 3, BRISK)
    assert 0 < row["applied_p50_ms"] <= row["on_every_agent_p50_ms"] <= row["on_every_agent_max_ms"]


def test_a_placement_is_skewed_as_much_as_the_figures_say() -> None:
    small = skewed_fleet(seed=3, hosts=25)
    assert small.host_by_host() < 0.7
    assert small.fleet_wide(intervals=12) > 0.98
    assert skewed_fleet(seed=3, hosts=25) == small, "the same seed, the same fleet"
