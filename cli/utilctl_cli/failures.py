"""How a failure looks to the operator: one line that says what to do next, and an exit code.

The codes are a contract: 0 ok, 1 failed, 2 usage, 3 unreachable, 4 conflict. Ctrl-C and a reader that went
away (``| head``) are no errors; they end quietly with the codes that shells give to those signals.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final

import click

from utilctl_common.errors import FailedError, UtilctlError

INTERRUPTED: Final = 130
"""128 + SIGINT."""

OUTPUT_CLOSED: Final = 141
"""128 + SIGPIPE."""


class OutputError(FailedError):
    """Standard output does not take what was written, for example because the disk is full."""


@dataclass(frozen=True, slots=True)
class Failure:
    """The line for standard error, without its newline, and the exit code."""

    text: str
    exit_code: int
    output_is_broken: bool = False


def describe_failure(error: Exception) -> Failure:
    """The line and the code for ``error``. With UTILCTL_DEBUG set, unexpected errors keep their traceback."""
    if isinstance(error, UtilctlError):
        return Failure(_line(str(error)), error.exit_code, isinstance(error, OutputError))
    if isinstance(error, click.UsageError):
        return Failure(_line(_usage_message(error)), 2)
    if isinstance(error, click.ClickException):
        return Failure(_line(error.format_message()), error.exit_code)
    if os.environ.get("UTILCTL_DEBUG"):
        raise error
    what = f"internal error: {type(error).__name__}: {error}"
    return Failure(_line(f"{what}; set UTILCTL_DEBUG=1, run it again and report the traceback"), 1)


def _usage_message(error: click.UsageError) -> str:
    message = error.format_message().rstrip(".")
    message = message[:1].lower() + message[1:]
    if isinstance(error, click.NoSuchOption) and error.ctx and error.ctx.parent is None:
        message += ", options of a command stand after it"
    return f"{message}; see '{error.ctx.command_path} --help'" if error.ctx else message


def _line(message: str) -> str:
    return f"utilctl: error: {one_line(message)}"


def one_line(text: str) -> str:
    """``text`` on one line, with every other control character shown as an escape.

    What other users stored (reasons, names) must not be able to drive this operator's terminal.
    """
    joined = " ".join(text.split())
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in joined)
