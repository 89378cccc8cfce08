"""Reaching a controller: which of the addresses answers, how long to wait, and what a failed call means.

Addresses are tried in turn; one that does not lead sends us to the one that does. While none leads, as for some
seconds after a leader is gone, they are asked again for as long as there is time. A read goes on to the next address
whenever one gives no answer. A write goes on only where the controller certainly did not get it; one that was cut off
is reported, never repeated. What a controller answers, a refusal too, is the answer.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar, cast

import grpc

from utilctl_cli.tracing import traced_channel
from utilctl_common.errors import ConflictError, FailedError, UnreachableError, UsageError, UtilctlError
from utilctl_common.quantities import NS_PER_MS, NS_PER_S
from utilctl_common.redirect import MOST_HOPS, leader_of
from utilctl_proto.v1.control_pb2_grpc import ControlServiceStub

Request = TypeVar("Request")
Response = TypeVar("Response")
Request_contra = TypeVar("Request_contra", contravariant=True)
Response_co = TypeVar("Response_co", covariant=True)

MAX_ANSWER_BYTES: Final = 256 * 1024 * 1024
"""Largest answer accepted. Arbitrary; 100,000 services on ten hosts each are about 100 MB."""

LEADERLESS_NS: Final = 200 * NS_PER_MS
"""Pause before everybody is asked again who leads. Arbitrary, well below what an election takes."""

_ERRORS: Final[dict[grpc.StatusCode, type[UtilctlError]]] = {
    grpc.StatusCode.INVALID_ARGUMENT: UsageError,
    grpc.StatusCode.OUT_OF_RANGE: UsageError,
    grpc.StatusCode.ABORTED: ConflictError,
    grpc.StatusCode.ALREADY_EXISTS: ConflictError,
    grpc.StatusCode.UNAVAILABLE: UnreachableError,
}
"""What a controller's answer means to the command line; whatever is not listed is a failure."""

# grpc has no other sign for these than the words of its C core (pinned; tests/cli hold them to it). Should
# the words change, a write ends in an error where it could have gone to the next address: the safe side.
_NEVER_SENT: Final = ("failed to connect to all addresses", "errors resolving", "DNS resolution failed")
_CUT_OFF: Final = (
    "Stream removed",
    "Socket closed",
    "Connection reset",
    "Broken pipe",
    "GOAWAY",
    "keepalive",
    "ping timeout",
    "recvmsg",
    "Cancelling all calls",
)


class Call(Protocol[Request_contra, Response_co]):
    """A unary call of the stub."""

    def __call__(self, request: Request_contra, *, timeout: float) -> Response_co:
        """Send and wait; ``timeout`` in seconds."""
        ...


class Transport:
    """Calls on the first controller that answers, all within ``timeout_ns`` from now. For one thread."""

    def __init__(self, addresses: tuple[str, ...], timeout_ns: int) -> None:
        self._addresses = addresses
        self._timeout_ns = timeout_ns
        self._deadline_ns = time.monotonic_ns() + timeout_ns

    def read(self, call: Callable[[ControlServiceStub], Call[Request, Response]], request: Request) -> Response:
        """Ask. Raises UnreachableError when no address answers in time, else what the answer says."""
        return self._try_each(call, request, is_write=False)

    def write(self, call: Callable[[ControlServiceStub], Call[Request, Response]], request: Request) -> Response:
        """Change something, at most once. Raises as ``read``; the error says where the outcome is unknown."""
        return self._try_each(call, request, is_write=True)

    def _try_each(
        self,
        call: Callable[[ControlServiceStub], Call[Request, Response]],
        request: Request,
        *,
        is_write: bool,
    ) -> Response:
        refusals: dict[str, str] = {}
        waiting = list(self._addresses)
        hops = 0
        leaderless = False
        while waiting:
            address = waiting.pop(0)
            # What is left is split evenly, so that an address that swallows packets leaves time for the next.
            left_ns = max(0, self._deadline_ns - time.monotonic_ns())
            budget_ns = left_ns // (len(waiting) + 1)
            with _channel(address, budget_ns) as channel:
                try:
                    return call(ControlServiceStub(traced_channel(channel)))(request, timeout=budget_ns / NS_PER_S)
                except grpc.RpcError as error:
                    code, details, leader = _status(error)
            if leader is not None:
                leaderless = True  # until the one it names, or another one, answers
                refusals[address] = f"does not lead, {leader} does" if leader else "knows of no leader"
                hops += 1
                if leader and hops <= MOST_HOPS:
                    waiting = [leader, *(other for other in waiting if other != leader)]
            else:
                silence = _silence(code, details, budget_ns)
                if silence is None:
                    raise _answer(code, details, address)
                if is_write and not silence.never_sent:
                    raise UnreachableError(
                        f"controller {address}: {silence.reason}, the change may or may not have been made",
                        hint="look with 'utilctl history' before repeating it",
                    )
                refusals[address] = silence.reason
            if not waiting and leaderless and time.monotonic_ns() + LEADERLESS_NS < self._deadline_ns:
                time.sleep(LEADERLESS_NS / NS_PER_S)
                waiting, hops, leaderless = list(self._addresses), 0, False
        if any("lead" in reason for reason in refusals.values()):
            raise UnreachableError(
                f"no controller leads: {', '.join(f'{at} {why}' for at, why in refusals.items())}",
                hint="try again in a few seconds",
            )
        raise UnreachableError(
            f"no controller answers at {', '.join(f'{at} ({why})' for at, why in refusals.items())}",
            hint=f"start one with 'utilctl-controller --listen {self._addresses[0]}', "
            "or name another with --controller or UTILCTL_CONTROLLER",
        )


def _status(error: grpc.RpcError) -> tuple[grpc.StatusCode, str, str | None]:
    """Code and words of a failed call, and the leader it names (empty: none; None: it was no redirection)."""
    # The error of a blocking call is a grpc.Call too, which the published types cannot say.
    call = cast("grpc.Call", error)
    return call.code(), (call.details() or "").strip(), leader_of(call.trailing_metadata())


def _channel(address: str, budget_ns: int) -> grpc.Channel:
    # Connecting may take half of the time, so that "not connected" and "connected but silent" stay distinct.
    connect_ms = max(1, budget_ns // 2 // NS_PER_MS)
    return grpc.insecure_channel(
        address,
        options=(
            ("grpc.max_receive_message_length", MAX_ANSWER_BYTES),
            # A proxy meant for web traffic does not lead to a controller.
            ("grpc.enable_http_proxy", 0),
            ("grpc.min_reconnect_backoff_ms", connect_ms),
            ("grpc.initial_reconnect_backoff_ms", connect_ms),
        ),
    )


@dataclass(frozen=True, slots=True)
class _Silence:
    """Why no answer came. ``never_sent``: the request certainly did not reach the controller."""

    reason: str
    never_sent: bool


def _silence(code: grpc.StatusCode, details: str, budget_ns: int) -> _Silence | None:
    """What a failed call says about the connection; None if the controller itself answered."""
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return _Silence(f"no answer within {budget_ns / NS_PER_S:.3g}s", never_sent=False)
    if code is grpc.StatusCode.CANCELLED:  # by a server that stops; not by us, whose calls end with us
        return _Silence("stopped before it answered", never_sent=False)
    if code is not grpc.StatusCode.UNAVAILABLE:
        return None
    if details.startswith(_NEVER_SENT):
        return _Silence(_why_not_connected(details), never_sent=True)
    if details.startswith(_CUT_OFF):
        return _Silence("went away before it answered", never_sent=False)
    return None


def _why_not_connected(details: str) -> str:
    for sign, reason in (
        ("onnection refused", "connection refused"),
        ("SETTINGS", "does not speak gRPC"),
        ("Failed parsing HTTP/2", "does not speak gRPC"),
        ("timed out", "connection timed out"),
        ("resolving", "unknown host name"),
        ("DNS", "unknown host name"),
    ):
        if sign in details:
            return reason
    return details.rpartition(": ")[2]


def _answer(code: grpc.StatusCode, details: str, address: str) -> UtilctlError:
    """The typed error for what a controller answered, in its own words where it gave any."""
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return FailedError(
            f"controller {address} does not know this request", hint="upgrade it to this utilctl's version"
        )
    message = details or f"controller {address} answered {code.name} without a reason"
    return _ERRORS.get(code, FailedError)(message)
