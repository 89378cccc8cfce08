"""Finding a controller, waiting for it, and what its answers mean; on real gRPC with scripted answers."""

from __future__ import annotations

import itertools
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest

from utilctl_proto.v1 import common_pb2, control_pb2

Run = Callable[..., subprocess.CompletedProcess[str]]
StartStandIn = Callable[[dict[str, Any]], tuple[str, Any]]


@pytest.fixture
def dead_address() -> Iterator[str]:
    """An address that refuses: bound, so that nobody else gets it, and not listening."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{holder.getsockname()[1]}"


@pytest.fixture
def silent_address() -> Iterator[str]:
    """An address that takes connections and never says a word."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield f"127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture
def web_server_address() -> Iterator[str]:
    """An address where something else than a controller answers every connection."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(1000)
                    connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(5)


def answer(response: Any) -> Callable[[Any, Any], Any]:
    return lambda request, context: response


def refuse(code: grpc.StatusCode, details: str) -> Callable[[Any, Any], Any]:
    return lambda request, context: context.abort(code, details)


def assert_error(ran: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    assert ran.returncode == code, ran.stderr
    assert ran.stdout == ""
    assert ran.stderr.startswith("utilctl: error: ")
    assert ran.stderr.count("\n") == 1
    for word in words:
        assert word in ran.stderr


SOME_WRITE = control_pb2.SetShareResponse(
    record=control_pb2.PolicyRecord(policy=common_pb2.Policy(see="svc=web", share=3, mode="auto"), version=1),
    changed=True,
)


@pytest.mark.parametrize(
    "command",
    [("get", "services"), ("get", "hosts"), ("get", "share", "svc=web"), ("explain", "svc=web"), ("history",),
     ("set-share", "svc=web", "3"), ("delete", "svc=web")],
)  # fmt: skip
@pytest.mark.parametrize("output", ["json", "table"])
def test_a_controller_that_is_not_there_is_named_with_how_to_start_one(
    utilctl: Run, dead_address: str, command: tuple[str, ...], output: str
) -> None:
    ran = utilctl(*command, "--controller", dead_address, "-o", output)
    assert_error(ran, 3, f"{dead_address} (connection refused)", f"utilctl-controller --listen {dead_address}")


def test_every_address_that_was_tried_is_named(
    utilctl: Run, dead_address: str, silent_address: str, web_server_address: str
) -> None:
    addresses = (dead_address, silent_address, web_server_address, "controller.invalid:7400")
    ran = utilctl("get", "services", "--controller", ",".join(addresses), "--timeout", "1200ms")
    assert_error(
        ran, 3, f"{dead_address} (connection refused)", f"{silent_address} (", f"{web_server_address} (does not speak"
        " gRPC)", "controller.invalid:7400 (",
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["dead_address", "silent_address", "web_server_address"])
@pytest.mark.parametrize("command", [("get", "services"), ("set-share", "svc=web", "3")])
def test_reads_and_writes_go_on_to_the_next_address_when_one_was_never_reached(
    utilctl: Run, stand_in: StartStandIn, request: pytest.FixtureRequest, kind: str, command: tuple[str, ...]
) -> None:
    address, service = stand_in(
        {"ListServices": answer(control_pb2.ListServicesResponse()), "SetShare": answer(SOME_WRITE)}
    )
    first = request.getfixturevalue(kind)
    ran = utilctl(*command, "--controller", f"{first},{address}")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert len(service.requests) == 1


def test_the_environment_names_the_controller_and_the_option_overrides_it(
    utilctl: Run, stand_in: StartStandIn, dead_address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, _ = stand_in({"ListHosts": answer(control_pb2.ListHostsResponse())})
    monkeypatch.setenv("UTILCTL_CONTROLLER", address)
    assert utilctl("get", "hosts").returncode == 0
    assert utilctl("get", "hosts", "--controller", dead_address).returncode == 3


def test_a_web_proxy_in_the_environment_is_not_asked(
    utilctl_process: Run, stand_in: StartStandIn, dead_address: str
) -> None:
    address, _ = stand_in({"ListHosts": answer(control_pb2.ListHostsResponse())})
    proxies = {"http_proxy": f"http://{dead_address}", "https_proxy": f"http://{dead_address}", "no_proxy": ""}
    ran = utilctl_process("get", "hosts", "--controller", address, **proxies)
    assert (ran.returncode, ran.stderr) == (0, "")


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, 2),
        (grpc.StatusCode.NOT_FOUND, 1),
        (grpc.StatusCode.FAILED_PRECONDITION, 1),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, 1),
        (grpc.StatusCode.INTERNAL, 1),
        (grpc.StatusCode.ABORTED, 4),
        (grpc.StatusCode.ALREADY_EXISTS, 4),
        (grpc.StatusCode.UNAVAILABLE, 3),
    ],
)
@pytest.mark.parametrize("command", [("explain", "svc=web"), ("set-share", "svc=web", "3")])
def test_a_refusal_keeps_the_controllers_words_and_gets_its_exit_code(
    utilctl: Run, stand_in: StartStandIn, status: grpc.StatusCode, code: int, command: tuple[str, ...]
) -> None:
    words = "this is what happened; do that next"
    address, service = stand_in({"Explain": refuse(status, words), "SetShare": refuse(status, words)})
    ran = utilctl(*command, "--controller", address)
    assert_error(ran, code)
    assert ran.stderr == f"utilctl: error: {words}\n"
    assert len(service.requests) == 1


def test_a_refusal_that_holds_terminal_escapes_and_newlines_is_one_harmless_line(
    utilctl: Run, stand_in: StartStandIn
) -> None:
    address, _ = stand_in({"Explain": refuse(grpc.StatusCode.NOT_FOUND, "a\x1b[31m\nb\rc")})
    ran = utilctl("explain", "svc=web", "--controller", address)
    assert ran.stderr == "utilctl: error: a\\x1b[31m b c\n"


def test_a_refusal_without_words_names_the_status(utilctl: Run, stand_in: StartStandIn) -> None:
    address, _ = stand_in({"Explain": refuse(grpc.StatusCode.DATA_LOSS, "")})
    assert_error(utilctl("explain", "svc=web", "--controller", address), 1, address, "DATA_LOSS")


def test_a_controller_that_does_not_know_the_request_is_to_be_upgraded(utilctl: Run, stand_in: StartStandIn) -> None:
    address, _ = stand_in({})
    assert_error(utilctl("history", "--controller", address), 1, address, "upgrade")


def hang(request: Any, context: grpc.ServicerContext) -> Any:
    over = threading.Event()
    context.add_callback(over.set)
    over.wait(30)
    return control_pb2.ListServicesResponse()


def test_a_read_that_gets_no_answer_in_time_says_so(utilctl: Run, stand_in: StartStandIn) -> None:
    address, _ = stand_in({"ListServices": hang})
    ran = utilctl("get", "services", "--controller", address, "--timeout", "300ms")
    assert_error(ran, 3, f"{address} (no answer within 0.3s)")


def test_a_read_that_gets_no_answer_goes_on_to_the_next_address(utilctl: Run, stand_in: StartStandIn) -> None:
    first, _ = stand_in({"ListServices": hang})
    second, _ = stand_in({"ListServices": answer(control_pb2.ListServicesResponse())})
    ran = utilctl("get", "services", "--controller", f"{first},{second}", "--timeout", "2s")
    assert (ran.returncode, ran.stderr) == (0, "")


def test_a_write_that_gets_no_answer_is_not_repeated_and_says_that_its_outcome_is_unknown(
    utilctl: Run, stand_in: StartStandIn
) -> None:
    first, _ = stand_in({"SetShare": hang})
    second, other = stand_in({"SetShare": answer(SOME_WRITE)})
    ran = utilctl("set-share", "svc=web", "3", "--controller", f"{first},{second}", "--timeout", "1s")
    assert_error(ran, 3, first, "may or may not have been made", "utilctl history")
    assert other.requests == []


DYING_CONTROLLER = """
import os, sys
from concurrent import futures
import grpc
handlers = {name: grpc.unary_unary_rpc_method_handler(lambda request, context: os._exit(1))
            for name in ("SetShare", "ListServices")}
server = grpc.server(futures.ThreadPoolExecutor(1))
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("utilctl_proto.v1.ControlService", handlers),))
print(server.add_insecure_port("127.0.0.1:0"), flush=True)
server.start()
sys.stdin.read()
"""


@pytest.fixture
def dying_address() -> Iterator[str]:
    """A controller process that dies of the first request."""
    with subprocess.Popen(
        [sys.executable, "-c", DYING_CONTROLLER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        yield f"127.0.0.1:{int(process.stdout.readline())}"
        process.kill()


def test_a_write_is_not_repeated_when_the_controller_dies_over_it(
    utilctl: Run, stand_in: StartStandIn, dying_address: str
) -> None:
    second, other = stand_in({"SetShare": answer(SOME_WRITE)})
    ran = utilctl("set-share", "svc=web", "3", "--controller", f"{dying_address},{second}")
    assert_error(ran, 3, dying_address, "went away", "may or may not have been made")
    assert other.requests == []


def test_a_read_is_repeated_when_the_controller_dies_over_it(
    utilctl: Run, stand_in: StartStandIn, dying_address: str
) -> None:
    second, _ = stand_in({"ListServices": answer(control_pb2.ListServicesResponse())})
    ran = utilctl("get", "services", "--controller", f"{dying_address},{second}")
    assert (ran.returncode, ran.stderr) == (0, "")


STOPPED_OVER_IT = {
    "cancelled": (grpc.StatusCode.CANCELLED, "CANCELLED"),
    "all cancelled": (grpc.StatusCode.UNAVAILABLE, "Cancelling all calls"),
}


@pytest.mark.parametrize("how", STOPPED_OVER_IT)
def test_a_write_is_not_repeated_when_the_controller_stops_over_it_and_its_outcome_is_unknown(
    utilctl: Run, stand_in: StartStandIn, how: str
) -> None:
    first, _ = stand_in({"SetShare": refuse(*STOPPED_OVER_IT[how])})
    second, other = stand_in({"SetShare": answer(SOME_WRITE)})
    ran = utilctl("set-share", "svc=web", "3", "--controller", f"{first},{second}")
    assert_error(ran, 3, first, "may or may not have been made", "utilctl history")
    assert other.requests == []


@pytest.mark.parametrize("how", STOPPED_OVER_IT)
def test_a_read_is_repeated_when_the_controller_stops_over_it(utilctl: Run, stand_in: StartStandIn, how: str) -> None:
    first, _ = stand_in({"ListServices": refuse(*STOPPED_OVER_IT[how])})
    second, _ = stand_in({"ListServices": answer(control_pb2.ListServicesResponse())})
    ran = utilctl("get", "services", "--controller", f"{first},{second}")
    assert (ran.returncode, ran.stderr) == (0, "")


def test_ctrl_c_while_waiting_is_quiet(stand_in: StartStandIn) -> None:
    asked = threading.Event()

    def hang_and_tell(request: Any, context: grpc.ServicerContext) -> Any:
        asked.set()
        return hang(request, context)

    address, _ = stand_in({"ListServices": hang_and_tell})
    with subprocess.Popen(
        [sys.executable, "-m", "utilctl_cli.main", "get", "services", "--controller", address, "--timeout", "60s"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ),
    ) as process:  # fmt: skip
        try:
            assert asked.wait(60)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert (process.returncode, out, err) == (130, "", "")


def test_a_write_says_who_why_and_what_and_leaves_out_what_is_to_stay(
    utilctl: Run, stand_in: StartStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, service = stand_in({"SetShare": answer(SOME_WRITE)})
    monkeypatch.setenv("UTILCTL_USER", "alice@ops")
    options = ("--controller", address)
    assert utilctl("set-share", "svc=web", "3", "--reason", "launch", "--if-version", "0", *options).returncode == 0
    assert utilctl("set-share", "svc=web", "--cap", "none", "--dry-run", *options).returncode == 0
    assert utilctl(
        "set-share", "svc=web", "--floor", "0.5", "--cap", "2", "--mode", "signal",
        "--match", "user=www-data,command=nginx", "--match", "unit=nginx.service", *options,
    ).returncode == 0  # fmt: skip
    assert utilctl("set-share", "svc=web", "--match", "none", *options).returncode == 0

    def matcher(**conditions: str) -> common_pb2.Matcher:
        return common_pb2.Matcher(conditions=[common_pb2.Condition(key=k, value=v) for k, v in conditions.items()])

    see, by = "svc=web", "alice@ops"
    assert service.requests == [
        control_pb2.SetShareRequest(see=see, changed_by=by, share=3, reason="launch", if_version=0),
        control_pb2.SetShareRequest(see=see, changed_by=by, clear_cap=True, dry_run=True),
        control_pb2.SetShareRequest(
            see=see, changed_by=by, floor_cores=0.5, cap_cores=2, mode="signal", set_matchers=True,
            matchers=[matcher(command="nginx", user="www-data"), matcher(unit="nginx.service")],
        ),
        control_pb2.SetShareRequest(see=see, changed_by=by, set_matchers=True),
    ]  # fmt: skip


def test_without_an_override_a_write_is_made_by_user_at_host(utilctl: Run, stand_in: StartStandIn) -> None:
    address, service = stand_in({"SetShare": answer(SOME_WRITE)})
    utilctl("set-share", "svc=web", "3", "--controller", address)
    user, _, host = service.requests[0].changed_by.partition("@")
    assert user
    assert host == socket.gethostname()


def test_a_user_without_a_passwd_entry_is_named_by_number(
    utilctl: Run, stand_in: StartStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pwd

    def no_entry(uid: int) -> Any:
        raise KeyError(uid)

    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", no_entry)
    address, service = stand_in({"SetShare": answer(SOME_WRITE)})
    assert utilctl("set-share", "svc=web", "3", "--controller", address).returncode == 0
    assert service.requests[0].changed_by.startswith(f"uid-{os.getuid()}@")


def test_a_bad_name_in_the_environment_is_a_usage_error(
    utilctl: Run, dead_address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(os.environ, "UTILCTL_USER", "\udcff")
    ran = utilctl("delete", "svc=web", "--controller", dead_address)
    assert_error(ran, 2, "UTILCTL_USER", "UTF-8")


def test_large_answers_arrive_whole(utilctl: Run, stand_in: StartStandIn) -> None:
    names = [f"svc=s{number}" for number in range(20_000)]
    services = [
        control_pb2.ServiceStatus(
            record=control_pb2.PolicyRecord(policy=common_pb2.Policy(see=name, share=1), reason="r" * 300)
        )
        for name in names
    ]
    address, _ = stand_in({"ListServices": answer(control_pb2.ListServicesResponse(services=services))})
    ran = utilctl("get", "services", "-o", "json", "--controller", address)
    assert ran.returncode == 0
    assert all(itertools.starmap(str.__contains__, ((ran.stdout, f'"{name}"') for name in (names[0], names[-1]))))
