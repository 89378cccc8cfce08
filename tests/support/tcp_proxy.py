"""A TCP proxy on loopback that loses answers, refuses connections or is slow: a network that fails as a test wants."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
import time
from collections import deque
from types import TracebackType
from typing import Final

_CHUNK_BYTES: Final = 65_536
_POLL_S: Final = 0.02
"""How often the loop looks for orders. Arbitrary."""


class TcpProxy:
    """Forwards connections to a port on loopback. Use it in ``with``; ``port`` is where it listens."""

    def __init__(self, target_port: int) -> None:
        self._target = ("127.0.0.1", target_port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._refusing = False
        self._marker: bytes | None = None
        self._cut = threading.Event()
        self._stop = threading.Event()
        self._peers: dict[socket.socket, socket.socket] = {}
        self._clients: set[socket.socket] = set()
        self._mute: set[socket.socket] = set()
        self._delay_s = 0.0
        self._on_its_way: deque[tuple[float, socket.socket, bytes]] = deque()
        self._thread = threading.Thread(target=self._run, name="tcp-proxy")

    def __enter__(self) -> TcpProxy:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def lose_answers_to(self, marker: bytes) -> None:
        """From the moment that a client sends ``marker``, let nothing back to it; its requests still pass."""
        self._marker = marker

    def slow_down(self, delay_s: float) -> None:
        """From now on let everything take ``delay_s`` each way; 0 ends that."""
        self._delay_s = delay_s

    def refuse(self) -> None:
        """Hang up on every connection, and on every new one at once."""
        self._refusing = True
        self._hang_up_now()

    def restore(self) -> None:
        """Hang up on every connection and forward new ones."""
        self._refusing, self._marker = False, None
        self._hang_up_now()

    def _hang_up_now(self) -> None:
        self._cut.set()
        while self._cut.is_set() and self._thread.is_alive():
            self._stop.wait(_POLL_S)

    def _run(self) -> None:
        with selectors.DefaultSelector() as selector, self._listener:
            selector.register(self._listener, selectors.EVENT_READ)
            while not self._stop.is_set():
                if self._cut.is_set():
                    self._hang_up_on_all(selector)
                    self._cut.clear()
                self._deliver(selector)
                for key, _ in selector.select(_POLL_S):
                    assert isinstance(key.fileobj, socket.socket)
                    if key.fileobj is self._listener:
                        self._accept(selector)
                    elif key.fileobj in self._peers:
                        self._pass_on(selector, key.fileobj)
            self._hang_up_on_all(selector)

    def _accept(self, selector: selectors.BaseSelector) -> None:
        client, _ = self._listener.accept()
        try:
            if self._refusing:
                raise ConnectionRefusedError
            server = socket.create_connection(self._target)
        except OSError:
            client.close()
            return
        self._peers |= {client: server, server: client}
        self._clients.add(client)
        for side in (client, server):
            selector.register(side, selectors.EVENT_READ)

    def _pass_on(self, selector: selectors.BaseSelector, source: socket.socket) -> None:
        try:
            data = source.recv(_CHUNK_BYTES)
            if source in self._clients and self._marker is not None and self._marker in data:
                self._mute.add(self._peers[source])
        except OSError:
            data = b""
        if not data:
            self._hang_up(selector, source)
        elif source not in self._mute:
            self._on_its_way.append((time.monotonic() + self._delay_s, self._peers[source], data))
            self._deliver(selector)

    def _deliver(self, selector: selectors.BaseSelector) -> None:
        """Hand over what has been on its way for long enough; what is for a closed connection is lost."""
        while self._on_its_way and self._on_its_way[0][0] <= time.monotonic():
            _, target, data = self._on_its_way.popleft()
            if target in self._peers:
                try:
                    target.sendall(data)
                except OSError:
                    self._hang_up(selector, target)

    def _hang_up_on_all(self, selector: selectors.BaseSelector) -> None:
        for client in tuple(self._clients):
            self._hang_up(selector, client)

    def _hang_up(self, selector: selectors.BaseSelector, side: socket.socket) -> None:
        for end in (side, self._peers[side]):
            del self._peers[end]
            self._clients.discard(end)
            self._mute.discard(end)
            with contextlib.suppress(KeyError):
                selector.unregister(end)
            end.close()
