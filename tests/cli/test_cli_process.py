"""utilctl as a process: what it imports, and how it behaves when its output or its patience ends."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2

from utilctl_proto.v1 import common_pb2, control_pb2

Run = Callable[..., subprocess.CompletedProcess[str]]
StartStandIn = Callable[[dict[str, Any]], tuple[str, Any]]

UTILCTL = [sys.executable, "-m", "utilctl_cli.main"]

LIST_IMPORTS = """
import sys
from utilctl_cli.main import main
code = main(sys.argv[1:])
print(code, *sorted(sys.modules), file=sys.stderr)
"""


def imports_of(*arguments: str) -> set[str]:
    ran = subprocess.run(
        [sys.executable, "-c", LIST_IMPORTS, *arguments], capture_output=True, text=True, timeout=60, check=True
    )
    code, *modules = ran.stderr.split()
    assert code == "0", ran.stderr
    return {module.partition(".")[0] for module in modules} | set(modules)


def test_help_imports_little_more_than_click() -> None:
    modules = imports_of("--help")
    assert not modules & {"grpc", "google", "rich", "pydantic", "yaml", "opentelemetry", "logging", "asyncio"}
    assert not [module for module in modules if module.startswith("utilctl_cli.commands.")]


@pytest.mark.parametrize(
    ("arguments", "method", "response"),
    [
        (("get", "services", "-o", "json"), "ListServices", control_pb2.ListServicesResponse()),
        (("get", "hosts", "-o", "json"), "ListHosts", control_pb2.ListHostsResponse()),
        (("set-share", "svc=web", "3"), "SetShare", control_pb2.SetShareResponse()),
    ],
)
def test_what_prints_no_table_imports_no_rich_and_nothing_for_files_or_telemetry(
    stand_in: StartStandIn, arguments: tuple[str, ...], method: str, response: Any
) -> None:
    address, _ = stand_in({method: lambda *_: response})
    modules = imports_of(*arguments, "--controller", address)
    assert not modules & {"rich", "pydantic", "yaml", "opentelemetry", "utilctl_controller", "utilctl_agent"}


SERVICES = control_pb2.ListServicesResponse(
    services=[
        control_pb2.ServiceStatus(
            record=control_pb2.PolicyRecord(policy=common_pb2.Policy(see=f"svc=s{number}", share=1, mode="auto"))
        )
        for number in range(500)
    ]
)


@pytest.mark.parametrize("output", ["json", "table"])
def test_a_reader_that_went_away_ends_the_command_quietly(stand_in: StartStandIn, output: str) -> None:
    address, _ = stand_in({"ListServices": lambda *_: SERVICES})
    read_end, write_end = os.pipe()
    os.close(read_end)
    try:
        ran = subprocess.run(
            [*UTILCTL, "get", "services", "-o", output, "--controller", address],
            stdout=write_end, stderr=subprocess.PIPE, text=True, timeout=60,
        )  # fmt: skip
    finally:
        os.close(write_end)
    assert (ran.returncode, ran.stderr) == (141, "")


def test_help_into_a_closed_pipe_is_quiet() -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    try:
        ran = subprocess.run([*UTILCTL, "--help"], stdout=write_end, stderr=subprocess.PIPE, text=True, timeout=60)
    finally:
        os.close(write_end)
    assert (ran.returncode, ran.stderr) == (141, "")


def test_a_full_disk_is_one_line(stand_in: StartStandIn) -> None:
    address, _ = stand_in({"ListServices": lambda *_: SERVICES})
    with open("/dev/full", "w") as full:  # noqa: PTH123 - a device, not a file
        ran = subprocess.run(
            [*UTILCTL, "get", "services", "--controller", address],
            stdout=full, stderr=subprocess.PIPE, text=True, timeout=60,
        )  # fmt: skip
    assert ran.returncode == 1
    assert ran.stderr.startswith("utilctl: error: cannot write the output: No space left on device")
    assert ran.stderr.count("\n") == 1


def test_a_closed_standard_output_does_no_harm(stand_in: StartStandIn) -> None:
    address, _ = stand_in({"ListServices": lambda *_: SERVICES})
    ran = subprocess.run(
        ["sh", "-c", 'exec "$@" >&-', "sh", *UTILCTL, "get", "services", "--controller", address],
        stderr=subprocess.PIPE, text=True, timeout=60,
    )  # fmt: skip
    assert (ran.returncode, ran.stderr) == (0, "")


def test_a_terminal_that_cannot_show_a_reason_gets_it_escaped(utilctl_process: Run, stand_in: StartStandIn) -> None:
    entry = control_pb2.HistoryEntry(see="svc=web", changed_by="bob", reason="日本")
    address, _ = stand_in({"ListHistory": lambda *_: control_pb2.ListHistoryResponse(entries=[entry])})
    ran = utilctl_process("history", "--controller", address, PYTHONIOENCODING="latin-1")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "\\u65e5\\u672c" in ran.stdout


def test_piped_tables_hold_no_colour_codes_even_where_colour_is_forced(
    utilctl_process: Run, stand_in: StartStandIn
) -> None:
    address, _ = stand_in({"ListServices": lambda *_: SERVICES})
    ran = utilctl_process(
        "get", "services", "--controller", address, FORCE_COLOR="1", CLICOLOR_FORCE="1", TERM="xterm-256color"
    )
    assert ran.returncode == 0
    assert "\x1b" not in ran.stdout
    assert "svc=s499" in ran.stdout


@pytest.fixture
def collector() -> Iterator[tuple[str, list[trace_service_pb2.ExportTraceServiceRequest]]]:
    """An OTLP collector: its endpoint, and what it was sent."""
    received: list[trace_service_pb2.ExportTraceServiceRequest] = []

    def export(request: trace_service_pb2.ExportTraceServiceRequest, context: Any) -> Any:
        received.append(request)
        return trace_service_pb2.ExportTraceServiceResponse()

    handler = grpc.unary_unary_rpc_method_handler(
        export,
        request_deserializer=trace_service_pb2.ExportTraceServiceRequest.FromString,
        response_serializer=trace_service_pb2.ExportTraceServiceResponse.SerializeToString,
    )
    server = grpc.server(futures.ThreadPoolExecutor(1))
    server.add_generic_rpc_handlers(
        (
            grpc.method_handlers_generic_handler(
                "opentelemetry.proto.collector.trace.v1.TraceService", {"Export": handler}
            ),
        )
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"http://127.0.0.1:{port}", received
    server.stop(None).wait()


def spans_of(received: list[trace_service_pb2.ExportTraceServiceRequest]) -> list[Any]:
    return [
        span
        for request in received
        for resource in request.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]


def test_the_trace_of_a_command_begins_in_the_command_line_and_goes_on_in_the_controller(
    utilctl_process: Run, stand_in: StartStandIn, collector: tuple[str, list[Any]]
) -> None:
    endpoint, received = collector
    address, service = stand_in({"SetShare": lambda *_: control_pb2.SetShareResponse()})
    ran = utilctl_process("set-share", "svc=web", "3", "--controller", address, OTEL_EXPORTER_OTLP_ENDPOINT=endpoint)
    assert (ran.returncode, ran.stderr) == (0, "")
    spans = {span.name: span for span in spans_of(received)}
    root = spans["utilctl set-share"]
    call = spans["utilctl_proto.v1.ControlService/SetShare"]
    assert root.parent_span_id == b""
    assert call.parent_span_id == root.span_id
    trace_id, span_id = str(service.metadata[0]["traceparent"]).split("-")[1:3]
    assert (trace_id, span_id) == (call.trace_id.hex(), call.span_id.hex())
    assert root.trace_id == call.trace_id


def test_a_failed_command_is_a_failed_span_and_still_one_line(
    utilctl_process: Run, stand_in: StartStandIn, collector: tuple[str, list[Any]]
) -> None:
    endpoint, received = collector
    address, _ = stand_in({"Explain": lambda _, context: context.abort(grpc.StatusCode.NOT_FOUND, "no service x=y")})
    ran = utilctl_process("explain", "x=y", "--controller", address, OTEL_EXPORTER_OTLP_ENDPOINT=endpoint)
    assert (ran.returncode, ran.stderr) == (1, "utilctl: error: no service x=y\n")
    root = next(span for span in spans_of(received) if span.name == "utilctl explain")
    assert root.status.message == "no service x=y"
    assert not root.events


def test_a_collector_that_is_not_there_is_never_mentioned(utilctl_process: Run, stand_in: StartStandIn) -> None:
    address, _ = stand_in({"ListHosts": lambda *_: control_pb2.ListHostsResponse()})
    ran = utilctl_process("get", "hosts", "--controller", address, OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:1")
    assert (ran.returncode, ran.stderr) == (0, "")


def test_without_a_collector_no_trace_context_is_sent(utilctl_process: Run, stand_in: StartStandIn) -> None:
    address, service = stand_in({"ListHosts": lambda *_: control_pb2.ListHostsResponse()})
    assert utilctl_process("get", "hosts", "--controller", address).returncode == 0
    assert "traceparent" not in service.metadata[0]
