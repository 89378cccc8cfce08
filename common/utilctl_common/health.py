"""The gRPC health protocol (grpc.health.v1), by which Kubernetes and load balancers ask whether a program is well."""

from __future__ import annotations

from typing import Final

import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio

SERVING: Final = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING: Final = health_pb2.HealthCheckResponse.NOT_SERVING


class Health:
    """What a program says of itself. The service "" is the program; it serves as long as it answers."""

    def __init__(self, server: grpc.aio.Server) -> None:
        self._servicer = aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._servicer, server)

    async def set(self, service: str, *, serves: bool) -> None:
        """Say of one of its services whether it serves; those that watch are told."""
        await self._servicer.set(service, SERVING if serves else NOT_SERVING)
