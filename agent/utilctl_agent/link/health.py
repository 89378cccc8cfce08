"""Tells whoever asks that the agent lives, and whether a controller is connected."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import grpc.aio

from utilctl_common.errors import FailedError
from utilctl_common.health import Health

CONNECTED: Final = "connected"
"""Service of the health protocol that serves while a controller is connected. Cut off, an agent goes on."""

_LOOK_S: Final = 1.0


class HealthServer:
    """Serves the health protocol at ``address``, HOST:PORT."""

    def __init__(self, address: str) -> None:
        self._address = address

    async def run(self, connected: Callable[[], bool]) -> None:
        """Serve until cancelled. Raises FailedError if the address is taken."""
        server = grpc.aio.server()
        health = Health(server)
        try:
            port = server.add_insecure_port(self._address)
        except RuntimeError:
            port = 0
        if port == 0:
            raise FailedError(f"cannot serve health at {self._address}", hint="is another program there?")
        await health.set("", serves=True)
        await health.set(CONNECTED, serves=connected())
        await server.start()
        try:
            known = connected()
            while True:
                await asyncio.sleep(_LOOK_S)
                if connected() != known:
                    known = connected()
                    await health.set(CONNECTED, serves=known)
        finally:
            await server.stop(None)
