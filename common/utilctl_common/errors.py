"""Typed errors: what went wrong, what to do next, and the exit code that says so.

The exit codes are part of the command-line contract: 0 ok, 1 failed, 2 usage, 3 unreachable, 4 conflict.
"""

from __future__ import annotations

from typing import ClassVar


class UtilctlError(Exception):
    """Base of every error that a user may see.

    ``str(error)`` is one line: what happened and, after it, what to do next.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(f"{message}; {hint}" if hint else message)
        self.message = message
        self.hint = hint


class FailedError(UtilctlError):
    """The request was understood and could not be carried out."""


class UsageError(UtilctlError):
    """The request itself is wrong; repeating it unchanged cannot help."""

    exit_code = 2


class UnreachableError(UtilctlError):
    """A peer (controller, store) did not answer; nothing is known to have changed."""

    exit_code = 3


class NotLeadingError(UnreachableError):
    """Another controller leads, at ``leader``; empty: none is known. Nothing was done."""

    def __init__(self, leader: str) -> None:
        super().__init__(
            f"this controller does not lead, {leader} does" if leader else "no controller leads at the moment",
            hint=f"ask {leader}" if leader else "try again in a few seconds",
        )
        self.leader = leader


class ConflictError(UtilctlError):
    """Somebody else changed the same thing first; nothing was changed by this request."""

    exit_code = 4
