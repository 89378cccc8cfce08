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
    """One service in one phase. ``relative_error`` compares its measured with its entitled fraction of the CPU that all
    services got together; ``planned_cores`` is what the shares give on two hosts that nobody else uses.
    """

    share: float
    entitlement_cores: float
    measured_cores: float
    relative_error: float
    planned_cores: float
    per_host_shares_cores: float


@dataclass(frozen=True, slots=True)
class PhaseResult:
    """One phase: the shares in force and what came of them, by service."""

    shares: Mapping[str, float]
    services: Mapping[str, ServiceResult]

    @property
    def ok(self) -> bool:
        """Whether all got their entitled fraction, and were entitled to their planned one, within the tolerance."""
        entitled = sum(service.entitlement_cores for service in self.services.values())
        if entitled <= 0:
            return False
        planned = sum(service.planned_cores for service in self.services.values())
        return all(
            abs(service.relative_error) <= TOLERANCE
            and abs(service.entitlement_cores / entitled / (service.planned_cores / planned) - 1.0) <= TOLERANCE
            for service in self.services.values()
        )


def judge(
    shares: Mapping[str, float],
    entitlement_cores: Mapping[str, float],
    measured_cores: Mapping[str, float],
    planned_cores: Mapping[str, float],
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
        services[see] = ServiceResult(share, entitled, measured, error, planned_cores[see], per_host_shares_cores[see])
    return PhaseResult(dict(shares), services)
