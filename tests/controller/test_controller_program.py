"""The program itself: starting, telling where it serves, stopping, and refusing what it cannot do."""

from __future__ import annotations

import contextlib
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

from support.controller_server import FakeAgent
from utilctl_controller.store.sqlite import SqliteStore
from utilctl_controller.store.values import STORE_SCHEMA_VERSION
from utilctl_proto.v1 import agent_pb2, control_pb2, control_pb2_grpc

COMMAND = [sys.executable, "-m", "utilctl_controller.main"]


@contextmanager
def program(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A running program, gone after the block whatever happened."""
    process = subprocess.Popen([*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate(timeout=60)


def address_of(process: subprocess.Popen[str]) -> str:
    """The address in the line it prints when it serves."""
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith("utilctl-controller listening on 127.0.0.1:"), line
    return line.split()[-1]


def failing(*arguments: str) -> tuple[int, str]:
    """Exit status and the one line on standard error."""
    done = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=60)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it_cleanly_and_what_was_written_is_there_at_the_next_start(
    tmp_path: Path, number: signal.Signals
) -> None:
    arguments = ("--listen", "127.0.0.1:0", "--store", f"sqlite:{tmp_path}/policy.db", "--mode", "host")
    with program(*arguments) as process:
        address = address_of(process)
        with grpc.insecure_channel(address) as channel, FakeAgent(address) as agent:
            stub = control_pb2_grpc.ControlServiceStub(channel)
            stub.SetShare(control_pb2.SetShareRequest(see="svc=web", share=3))
            agent.send(hello=agent_pb2.Hello(host="host-a", capacity_cores=1, instance_id="first"))
            agent.newest()
            process.send_signal(number)
            assert process.wait(60) == 0
            assert agent.status()[0] is grpc.StatusCode.UNAVAILABLE
        assert process.stderr is not None
        assert process.stderr.read() == ""
    with program(*arguments) as process, grpc.insecure_channel(address_of(process)) as channel:
        stub = control_pb2_grpc.ControlServiceStub(channel)
        listed = stub.ListServices(control_pb2.ListServicesRequest())
        assert [service.record.policy.share for service in listed.services] == [3]
        assert listed.controller.epoch == 2


def test_a_port_in_use_is_one_clear_line(tmp_path: Path) -> None:
    with program("--listen", "127.0.0.1:0", "--store", f"sqlite:{tmp_path}/one.db") as process:
        address = address_of(process)
        status, error = failing("--listen", address, "--store", f"sqlite:{tmp_path}/two.db")
    assert status == 1
    assert address in error
    assert len(error.splitlines()) == 1, error


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--store", "oracle:somewhere"),
        ("--store", "sqlite:"),
        ("--store", "sqlite:{folder}/policy.db", "--listen", "nowhere"),
        ("--store", "sqlite:{folder}/policy.db", "--listen", "127.0.0.1:99999"),
        ("--store", "sqlite:{folder}/policy.db", "--lease", "5"),
        ("--store", "sqlite:{folder}/policy.db", "--lease", "1s"),
        ("--store", "sqlite:{folder}/policy.db", "--report-interval", "0s"),
        ("--store", "sqlite:{folder}/policy.db", "--mode", "magic"),
    ],
)
def test_wrong_usage_exits_with_2_and_creates_nothing(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    status, error = failing(*(text.format(folder=tmp_path) for text in arguments))
    assert status == 2
    assert error
    assert not list(tmp_path.iterdir())


def test_an_absent_store_exits_with_3() -> None:
    status, error = failing("--listen", "127.0.0.1:0", "--store", "etcd:127.0.0.1:1")
    assert status == 3
    assert error.startswith("utilctl-controller: ")


def test_a_signal_ends_a_start_that_waits_for_an_absent_store(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    # The signal is sent once the program has its handlers, which nothing outside shows: it says so itself here.
    code = (
        "import asyncio, pathlib, utilctl_controller.main as m\n"
        "store = m.open_store\n"
        f"m.open_store = lambda *spec: (pathlib.Path({str(ready)!r}).touch(), store(*spec))[1]\n"
        "m.main()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, "--listen", "127.0.0.1:0", "--store", "etcd:127.0.0.1:1"],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        while not ready.exists():
            assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""
    finally:
        process.kill()
        process.communicate(timeout=60)


def test_a_store_of_a_newer_schema_is_one_clear_line(tmp_path: Path) -> None:
    path = tmp_path / "policy.db"
    SqliteStore(path).close()
    with contextlib.closing(sqlite3.connect(path)) as other, other:
        other.execute("UPDATE utilctl_store SET schema = ?", (STORE_SCHEMA_VERSION + 1,))
    status, error = failing("--listen", "127.0.0.1:0", "--store", f"sqlite:{path}")
    assert status == 1
    assert error == (f"utilctl-controller: store {path} has schema 3, this program knows 2; upgrade the controller\n")
