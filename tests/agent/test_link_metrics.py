"""The agent's metrics: named and scaled as documented, and nothing at all where nothing is exported."""

from __future__ import annotations

from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from utilctl_agent.link.codec import HostReport, SeeStatus
from utilctl_agent.link.metrics import OF_STANDING, AgentMetrics, Standing
from utilctl_agent.orders import LoopReport
from utilctl_common.telemetry import setup

LOOP = LoopReport(
    now_ns=10**9,
    epoch=1,
    generation=2,
    cycles_since_roster=1,
    loop_class="fifo",
    algorithm="default",
    wakeups=50,
    overhead_ns=7_000_000,
    cycles=10,
    rms_error_sum=0.05,
    late_sum_ns=2_000_000,
    late_max_ns=90_000,
    foreign_writes=3,
    foreign_stops=2,
    unfinished_pauses=1,
)
REPORT = HostReport(
    sequence=1,
    interval_ns=10**9,
    capacity_cores=2.0,
    unclaimed_cores=0.25,
    sees=(SeeStatus("svc=web", 1_500_000_000, 250_000_000, 1.5, 2.0, 3, ""),),
    algorithm="default",
    mechanism="freezer",
    cycles_total=10,
    wakeups_total=50,
    overhead_total_ns=7_000_000,
    rms_relative_error_ratio=0.005,
)


STANDING = Standing(
    connected=True, leased=False, disabled=False, stale_targets=4, connects=2,
    entitlements={"svc=web": 0.75, "svc=elsewhere": 1.0}, pods=3, pod_watch_restarts=1,
)  # fmt: skip


def collected(reader: InMemoryMetricReader) -> dict[str, tuple[float, dict[str, object]]]:
    data = reader.get_metrics_data()
    points: dict[str, tuple[float, dict[str, object]]] = {}
    for resource in data.resource_metrics if data is not None else ():
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                for point in metric.data.data_points:
                    points[metric.name] = (getattr(point, "value", 0.0), dict(point.attributes or {}))
    return points


def test_figures_carry_the_prefix_base_units_and_their_host_and_service() -> None:
    reader = InMemoryMetricReader()
    telemetry = setup("utilctl-agent", metric_readers=[reader], environ={})
    metrics = AgentMetrics(telemetry, "host-a", lambda: STANDING)
    metrics.update(LOOP, REPORT)
    points = collected(reader)
    of_web = {"host": "host-a", "service": "svc=web"}
    assert points["utilctl_cpu_seconds_total"] == (1.5, of_web)
    of_host = {"host": "host-a"}
    assert points["utilctl_foreign_writes_total"] == (3.0, of_host)
    assert points["utilctl_foreign_stops_total"] == (2.0, of_host)
    assert points["utilctl_unfinished_pauses_total"] == (1.0, of_host)
    assert points["utilctl_paused_seconds_total"] == (0.25, of_web)
    assert points["utilctl_demand_cores"] == (2.0, of_web)
    assert points["utilctl_unclaimed_cores"] == (0.25, {"host": "host-a"})
    assert points["utilctl_relative_error_ratio"] == (0.005, {"host": "host-a"})
    assert points["utilctl_overhead_seconds_total"] == (0.007, {"host": "host-a"})
    assert points["utilctl_wakeups_total"] == (50.0, {"host": "host-a"})
    assert points["utilctl_late_seconds_total"] == (0.002, {"host": "host-a"})
    assert points["utilctl_stale_targets_total"] == (4.0, {"host": "host-a"})
    assert points["utilctl_entitlement_cores"] == (0.75, of_web)
    assert points["utilctl_connected_ratio"] == (1.0, of_host)
    assert points["utilctl_leased_ratio"] == (0.0, of_host)
    assert all(name.startswith("utilctl_") for name in points)
    telemetry.shutdown()


def test_before_the_first_report_only_counters_of_the_link_itself_are_there() -> None:
    reader = InMemoryMetricReader()
    telemetry = setup("utilctl-agent", metric_readers=[reader], environ={})
    AgentMetrics(telemetry, "host-a", lambda: STANDING)
    assert set(collected(reader)) == {instrument.name for instrument in OF_STANDING}
    telemetry.shutdown()


def test_without_an_endpoint_nothing_is_registered() -> None:
    telemetry = setup("utilctl-agent", environ={})
    assert not telemetry.metrics_on
    AgentMetrics(telemetry, "host-a", lambda: STANDING).update(LOOP, REPORT)
    telemetry.shutdown()
