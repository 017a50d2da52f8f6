"""The standard health service; its answers also tell the coordinator's version."""

from __future__ import annotations

from typing import Any

import grpc.aio
from grpc_health.v1 import health_pb2
from grpc_health.v1._async import HealthServicer
from runlease.doctor.coordinator import VERSION_KEY
from runlease.version import __version__


class HealthService(HealthServicer):  # type: ignore[misc]  # its package has no types
    """Says whether a service serves."""

    async def Check(
        self, request: health_pb2.HealthCheckRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> health_pb2.HealthCheckResponse:
        """Answer; the version goes into the trailing metadata, where it needs no message of our own."""
        context.set_trailing_metadata(((VERSION_KEY, __version__),))
        return await super().Check(request, context)
