"""From the project's errors to gRPC status codes: one clear line each, never a traceback."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Any, Final, TypeVar

import grpc

from utilctl_common.errors import (
    ConflictError,
    FailedError,
    NotLeadingError,
    UnreachableError,
    UsageError,
    UtilctlError,
)
from utilctl_common.redirect import redirection
from utilctl_controller.edits import NotFoundError

_LOG = logging.getLogger(__name__)

_MAX_DETAILS: Final = 1000
"""Longest message sent with a status, in characters: it travels as a header, and headers are small."""

_CODES: Final[tuple[tuple[type[UtilctlError], grpc.StatusCode], ...]] = (
    (NotFoundError, grpc.StatusCode.NOT_FOUND),
    (UsageError, grpc.StatusCode.INVALID_ARGUMENT),
    (ConflictError, grpc.StatusCode.ABORTED),
    (UnreachableError, grpc.StatusCode.UNAVAILABLE),
    (FailedError, grpc.StatusCode.FAILED_PRECONDITION),
)

Handler = TypeVar("Handler", bound=Callable[..., Awaitable[Any]])


def status_of(error: UtilctlError) -> tuple[grpc.StatusCode, str]:
    """The code and the line to send for ``error``."""
    code = next((code for kind, code in _CODES if isinstance(error, kind)), grpc.StatusCode.INTERNAL)
    return code, " ".join(str(error).split())[:_MAX_DETAILS]


def answering(handler: Handler) -> Handler:
    """Decorate a unary handler ``(self, request, context)`` so that what it raises becomes a status."""

    @wraps(handler)
    async def wrapped(self: object, request: object, context: grpc.aio.ServicerContext[Any, Any]) -> Any:  # noqa: ANN401 - any response
        redirected: tuple[tuple[str, str], ...] = ()
        try:
            return await handler(self, request, context)
        except UtilctlError as error:
            code, details = status_of(error)
            if isinstance(error, NotLeadingError):
                redirected = redirection(error.leader)
        except grpc.aio.AbortError:
            raise
        except Exception:  # noqa: BLE001 - the last line of defence; the caller must get one line
            _LOG.exception("%s failed", handler.__name__)
            code, details = grpc.StatusCode.INTERNAL, "internal error; see the controller's log"
        return await context.abort(code, details, redirected)

    return wrapped  # type: ignore[return-value] # wraps keeps the signature, which no type here can say
