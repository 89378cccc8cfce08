"""Running utilctl in this process and as a process, and a stand-in controller for what a real one cannot be made to do.

The stand-in serves the real ControlService over real gRPC; only its answers are scripted.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest

from utilctl_cli.main import main
from utilctl_proto.v1 import control_pb2_grpc

Ran = subprocess.CompletedProcess[str]
Answer = Callable[[Any, grpc.ServicerContext], Any]


@pytest.fixture(autouse=True)
def _no_outside_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("UTILCTL_", "OTEL_")) or name in ("COLUMNS", "FORCE_COLOR", "NO_COLOR"):
            monkeypatch.delenv(name)


@pytest.fixture
def utilctl(capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """Run the command line in this process: exit code, standard output and standard error."""

    def run(*arguments: str) -> Ran:
        code = main(arguments)
        out, err = capsys.readouterr()
        return subprocess.CompletedProcess(arguments, code, out, err)

    return run


@pytest.fixture
def utilctl_process() -> Callable[..., Ran]:
    """Run the command line as a process."""

    def run(*arguments: str, **environment: str) -> Ran:
        return subprocess.run(
            [sys.executable, "-m", "utilctl_cli.main", *arguments],
            capture_output=True, text=True, timeout=60, env={**os.environ, **environment},
        )  # fmt: skip

    return run


@dataclass
class StandIn(control_pb2_grpc.ControlServiceServicer):
    """Answers by method name; records what it was asked."""

    answers: dict[str, Answer]
    requests: list[Any] = field(default_factory=list)
    metadata: list[dict[str, str | bytes]] = field(default_factory=list)

    def _answer(self, method: str, request: Any, context: grpc.ServicerContext) -> Any:
        self.requests.append(request)
        self.metadata.append({item[0]: item[1] for item in context.invocation_metadata()})
        if method not in self.answers:
            context.abort(grpc.StatusCode.UNIMPLEMENTED, "")
        return self.answers[method](request, context)

    def SetShare(self, request: Any, context: Any) -> Any:  # noqa: N802 - the service's name
        return self._answer("SetShare", request, context)

    def DeleteSee(self, request: Any, context: Any) -> Any:  # noqa: N802 - the service's name
        return self._answer("DeleteSee", request, context)

    def ListServices(self, request: Any, context: Any) -> Any:  # noqa: N802 - the service's name
        return self._answer("ListServices", request, context)

    def ListHosts(self, request: Any, context: Any) -> Any:  # noqa: N802 - the service's name
        return self._answer("ListHosts", request, context)

    def GetShare(self, request: Any, context: Any) -> Any:  # noqa: N802 - the service's name
        return self._answer("GetShare", request, context)

    def Explain(self, request: Any, context: Any) -> Any:  # noqa: N802 - the service's name
        return self._answer("Explain", request, context)

    def ListHistory(self, request: Any, context: Any) -> Any:  # noqa: N802 - the service's name
        return self._answer("ListHistory", request, context)

    def Apply(self, request: Any, context: Any) -> Any:  # noqa: N802 - the service's name
        return self._answer("Apply", request, context)

    def ListPolicies(self, request: Any, context: Any) -> Any:  # noqa: N802 - the service's name
        return self._answer("ListPolicies", request, context)

    def Hold(self, request: Any, context: Any) -> Any:  # noqa: N802 - the service's name
        return self._answer("Hold", request, context)

    def Release(self, request: Any, context: Any) -> Any:  # noqa: N802 - the service's name
        return self._answer("Release", request, context)

    def SetEnabled(self, request: Any, context: Any) -> Any:  # noqa: N802 - the service's name
        return self._answer("SetEnabled", request, context)

    def PlanLive(self, request: Any, context: Any) -> Any:  # noqa: N802 - the service's name
        return self._answer("PlanLive", request, context)


@pytest.fixture
def stand_in() -> Iterator[Callable[[dict[str, Answer]], tuple[str, StandIn]]]:
    """Start stand-in controllers; each call returns its address and itself."""
    servers: list[grpc.Server] = []

    def start(answers: dict[str, Answer]) -> tuple[str, StandIn]:
        server = grpc.server(futures.ThreadPoolExecutor(2))
        service = StandIn(answers)
        control_pb2_grpc.add_ControlServiceServicer_to_server(service, server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        servers.append(server)
        return f"127.0.0.1:{port}", service

    yield start
    stopped: list[threading.Event] = [server.stop(None) for server in servers]
    for event in stopped:
        event.wait()
