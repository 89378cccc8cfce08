"""Requests whose bytes are no message: refused with one line and counted, where the library would log a traceback.

On a stream the message counts as one without content, which the sessions refuse. A single call is refused here: without
content some of them would mean something.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final

import grpc
from google.protobuf.message import DecodeError

_LOG = logging.getLogger(__name__)

_NOISE: Final = object()


class NoiseInterceptor(grpc.aio.ServerInterceptor):
    """Comes first, so that nothing else sees what is no request."""

    def __init__(self, on_noise: Callable[[], None]) -> None:
        """on_noise: to count it."""
        self._on_noise = on_noise

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:  # noqa: ANN401 - a handler of any message types, or None for an unknown method
        """See grpc.aio.ServerInterceptor."""
        handler = await continuation(handler_call_details)
        if handler is None or handler.request_deserializer is None:
            return handler
        method, parse = str(handler_call_details.method), handler.request_deserializer
        if handler.request_streaming:
            return grpc.stream_stream_rpc_method_handler(
                handler.stream_stream,
                request_deserializer=lambda data: self._parsed(method, parse, data, parse(b"")),
                response_serializer=handler.response_serializer,
            )

        async def answer(request: Any, context: Any) -> Any:  # noqa: ANN401 - any message type
            if request is _NOISE:
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the request is no message of this program")
            return await handler.unary_unary(request, context)

        return grpc.unary_unary_rpc_method_handler(
            answer,
            request_deserializer=lambda data: self._parsed(method, parse, data, _NOISE),
            response_serializer=handler.response_serializer,
        )

    def _parsed(self, method: str, parse: Callable[[bytes], object], data: bytes, otherwise: object) -> object:
        try:
            return parse(data)
        except DecodeError:
            self._on_noise()
            _LOG.info("%s got %d bytes that are no message", method, len(data))
            return otherwise
