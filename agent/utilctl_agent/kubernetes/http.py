"""GET over HTTP/1.1, on h11 for the protocol and asyncio's streams for the bytes: as much as lists and watches take.

A connection for each request: there is one in some five minutes. Nothing here knows of Kubernetes.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import h11

CONNECT_S: Final = 10.0
"""For the connection, TLS included."""
FIRST_ANSWER_S: Final = 60.0
"""From the request to the first line of its answer. API servers end requests that are no watches after a minute."""
CHUNK_BYTES: Final = 32 * 1024
MAX_HEADER_BYTES: Final = 64 * 1024
KEEPALIVE: Final = ((socket.TCP_KEEPIDLE, 30), (socket.TCP_KEEPINTVL, 10), (socket.TCP_KEEPCNT, 3))
"""A peer that vanished without a word is noticed after a minute, also where a watch has nothing to tell. Seconds."""


class HttpError(Exception):
    """No answer, or one that is none."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where requests go. ``tls`` None: in plain text. ``tls_name``: whose certificate is expected there."""

    host: str
    port: int
    tls: ssl.SSLContext | None
    tls_name: str

    @property
    def authority(self) -> str:
        """For the header Host."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Response:
    """An answer whose body is still to come; read it once, by ``body`` or ``lines``."""

    def __init__(self, reader: asyncio.StreamReader, protocol: h11.Connection) -> None:
        self._reader = reader
        self._protocol = protocol
        self.status = 0

    async def begin(self) -> None:
        """Read up to the body."""
        while True:
            event = await self._event()
            if isinstance(event, h11.Response):
                self.status = event.status_code
                return
            if not isinstance(event, h11.InformationalResponse):
                raise HttpError("the connection was closed before an answer")

    async def body(self, max_bytes: int, within_s: float) -> bytes:
        """All of it. Raises HttpError where it is longer, or takes longer."""
        parts = bytearray()
        try:
            async with asyncio.timeout(within_s):
                async for part in self._parts():
                    parts += part
                    if len(parts) > max_bytes:
                        raise HttpError(f"the answer has more than {max_bytes} bytes")
        except TimeoutError:
            raise HttpError(f"the answer was not complete within {within_s:g} s") from None
        return bytes(parts)

    async def lines(self, max_bytes: int, silence_s: float) -> AsyncIterator[bytes]:
        """Line by line as they come, without their ends. Raises HttpError after ``silence_s`` without a byte."""
        rest = bytearray()
        parts = self._parts()
        while True:
            try:
                async with asyncio.timeout(silence_s):
                    part = await anext(parts, None)
            except TimeoutError:
                raise HttpError(f"nothing was heard for {silence_s:g} s") from None
            if part is None:
                break
            searched = len(rest)
            rest += part
            while (end := rest.find(b"\n", searched)) >= 0:
                line = bytes(rest[:end])
                del rest[: end + 1]
                searched = 0
                if line.strip():
                    yield line
            if len(rest) > max_bytes:
                raise HttpError(f"a line has more than {max_bytes} bytes")
        if rest.strip():
            yield bytes(rest)

    async def _parts(self) -> AsyncIterator[bytes]:
        while True:
            event = await self._event()
            if isinstance(event, h11.Data):
                yield bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                return
            else:
                raise HttpError("the connection was closed within an answer")

    async def _event(self) -> h11.Event | None:
        """The next one; None where there will be none, after a body or another protocol's upgrade."""
        try:
            while True:
                event = self._protocol.next_event()
                if isinstance(event, h11.Event):
                    return event
                if event is h11.PAUSED:
                    return None
                self._protocol.receive_data(await self._reader.read(CHUNK_BYTES))
        except h11.RemoteProtocolError as error:
            raise HttpError(str(error)) from None
        except OSError as error:
            raise HttpError(_said(error)) from None


@asynccontextmanager
async def get(origin: Origin, target: str, headers: Mapping[str, str]) -> AsyncIterator[Response]:
    """GET ``target``, a path with a query; the connection is closed at the end. Raises HttpError."""
    try:
        async with asyncio.timeout(CONNECT_S):
            reader, writer = await asyncio.open_connection(
                origin.host,
                origin.port,
                ssl=origin.tls,
                server_hostname=origin.tls_name if origin.tls is not None else None,
                limit=CHUNK_BYTES,
            )
    except TimeoutError:
        raise HttpError(f"{origin.authority} did not answer within {CONNECT_S:g} s") from None
    except OSError as error:
        raise HttpError(f"{origin.authority}: {_said(error)}") from None
    try:
        _keep_alive(writer)
        protocol = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEADER_BYTES)
        try:
            request = h11.Request(
                method="GET",
                target=target,
                headers=[("Host", origin.authority), ("Connection", "close"), *headers.items()],
            )
            writer.write((protocol.send(request) or b"") + (protocol.send(h11.EndOfMessage()) or b""))
        except h11.LocalProtocolError as error:
            raise HttpError(f"such a request cannot be sent: {error}") from None
        response = Response(reader, protocol)
        try:
            async with asyncio.timeout(FIRST_ANSWER_S):
                await response.begin()
        except TimeoutError:
            raise HttpError(f"{origin.authority} took the request and did not answer it") from None
        yield response
    finally:
        writer.transport.abort()  # not close: a peer that is gone would be waited for


def _keep_alive(writer: asyncio.StreamWriter) -> None:
    connection = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in KEEPALIVE:
        connection.setsockopt(socket.IPPROTO_TCP, option, value)


def _said(error: OSError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message}"
    return error.strerror or str(error) or type(error).__name__
