"""Messages between the loop and whoever steers it (link, or command line): JSON lines over a socket pair.

Never blocks the loop: what the other side does not take is kept up to a bound and then dropped, oldest first, whole
messages at a time. Messages are idempotent or cumulative, so a dropped one is made good by the next.
"""

from __future__ import annotations

import json
import socket
from collections import deque
from typing import Any, Final

MAX_BACKLOG_BYTES: Final = 8 * 1024 * 1024
"""Unsent bytes kept for a peer that does not read. Arbitrary: a few seconds of cycle logs of a thousand principals."""

Message = dict[str, Any]


class ChannelClosedError(Exception):
    """The other side is gone."""


class Channel:
    """One end of the socket pair. Non-blocking; register ``fileno()`` for reading in the caller's poll."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._incoming = bytearray()
        self._outgoing: deque[bytes] = deque()
        self._backlog_bytes = 0
        self._sent_of_first = 0
        self.dropped = 0

    @classmethod
    def from_fd(cls, fd: int) -> Channel:
        """Adopt an inherited descriptor."""
        return cls(socket.socket(fileno=fd))

    def fileno(self) -> int:
        """For select and poll."""
        return self._sock.fileno()

    @property
    def backlogged(self) -> bool:
        """Whether something waits to be sent."""
        return bool(self._outgoing)

    def send(self, message: Message) -> None:
        """Queue a message and send what the peer takes now. Raises ChannelClosedError."""
        data = json.dumps(message, separators=(",", ":")).encode() + b"\n"
        self._outgoing.append(data)
        self._backlog_bytes += len(data)
        while self._backlog_bytes > MAX_BACKLOG_BYTES and len(self._outgoing) > 1:
            # The first may be half sent; dropping it would tear a line apart.
            victim = 1 if self._sent_of_first else 0
            self._backlog_bytes -= len(self._outgoing[victim])
            del self._outgoing[victim]
            self.dropped += 1
        self.flush()

    def flush(self) -> bool:
        """Send what can be sent now; True if nothing is left. Raises ChannelClosedError."""
        while self._outgoing:
            first = self._outgoing[0]
            try:
                sent = self._sock.send(memoryview(first)[self._sent_of_first :])
            except BlockingIOError:
                return False
            except OSError as error:
                raise ChannelClosedError(str(error)) from None
            self._sent_of_first += sent
            if self._sent_of_first == len(first):
                self._outgoing.popleft()
                self._backlog_bytes -= len(first)
                self._sent_of_first = 0
        return True

    def receive(self) -> list[Message]:
        """Every whole message that has arrived. Raises ChannelClosedError at the end of the stream."""
        closed = False
        while True:
            try:
                data = self._sock.recv(1 << 20)
            except BlockingIOError:
                break
            except OSError as error:
                raise ChannelClosedError(str(error)) from None
            if not data:
                closed = True
                break
            self._incoming += data
        messages: list[Message] = []
        *lines, rest = self._incoming.split(b"\n")
        self._incoming = bytearray(rest)
        messages.extend(json.loads(line) for line in lines)
        if closed and not messages:
            raise ChannelClosedError("end of stream")
        return messages

    def close(self) -> None:
        """Idempotent."""
        self._sock.close()
