"""Log lines of real programs, as JSON for what collects them and as text for people."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from support.agents import agent, stop
from support.controller_server import RunningController
from support.processes import wait_until
from utilctl_common.logs import JsonFormatter
from utilctl_controller.store.sqlite import SqliteStore
from utilctl_proto.v1 import control_pb2, control_pb2_grpc

CONTROLLER = [sys.executable, "-m", "utilctl_controller.main", "--listen", "127.0.0.1:0"]
TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACEPARENT = f"00-{TRACE_ID}-00f067aa0ba902b7-01"


def lines_of(text: str) -> list[dict[str, Any]]:
    """Every line is a JSON object of the fields that all have."""
    lines: list[dict[str, Any]] = [json.loads(line) for line in text.splitlines()]
    for line in lines:
        assert list(line)[:5] == ["time", "level", "logger", "message", "host"]
        assert datetime.fromisoformat(line["time"]).utcoffset() == timedelta(0)
        assert line["level"] in ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
        assert ("trace_id" in line) == ("span_id" in line) == ("trace_flags" in line)
    return lines


@contextlib.contextmanager
def controller(folder: Path, *options: str) -> Iterator[Callable[[], str]]:
    """A controller that runs; what it has written to standard error so far."""
    log = folder / "controller.log"
    with log.open("w") as file:
        process = subprocess.Popen(
            [*CONTROLLER, "--store", f"sqlite:{folder}/policy.db", *options], stdout=subprocess.PIPE, stderr=file
        )
        try:
            yield log.read_text
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
            assert process.stdout is not None
            assert process.stdout.read() == b"", "nothing stands beside the lines of the log"
        finally:
            process.kill()
            process.communicate()


def test_a_controllers_lines_are_json_and_lead_to_the_trace_of_the_change(tmp_path: Path) -> None:
    with controller(tmp_path, "--log-format", "json", "--verbose") as written:
        wait_until(lambda: "listening on" in written(), "it serves")
        address = lines_of(written())[-1]["message"].split()[-1]
        with grpc.insecure_channel(address) as channel:
            stub = control_pb2_grpc.ControlServiceStub(channel)
            request = control_pb2.SetShareRequest(see="svc=web", share=3)
            stub.SetShare(request, metadata=(("traceparent", TRACEPARENT),))
        wait_until(lambda: "svc=web" in written(), "the change is logged")
    lines = lines_of(written())
    assert {line["host"] for line in lines} == {os.uname().nodename}
    (stored,) = [line for line in lines if line["message"] == "store.put of svc=web: done"]
    assert stored["trace_id"] == TRACE_ID
    assert stored["span_id"] != TRACEPARENT.split("-")[2], "that of its own span"
    assert "trace_id" not in next(line for line in lines if "listening on" in line["message"])


def test_why_a_controller_does_not_start_is_one_json_line(tmp_path: Path) -> None:
    (tmp_path / "policy.db").write_text("no database")
    argv = [*CONTROLLER, "--store", f"sqlite:{tmp_path}/policy.db", "--log-format", "json"]
    ran = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 3
    assert ran.stdout == ""
    (line,) = lines_of(ran.stderr)
    assert (line["level"], line["logger"]) == ("ERROR", "utilctl_controller")
    assert "policy.db" in line["message"]


@pytest.mark.kernel
def test_an_agents_lines_are_json_and_lead_to_the_trace_of_the_decision(tmp_path: Path) -> None:
    parent = subprocess.Popen(["sleep", "600"])
    try:
        with RunningController(SqliteStore(tmp_path / "policy.db")) as running:
            running.set_share("svc=web", 1)
            with agent(running, f"tree:{parent.pid}", "--log-format", "json") as command:
                wait_until(lambda: bool(running.control.ListHosts(control_pb2.ListHostsRequest()).hosts), "it connects")
                time.sleep(0.5)
                switch = control_pb2.SetEnabledRequest(enabled=False, changed_by="ada")
                running.control.SetEnabled(switch, metadata=(("traceparent", TRACEPARENT),))
                wait_until(lambda: "disabled by an operator" in command.errors(), "it is logged")
                outcome = stop(command)
    finally:
        parent.kill()
        parent.wait()
    lines = lines_of(outcome.stderr)
    assert {line["host"] for line in lines} == {"host-a"}
    assert any(line["message"].startswith("connected to controller") for line in lines)
    (disabled,) = [line for line in lines if "disabled by an operator" in line["message"]]
    assert (disabled["level"], disabled["logger"]) == ("WARNING", "utilctl_agent.link.app")
    assert disabled["trace_id"] == TRACE_ID


def record(message: str, **more: Any) -> logging.LogRecord:
    return logging.makeLogRecord({"name": "x", "levelname": "INFO", "msg": message, **more})


def test_what_strangers_put_into_a_message_stays_in_its_line() -> None:
    text = JsonFormatter("h").format(record('a\n{"level": "ERROR"}\x1b[31m \udcff "'))
    assert "\n" not in text
    assert text.isascii()
    assert "\x1b" not in text
    assert json.loads(text)["message"].startswith("a\n")


def test_an_exception_is_told_by_the_names_of_opentelemetry() -> None:
    try:
        raise OSError("no\nway")
    except OSError as error:
        text = JsonFormatter("h").format(record("it failed", exc_info=(type(error), error, error.__traceback__)))
    line = json.loads(text)
    assert (line["exception.type"], line["exception.message"]) == ("OSError", "no\nway")
    assert line["exception.stacktrace"].startswith("Traceback")


def test_the_current_span_is_named_as_opentelemetry_does() -> None:
    context = SpanContext(int(TRACE_ID, 16), 0xAB, is_remote=True, trace_flags=TraceFlags(1))
    with trace.use_span(NonRecordingSpan(context)):
        line = json.loads(JsonFormatter("h").format(record("x")))
    assert (line["trace_id"], line["span_id"], line["trace_flags"]) == (TRACE_ID, f"{0xAB:016x}", "01")


@pytest.mark.parametrize("threaded", [False, True])
def test_what_nobody_catches_is_one_json_line(*, threaded: bool) -> None:
    code = (
        "import logging, threading\n"
        "from utilctl_common.logs import set_up_logs\n"
        "set_up_logs('json', level=logging.INFO, text_format='', host='h')\n"
        "def fail(): raise KeyError('x')\n"
        + ("t = threading.Thread(target=fail, name='worker'); t.start(); t.join()" if threaded else "fail()")
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    (line,) = lines_of(ran.stderr)
    assert (line["level"], line["exception.type"]) == ("CRITICAL", "KeyError")
    assert line["message"].startswith("worker") == threaded
