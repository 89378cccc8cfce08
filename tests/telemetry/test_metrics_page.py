"""docs/metrics.md lists every metric there is, and none that there is not."""

from __future__ import annotations

import re
from pathlib import Path

from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from utilctl_agent.link.metrics import AgentMetrics, Standing
from utilctl_common.telemetry import setup
from utilctl_controller.metrics import ControllerMetrics

PAGE = Path(__file__).parents[2] / "docs/metrics.md"


def registered() -> set[str]:
    """The names of all instruments that agents and controllers make."""
    telemetry = setup("test", metric_readers=[InMemoryMetricReader()], environ={})
    standing = Standing(
        connected=True, leased=True, disabled=False, stale_targets=0, connects=0, entitlements={}, pods=0,
        pod_watch_restarts=0,
    )  # fmt: skip
    AgentMetrics(telemetry, "host-a", lambda: standing)
    ControllerMetrics(telemetry)
    # The SDK keeps what was made by name, and has no public way to ask for it.
    made = {instrument.name for instrument in telemetry.meter._instrument_id_instrument.values()}  # type: ignore[attr-defined]
    telemetry.shutdown()
    return made


def test_the_page_and_the_programs_name_the_same_metrics() -> None:
    listed = re.findall(r"^\| `(utilctl_\w+)` \|", PAGE.read_text(), re.MULTILINE)
    assert len(listed) == len(set(listed))
    assert set(listed) == registered()


def test_names_are_as_prometheus_has_them() -> None:
    for name in registered():
        assert name.startswith("utilctl_")
        assert name.endswith(
            (
                "_total",
                "_seconds",
                "_cores",
                "_ratio",
                "_services",
                "_share",
                "_behind",
                "_processes",
                "_pods",
                "_agents",
            )
        ), name
