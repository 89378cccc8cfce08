"""What the demo plays: the worked example of the documentation, and the change in its middle. Pure values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

HOSTS: Final = ("host-a", "host-b")
PLACEMENT: Final[Mapping[str, tuple[str, ...]]] = {
    "svc=web": ("host-a",),
    "svc=etl": ("host-b",),
    "svc=batch": ("host-a", "host-b"),
}
"""Which service runs where: web only on the first host, etl only on the second, batch on both."""
FIRST_SHARES: Final[Mapping[str, float]] = {"svc=web": 3.0, "svc=etl": 1.0, "svc=batch": 2.0}
CHANGED_SHARE: Final = ("svc=etl", 4.0)
PROCESSES_EACH: Final = 2
"""Processes of a service on a host: a service is a group, not a process."""
TOLERANCE: Final = 0.05


@dataclass(frozen=True, slots=True)
class ServiceResult:
    """One service in one phase. Fractions are of the CPU that all services got together."""

    share: float
    entitlement_cores: float
    measured_cores: float
    relative_error: float
    per_host_shares_cores: float


@dataclass(frozen=True, slots=True)
class PhaseResult:
    """One phase: the shares in force and what came of them, by service."""

    shares: Mapping[str, float]
    services: Mapping[str, ServiceResult]

    @property
    def ok(self) -> bool:
        """Whether every service got its fraction within the tolerance."""
        return all(abs(service.relative_error) <= TOLERANCE for service in self.services.values())


def judge(
    shares: Mapping[str, float],
    entitlement_cores: Mapping[str, float],
    measured_cores: Mapping[str, float],
    per_host_shares_cores: Mapping[str, float],
) -> PhaseResult:
    """Compare measured with entitled fractions.

    Fractions, not cores: what the demo's own controller and display use is taken from all services alike.
    """
    total_entitled = sum(entitlement_cores.values())
    total_measured = sum(measured_cores.values())
    services: dict[str, ServiceResult] = {}
    for see, share in shares.items():
        entitled = entitlement_cores.get(see, 0.0)
        measured = measured_cores.get(see, 0.0)
        if entitled > 0 and total_measured > 0:
            error = (measured / total_measured) / (entitled / total_entitled) - 1.0
        else:
            error = 1.0
        services[see] = ServiceResult(share, entitled, measured, error, per_host_shares_cores.get(see, 0.0))
    return PhaseResult(dict(shares), services)
