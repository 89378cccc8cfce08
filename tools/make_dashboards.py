"""The Grafana dashboards in deploy/helm/utilctl/dashboards, from the tables below.

python tools/make_dashboards.py [--check]
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

FOLDER: Final = Path(__file__).parents[1] / "deploy/helm/utilctl/dashboards"
SOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}
WIDTH: Final = 24
HEIGHT: Final = 8


@dataclass(frozen=True)
class Panel:
    """One graph, or one figure. ``queries`` are PromQL with their legends."""

    title: str
    queries: Sequence[tuple[str, str]]
    unit: str = "short"
    width: int = 12
    kind: str = "timeseries"
    about: str = ""
    stacked: bool = False


@dataclass(frozen=True)
class Dashboard:
    """One page. ``variables`` are names with the query that lists their values."""

    uid: str
    title: str
    variables: Sequence[tuple[str, str]]
    panels: Sequence[Panel]


CORES: Final = "none"
CORES_PER_SHARE: Final = (
    "service:utilctl_consumption_cores:rate5m / on (service) max by (service) (utilctl_service_share)"
)
STORE_P95: Final = "histogram_quantile(0.95, sum by (le, call) (rate(utilctl_controller_store_seconds_bucket[5m])))"
USED_AGAINST_GRANTED: Final = (
    'rate(utilctl_cpu_seconds_total{service="$service"}[5m])'
    ' - on (host, service) utilctl_entitlement_cores{service="$service"}'
)
DASHBOARDS: Final = (
    Dashboard(
        "utilctl-fleet",
        "utilctl: fleet",
        (),
        (
            Panel("Shares hold", [("min(utilctl_controller_enabled_ratio)", "")], "percentunit", 4, "stat"),
            Panel("Controllers that lead", [("sum(utilctl_controller_leading_ratio)", "")], "none", 4, "stat"),
            Panel("Agents connected", [("sum(utilctl_controller_agents)", "")], "none", 4, "stat"),
            Panel(
                "Hosts behind",
                [("sum(utilctl_controller_hosts_behind)", "")],
                "none",
                4,
                "stat",
                "Connected hosts that do not enforce yet what was sent to them last.",
            ),
            Panel("Services held", [("sum(utilctl_controller_held_services)", "")], "none", 4, "stat"),
            Panel(
                "On static shares",
                [("count(utilctl_leased_ratio < 1) or vector(0)", "")],
                "none",
                4,
                "stat",
                "Hosts whose lease has ended: they divide by shares alone.",
            ),
            Panel(
                "CPU used by service",
                [("service:utilctl_consumption_cores:rate5m", "{{service}}")],
                CORES,
                24,
                about="Cores over the whole fleet.",
                stacked=True,
            ),
            Panel(
                "CPU granted by service", [("utilctl_service_entitlement_cores", "{{service}}")], CORES, stacked=True
            ),
            Panel("CPU wanted by service", [("utilctl_service_demand_cores", "{{service}}")], CORES, stacked=True),
            Panel(
                "Cores per share",
                [
                    (
                        CORES_PER_SHARE,
                        "{{service}}",
                    )
                ],
                CORES,
                about="Equal for services that want more than they get and are held by nothing else.",
            ),
            Panel(
                "CPU used by nobody's processes",
                [("sum(utilctl_host_unclaimed_cores)", "unclaimed"), ("sum(utilctl_host_capacity_cores)", "capacity")],
                CORES,
            ),
        ),
    ),
    Dashboard(
        "utilctl-service",
        "utilctl: what a service gets, and why",
        (("service", "label_values(utilctl_cpu_seconds_total, service)"),),
        (
            Panel(
                "Used, granted, wanted",
                [
                    ('service:utilctl_consumption_cores:rate5m{service="$service"}', "used"),
                    ('utilctl_service_entitlement_cores{service="$service"}', "granted"),
                    ('utilctl_service_demand_cores{service="$service"}', "wanted"),
                ],
                CORES,
                24,
                about="Granted below wanted: others have a right to the rest, or a cap binds.",
            ),
            Panel("Share", [('utilctl_service_share{service="$service"}', "")], "none", 4, "stat"),
            Panel("Hosts", [('count(utilctl_processes{service="$service"} > 0)', "")], "none", 4, "stat"),
            Panel("Processes", [('sum(utilctl_processes{service="$service"})', "")], "none", 4, "stat"),
            Panel(
                "Problems",
                [('sum(utilctl_problem_ratio{service="$service"})', "")],
                "none",
                4,
                "stat",
                "Hosts where something keeps it from being controlled; utilctl explain says what.",
            ),
            Panel(
                "Held back",
                [('service:utilctl_paused_ratio:rate5m{service="$service"}', "")],
                "percentunit",
                8,
                "stat",
                "Time for which it could run and was held back, added up over its hosts.",
            ),
            Panel(
                "Used by host",
                [('rate(utilctl_cpu_seconds_total{service="$service"}[5m])', "{{host}}")],
                CORES,
                stacked=True,
            ),
            Panel(
                "Granted by host", [('utilctl_entitlement_cores{service="$service"}', "{{host}}")], CORES, stacked=True
            ),
            Panel(
                "Held back by host",
                [('rate(utilctl_paused_seconds_total{service="$service"}[5m])', "{{host}}")],
                "percentunit",
            ),
            Panel(
                "Used against granted by host",
                [
                    (
                        USED_AGAINST_GRANTED,
                        "{{host}}",
                    )
                ],
                CORES,
                about="Above 0: it uses what others leave. Below: it wants less than it is granted.",
            ),
        ),
    ),
    Dashboard(
        "utilctl-host",
        "utilctl: a host and its agent",
        (("host", "label_values(utilctl_capacity_cores, host)"),),
        (
            Panel("Connected", [('utilctl_connected_ratio{host="$host"}', "")], "percentunit", 6, "stat"),
            Panel("Targets hold", [('utilctl_leased_ratio{host="$host"}', "")], "percentunit", 6, "stat"),
            Panel(
                "Overhead",
                [('host:utilctl_overhead_ratio:rate5m{host="$host"}', "")],
                "percentunit",
                6,
                "stat",
                "CPU that the scheduler loop uses, as a part of one core.",
            ),
            Panel("Pods", [('utilctl_pods{host="$host"}', "")], "none", 6, "stat"),
            Panel(
                "CPU by service",
                [
                    ('rate(utilctl_cpu_seconds_total{host="$host"}[5m])', "{{service}}"),
                    ('utilctl_unclaimed_cores{host="$host"}', "nobody's"),
                ],
                CORES,
                24,
                stacked=True,
            ),
            Panel("Error of a cycle", [('utilctl_relative_error_ratio{host="$host"}', "")], "percentunit"),
            Panel("How late the loop wakes up", [('host:utilctl_lateness_seconds:mean5m{host="$host"}', "")], "s"),
            Panel(
                "Wake-ups and cycles a second",
                [
                    ('rate(utilctl_wakeups_total{host="$host"}[5m])', "wake-ups"),
                    ('rate(utilctl_cycles_total{host="$host"}[5m])', "cycles"),
                ],
            ),
            Panel("Cycles are longer by", [('utilctl_cycle_stretch_ratio{host="$host"}', "")], "none"),
            Panel(
                "Interference",
                [
                    ('increase(utilctl_foreign_writes_total{host="$host"}[5m])', "undone by others"),
                    ('increase(utilctl_foreign_stops_total{host="$host"}[5m])', "stopped by others"),
                    ('increase(utilctl_unfinished_pauses_total{host="$host"}[5m])', "pauses without effect"),
                    ('increase(utilctl_stale_targets_total{host="$host"}[5m])', "old targets refused"),
                ],
            ),
            Panel(
                "Sessions and pod lists",
                [
                    ('increase(utilctl_controller_connects_total{host="$host"}[5m])', "sessions"),
                    ('increase(utilctl_pod_watch_restarts_total{host="$host"}[5m])', "pods listed anew"),
                ],
            ),
        ),
    ),
    Dashboard(
        "utilctl-controller",
        "utilctl: controllers",
        (),
        (
            Panel("Who leads", [("utilctl_controller_leading_ratio", "{{instance}}")], "none", 12),
            Panel("Elections", [("increase(utilctl_controller_elections_total[5m])", "{{instance}}")], "none", 12),
            Panel(
                "Decision, 50th and 95th percentile",
                [
                    (
                        "histogram_quantile(0.5, sum by (le) (rate(utilctl_controller_decision_seconds_bucket[5m])))",
                        "p50",
                    ),
                    (
                        "histogram_quantile(0.95, sum by (le) (rate(utilctl_controller_decision_seconds_bucket[5m])))",
                        "p95",
                    ),
                ],
                "s",
            ),
            Panel(
                "Store, 95th percentile by call",
                [
                    (
                        STORE_P95,
                        "{{call}}",
                    )
                ],
                "s",
            ),
            Panel(
                "Store calls by outcome",
                [
                    ("sum by (outcome) (rate(utilctl_controller_store_seconds_count[5m]))", "{{outcome}}"),
                ],
            ),
            Panel(
                "Reports and pushes a second",
                [
                    ("sum(rate(utilctl_controller_reports_total[5m]))", "reports"),
                    ("sum by (kind) (rate(utilctl_controller_pushes_total[5m]))", "pushes: {{kind}}"),
                ],
            ),
            Panel(
                "Refused",
                [
                    (
                        "sum by (reason) (increase(utilctl_controller_report_problems_total[5m])) or vector(0)",
                        "reports: {{reason}}",
                    ),
                    (
                        "sum by (reason) (increase(utilctl_controller_sessions_refused_total[5m])) or vector(0)",
                        "agents: {{reason}}",
                    ),
                    ("sum(increase(utilctl_controller_malformed_messages_total[5m])) or vector(0)", "no message"),
                    (
                        "sum by (leader) (increase(utilctl_controller_redirected_total[5m])) or vector(0)",
                        "sent on, leader {{leader}}",
                    ),
                ],
            ),
            Panel(
                "Failures",
                [
                    ("sum(increase(utilctl_controller_decision_failures_total[5m])) or vector(0)", "decisions"),
                    ("1 - min(utilctl_controller_store_available_ratio)", "store away"),
                ],
            ),
        ),
    ),
)


def rendered(dashboard: Dashboard) -> str:
    """Grafana's JSON."""
    panels: list[dict[str, Any]] = []
    x = y = 0
    for number, panel in enumerate(dashboard.panels, 1):
        height = 4 if panel.kind == "stat" else HEIGHT
        if x + panel.width > WIDTH:
            x, y = 0, y + (panels[-1]["gridPos"]["h"] if panels else 0)
        panels.append(_panel(panel, number, {"x": x, "y": y, "w": panel.width, "h": height}))
        x += panel.width
    chosen = [
        {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Prometheus"},
        *(
            {"name": name, "type": "query", "datasource": SOURCE, "query": query, "refresh": 2, "sort": 1}
            for name, query in dashboard.variables
        ),
    ]
    page = {
        "uid": dashboard.uid,
        "title": dashboard.title,
        "tags": ["utilctl"],
        "schemaVersion": 39,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": chosen},
        "links": [{"type": "dashboards", "tags": ["utilctl"], "title": "utilctl", "asDropdown": True}],
        "panels": panels,
    }
    return json.dumps(page, indent=1) + "\n"


def _panel(panel: Panel, number: int, place: dict[str, int]) -> dict[str, Any]:
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.about,
        "gridPos": place,
        "datasource": SOURCE,
        "fieldConfig": {
            "defaults": {
                "unit": panel.unit,
                "min": 0 if panel.stacked else None,
                "custom": {"stacking": {"mode": "normal" if panel.stacked else "none"}, "fillOpacity": 20},
            },
            "overrides": [],
        },
        "targets": [
            {"refId": chr(ord("A") + place_), "datasource": SOURCE, "expr": expr, "legendFormat": legend}
            for place_, (expr, legend) in enumerate(panel.queries)
        ],
    }


def main() -> int:
    """Write them, or with ``--check`` say whether they are up to date."""
    stale = []
    for dashboard in DASHBOARDS:
        path = FOLDER / f"{dashboard.uid}.json"
        if "--check" not in sys.argv[1:]:
            path.write_text(rendered(dashboard))
        elif not path.exists() or path.read_text() != rendered(dashboard):
            stale.append(path.name)
    if stale:
        print(f"out of date: {', '.join(stale)}; run python tools/make_dashboards.py", file=sys.stderr)
    return bool(stale)


if __name__ == "__main__":
    sys.exit(main())
