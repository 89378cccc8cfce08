"""One trace from the caller to the targets that agents get, and the metrics."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from support.controller_server import RunningController, eventually
from utilctl_common import telemetry
from utilctl_common.telemetry_grpc import TracingClientInterceptor
from utilctl_controller.store.sqlite import SqliteStore
from utilctl_proto.v1 import control_pb2, control_pb2_grpc


class Recorded:
    """A controller whose spans and metrics stay in memory, and a client with spans of its own in the same
    place."""

    def __init__(self, path: Path) -> None:
        self.spans = InMemorySpanExporter()
        self.reader = InMemoryMetricReader()
        self.ours = telemetry.setup(
            "utilctl-controller", always_sdk=True, span_exporters=[self.spans], metric_readers=[self.reader]
        )
        self.theirs = telemetry.setup("utilctl", span_exporters=[self.spans])
        self.running = RunningController(SqliteStore(path), self.ours)

    def named(self, name: str, trace_id: str) -> list[ReadableSpan]:
        """Finished spans of one trace by name."""
        return [
            span
            for span in self.spans.get_finished_spans()
            if span.name == name and span.context and f"{span.context.trace_id:032x}" == trace_id
        ]

    def metric(self, name: str) -> dict[tuple[tuple[str, object], ...], float]:
        """Values of one metric by attributes."""
        data = self.reader.get_metrics_data()
        return {
            tuple(sorted((point.attributes or {}).items())): getattr(point, "value", 0.0)
            for resource in (data.resource_metrics if data else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == name
            for point in metric.data.data_points
        }


@pytest.fixture
def recorded(store_path: Path) -> Iterator[Recorded]:
    """A controller under observation."""
    made = Recorded(store_path)
    try:
        with made.running:
            yield made
    finally:
        made.theirs.shutdown()
        made.ours.shutdown()


def test_the_trace_of_a_set_share_goes_on_to_the_targets_pushed(recorded: Recorded) -> None:
    running = recorded.running
    running.set_share("svc=web", 1)
    with running.agent("host-a") as agent:
        agent.newest()
        channel = grpc.intercept_channel(running.channel, TracingClientInterceptor(recorded.theirs.tracer))
        stub = control_pb2_grpc.ControlServiceStub(channel)
        with recorded.theirs.tracer.start_as_current_span("utilctl set-share") as span:
            trace_id = f"{span.get_span_context().trace_id:032x}"
            response = stub.SetShare(control_pb2.SetShareRequest(see="svc=web", share=4))
        assert response.trace_id == trace_id
        agent.until(lambda targets: targets["svc=web"].policy.share == 4, "the new share")
        assert telemetry.trace_id_of(agent.sets[-1].traceparent) == trace_id
        explained = running.control.Explain(control_pb2.ExplainRequest(see="svc=web"))
        assert explained.trace_id == trace_id

        chain = ["utilctl set-share", "utilctl_proto.v1.ControlService/SetShare", "store.put", "decide", "push"]
        eventually(lambda: all(recorded.named(name, trace_id) for name in chain), "every span of the chain")
        parents = {
            span.context.span_id: span for name in chain for span in recorded.named(name, trace_id) if span.context
        }
        walked = []
        step: ReadableSpan | None = recorded.named("push", trace_id)[0]
        while step is not None:
            walked.append(step.name)
            step = parents.get(step.parent.span_id) if step.parent else None
        call = "utilctl_proto.v1.ControlService/SetShare"
        assert walked == ["push", "decide", "store.put", call, call, "utilctl set-share"]


def test_a_decision_that_nobody_asked_for_has_a_trace_of_its_own(recorded: Recorded) -> None:
    running = recorded.running
    first = running.set_share("svc=web", 1)
    with running.agent("host-a") as agent:
        agent.reporting_until(
            {"svc=web": 1.0}, lambda: agent.newest()["svc=web"].entitlement_cores > 0.9, "an entitlement"
        )
        trace_id = telemetry.trace_id_of(agent.sets[-1].traceparent)
        assert len(trace_id) == 32
        assert trace_id != first.trace_id
        assert recorded.named("allocate", trace_id)


def test_a_refused_call_is_an_error_span_without_a_traceback(recorded: Recorded) -> None:
    with pytest.raises(grpc.RpcError):
        recorded.running.set_share("web", 1)
    name = "utilctl_proto.v1.ControlService/SetShare"
    eventually(lambda: any(span.name == name for span in recorded.spans.get_finished_spans()), "the span of the call")
    span = next(span for span in recorded.spans.get_finished_spans() if span.name == name)
    assert not span.status.is_ok
    assert (span.attributes or {})["rpc.grpc.status_code"] == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert not span.events


def test_metrics_count_reports_and_their_problems_and_show_services_and_hosts(recorded: Recorded) -> None:
    running = recorded.running
    running.set_share("svc=web", 1)
    with running.agent("host-a", 2.0) as agent:
        agent.report({"svc=web": math.nan}, cores=2.0)
        agent.reporting_until(
            {"svc=web": 1.0},
            lambda: recorded.metric("utilctl_service_demand_cores").get((("service", "svc=web"),)) == 1.0,
            "the demand in the metrics",
            cores=2.0,
        )
        assert recorded.metric("utilctl_controller_reports_total")[()] > 1
        problems = recorded.metric("utilctl_controller_report_problems_total")
        assert problems[("reason", "not_finite"),] == 2, "demand and consumption"
        assert recorded.metric("utilctl_host_capacity_cores") == {(("host", "host-a"),): 2.0}
        assert recorded.metric("utilctl_controller_agents") == {(): 1.0}
        assert recorded.metric("utilctl_controller_store_available_ratio") == {(): 1.0}
        assert recorded.metric("utilctl_controller_pushes_total")[("kind", "change"),] >= 1


def test_a_change_of_leader_redirections_and_the_speed_of_the_store_are_counted(
    recorded: Recorded, store_path: Path
) -> None:
    assert recorded.metric("utilctl_controller_elections_total") == {(): 1.0}
    recorded.running.set_share("svc=web", 1)
    store_path.with_name(store_path.name + "-seat").unlink()  # so that another one can lead without its knowing
    with RunningController(SqliteStore(store_path)) as leader:
        assert leader.controller().epoch == 2
        with pytest.raises(grpc.RpcError, match="leads"):
            recorded.running.set_share("svc=web", 2)
        eventually(lambda: recorded.metric("utilctl_controller_leading_ratio") == {(): 0.0}, "it follows")
        with pytest.raises(grpc.RpcError, match=leader.address):
            recorded.running.controller()
        counted = recorded.metric("utilctl_controller_redirected_total")
        assert counted == {(("leader", "unknown"),): 1.0, (("leader", "known"),): 1.0}
    took = recorded.metric("utilctl_controller_store_seconds")
    assert {(("call", "put"), ("outcome", "done")), (("call", "put"), ("outcome", "not_leading"))} <= set(took)
