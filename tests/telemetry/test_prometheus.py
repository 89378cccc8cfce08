"""A real Prometheus on a real fleet: it scrapes all there is, loads the rules, and has data for every dashboard."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.fleet_machine import FleetMachine, possible, worked_example
from support.processes import WAIT_S, wait_until
from support.prometheus import NO_PROMETHEUS, ROOT, RULES, Prometheus, program

pytestmark = [
    pytest.mark.prometheus,
    pytest.mark.skipif(program("prometheus") is None or program("promtool") is None, reason=NO_PROMETHEUS),
]

DASHBOARDS = sorted((ROOT / "deploy/helm/utilctl/dashboards").glob("*.json"))
CHOSEN = {"$service": "svc=batch", "$host": "host-a"}


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    binary = program("promtool")
    assert binary is not None
    return subprocess.run([binary, *arguments], capture_output=True, text=True, timeout=60, check=False)


def test_the_rules_are_well_formed() -> None:
    ran = promtool("check", "rules", str(RULES))
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_every_alert_fires_when_it_should_and_stays_quiet_when_it_should(tmp_path: Path) -> None:
    tests = Path(__file__).parent / "alerts.yaml"
    for path in (RULES, tests):
        shutil.copy(path, tmp_path / path.name)
    ran = promtool("test", "rules", str(tmp_path / tests.name))
    assert ran.returncode == 0, ran.stdout + ran.stderr
    tried = {test["name"] for test in yaml.safe_load(tests.read_text())["tests"]}
    alerts = {rule["alert"] for rule in rules() if "alert" in rule}
    assert tried == {f"{alert} {does}" for alert in alerts for does in ("fires", "stays quiet")}


def test_every_alert_has_its_section_in_the_runbooks() -> None:
    headings = re.findall(r"^## (\w+)$", (ROOT / "docs/runbooks.md").read_text(), re.MULTILINE)
    alerts = [rule for rule in rules() if "alert" in rule]
    assert headings == [rule["alert"] for rule in alerts]
    for rule in alerts:
        assert rule["annotations"]["runbook_url"] == f"docs/runbooks.md#{rule['alert'].lower()}"
        assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}


def test_the_dashboards_are_made_from_their_tables() -> None:
    ran = subprocess.run(
        [sys.executable, "tools/make_dashboards.py", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[FleetMachine, Prometheus]]:
    folder = tmp_path_factory.mktemp("prometheus")
    with worked_example(f"sqlite:{folder}/policy.db", metrics=True) as fleet:
        with Prometheus(folder, fleet.scraped) as prometheus:
            wait_until(lambda: len(prometheus.query("up == 1")) == 3, "all three programs are scraped")
            time.sleep(5.0)  # rates need a few samples
            yield fleet, prometheus
        fleet.stop_agents()


def queries(path: Path) -> list[tuple[str, str]]:
    """Title and expression of every query of a dashboard, with its variables chosen."""
    found = []
    for panel in json.loads(path.read_text())["panels"]:
        for target in panel["targets"]:
            expression = target["expr"]
            for variable, value in CHOSEN.items():
                expression = expression.replace(variable, value)
            found.append((panel["title"], expression))
    return found


@pytest.mark.kernel
@pytest.mark.root
@pytest.mark.quiet
@pytest.mark.skipif(not possible(), reason="needs root, for cgroups as hosts, and two CPUs")
class TestOnAFleet:
    @pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
    def test_every_query_of_a_dashboard_has_data(self, watched: tuple[FleetMachine, Prometheus], path: Path) -> None:
        _, prometheus = watched
        assert "$" not in "".join(expression for _, expression in queries(path))
        for title, expression in queries(path):
            deadline = time.monotonic() + WAIT_S
            while not (found := prometheus.query(expression)):
                assert time.monotonic() < deadline, f"{title}: {expression} has no data"
                time.sleep(0.5)
            assert all(series["value"][1] != "NaN" for series in found) or "histogram_quantile" in expression, title

    def test_variables_of_dashboards_have_values(self, watched: tuple[FleetMachine, Prometheus]) -> None:
        _, prometheus = watched
        assert prometheus.documents("/api/v1/label/service/values?match[]=utilctl_cpu_seconds_total") == [
            "svc=batch", "svc=etl", "svc=web",
        ]  # fmt: skip
        assert prometheus.documents("/api/v1/label/host/values?match[]=utilctl_capacity_cores") == ["host-a", "host-b"]

    def test_the_rules_are_loaded_and_a_healthy_fleet_alerts_nobody(
        self, watched: tuple[FleetMachine, Prometheus]
    ) -> None:
        _, prometheus = watched
        loaded = [rule for group in prometheus.documents("/api/v1/rules")["groups"] for rule in group["rules"]]
        assert len(loaded) == len(rules())
        assert [rule["name"] for rule in loaded if rule["health"] == "err"] == []
        assert [rule["name"] for rule in loaded if rule.get("state") == "firing"] == []

    def test_what_is_recorded_is_what_the_kernel_says(self, watched: tuple[FleetMachine, Prometheus]) -> None:
        fleet, prometheus = watched
        measured = fleet.measured(5.0)
        for (host, see), cores in measured.items():
            (series,) = prometheus.query(f'rate(utilctl_cpu_seconds_total{{host="{host}",service="{see}"}}[6s])')
            assert float(series["value"][1]) == pytest.approx(cores, abs=0.15), (host, see)

    def test_an_agent_that_loses_its_controller_says_so(self, watched: tuple[FleetMachine, Prometheus]) -> None:
        fleet, prometheus = watched
        fleet.kill_controller()
        try:
            wait_until(lambda: len(prometheus.query("utilctl_connected_ratio == 0")) == 2, "both say so")
            wait_until(lambda: "UtilctlAgentDisconnected" in _alerts(prometheus), "the alert is pending")
        finally:
            fleet.start_controller()
        wait_until(lambda: len(prometheus.query("utilctl_connected_ratio == 1")) == 2, "both are back")


def _alerts(prometheus: Prometheus) -> set[str]:
    """Alerts that are pending or firing."""
    return {alert["labels"]["alertname"] for alert in prometheus.documents("/api/v1/alerts")["alerts"]}
