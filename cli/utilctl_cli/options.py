"""Options that every command has, and the types of what operators type.

The types raise utilctl's own UsageError, so that a bad share reads the same here as from the controller.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

import click

from utilctl_cli.tracing import command_span
from utilctl_common.errors import UsageError
from utilctl_common.names import parse_see_name
from utilctl_common.quantities import NS_PER_S, parse_cores, parse_duration_ns, parse_share

DEFAULT_CONTROLLER: Final = "127.0.0.1:7400"
DEFAULT_TIMEOUT: Final = "5s"
MAX_TIMEOUT_NS: Final = 3600 * NS_PER_S
"""Longest wait for an answer. Arbitrary; nobody waits for longer at a prompt."""

MAX_VERSION: Final = 2**63 - 1
"""Largest version a store can hold."""

_ADDRESS: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):(\d{1,5})")

Function = TypeVar("Function", bound=Callable[..., object])


class TracedCommand(click.Command):
    """A command that is the root span of its trace when a collector is configured."""

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 - click's signature
        """Run the command inside its span."""
        with command_span(ctx.command_path):
            return super().invoke(ctx)


class Parsed(click.ParamType[object]):
    """A parameter type made of one of utilctl_common's parsers. ``name`` is shown in the help."""

    def __init__(self, name: str, parse: Callable[[str], object]) -> None:
        self.name = name
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> object:  # noqa: ANN401 - click's signature
        """Parse what was typed; a value that is parsed already passes. Raises UsageError."""
        return self._parse(value) if isinstance(value, str) else value


def parse_cap(text: str) -> float | None:
    """A cap in cores, or None for ``none``. Raises UsageError."""
    if text.lower() == "none":
        return None
    cap_cores = parse_cores(text, "cap")
    if cap_cores == 0:
        raise UsageError("cap is 0", hint="use a positive number of cores, or none for no cap")
    return cap_cores


def parse_addresses(text: str) -> tuple[str, ...]:
    """``HOST:PORT[,HOST:PORT...]`` as a tuple without repetitions. Raises UsageError."""
    addresses = [part.strip() for part in text.split(",")]
    for address in addresses:
        match = _ADDRESS.fullmatch(address)
        if not match or not 0 < int(match[2]) < 65536:
            raise UsageError(
                f"controller address {address!r} is not HOST:PORT",
                hint=f"write for example {DEFAULT_CONTROLLER} for --controller or UTILCTL_CONTROLLER",
            )
    return tuple(dict.fromkeys(addresses))


def parse_version(text: str) -> int:
    """A stored version, from 0. Raises UsageError."""
    if not re.fullmatch(r"[0-9]{1,19}", text) or int(text) > MAX_VERSION:
        raise UsageError(f"version {text!r} is not a stored version", hint="write for example 7")
    return int(text)


def parse_timeout_ns(text: str) -> int:
    """A duration of at most MAX_TIMEOUT_NS, in nanoseconds. Raises UsageError."""
    timeout_ns = parse_duration_ns(text)
    if timeout_ns > MAX_TIMEOUT_NS:
        raise UsageError(f"timeout {text!r} is too long", hint="use at most 1h, for example 5s")
    return timeout_ns


def parse_since(text: str) -> int:
    """A time to look back (``2h``) or an instant in ISO 8601, UTC unless it says otherwise, as ns since 1970.

    Raises UsageError.
    """
    with contextlib.suppress(UsageError):
        return max(0, time.time_ns() - parse_duration_ns(text))
    try:
        instant = datetime.fromisoformat(text)
        if instant.tzinfo is None:
            instant = instant.replace(tzinfo=UTC)
        unix_ns = int(instant.timestamp() * NS_PER_S)
    except (ValueError, OverflowError):
        raise UsageError(
            f"{text!r} is no time", hint="write for example 2h, or an instant such as 2026-11-22T12:00Z"
        ) from None
    return max(0, unix_ns)


def text_for_the_wire(what: str) -> Callable[[str], str]:
    """A parser that refuses text that is not valid Unicode, naming ``what``."""

    def parse(text: str) -> str:
        try:
            text.encode()
        except UnicodeEncodeError:
            raise UsageError(f"{what} is not valid UTF-8", hint="check the terminal's encoding") from None
        return text

    return parse


SEE = Parsed("service", parse_see_name)
SHARE = Parsed("share", parse_share)
FLOOR = Parsed("cores", lambda text: parse_cores(text, "floor"))
TIMEOUT_NS = Parsed("duration", parse_timeout_ns)
ADDRESSES = Parsed("addresses", parse_addresses)
VERSION = Parsed("version", parse_version)


def output_option(function: Function) -> Function:
    """Add ``-o json|table``."""
    return click.option(
        "-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True,
        help="Print for people or for programs.",
    )(function)  # fmt: skip


def controller_options(function: Function) -> Function:
    """Add ``--controller`` and ``--timeout`` (passed as ``timeout_ns``)."""
    address = click.option(
        "--controller", type=ADDRESSES, default=DEFAULT_CONTROLLER, envvar="UTILCTL_CONTROLLER",
        show_default=True, show_envvar=True, metavar="ADDR[,ADDR...]",
        help="Controllers, tried in turn.",
    )  # fmt: skip
    timeout = click.option(
        "--timeout", "timeout_ns", type=TIMEOUT_NS, default=DEFAULT_TIMEOUT, show_default=True,
        metavar="DURATION", help="How long to wait for an answer in all.",
    )  # fmt: skip
    return address(timeout(function))


def write_options(function: Function) -> Function:
    """Add ``--reason``, ``--if-version`` and ``--dry-run``."""
    reason = click.option(
        "--reason", type=Parsed("text", text_for_the_wire("reason")), default="", metavar="TEXT",
        help="Why; kept in the history.",
    )  # fmt: skip
    if_version = click.option(
        "--if-version", type=VERSION, metavar="N",
        help="Refuse unless the stored version is N; 0: unless the service is new.",
    )  # fmt: skip
    dry_run = click.option("--dry-run", is_flag=True, help="Check and show what would change; change nothing.")
    return reason(if_version(dry_run(function)))


def examples(*lines: str) -> str:
    """An epilog that shows ``lines`` as they are."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)
