"""``utilctl plan -f fleet.yaml``: the allocation of a fleet described in a file, without agents or a controller.

The file::

    mode: fleet            # fleet (default), fleet-with-floor or host
    hosts:
      - {name: a, cores: 4, unclaimed: 0.5}
    services:
      - {name: svc=web, share: 3, floor: 0.5, cap: 2, demand: {a: 1}}
      - {name: svc=web/class=gold, share: 2, demand: {a: 3}}
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final, Self, TypedDict

from pydantic import AfterValidator, Field, ValidationError, ValidationInfo, field_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from utilctl_common.file_values import Cores, Share, StrictModel, check_path
from utilctl_common.yaml_input import load_yaml
from utilctl_controller.allocation import (
    AllocationMode,
    AllocationProblem,
    HostCapacity,
    SeeClaim,
    allocate,
    unreachable,
)

_DECIMALS: Final = 9
"""Decimals of cores in the output: a billionth of a core, below anything a host can enforce."""


class PlanHost(StrictModel):
    """A host: its cores, and how many of them processes use that no service matches."""

    name: str = Field(min_length=1)
    cores: Cores
    unclaimed: Cores = 0.0


class PlanService(StrictModel):
    """A service, or a child by path: policy and demand by host, in cores."""

    name: Annotated[str, Field(min_length=1), AfterValidator(check_path)]
    share: Share
    floor: Cores = 0.0
    cap: Cores | None = None
    demand: dict[str, Cores] = Field(default_factory=dict)

    @field_validator("cap")
    @classmethod
    def _is_not_below_the_floor(cls, cap: float | None, info: ValidationInfo) -> float | None:
        floor = info.data.get("floor", 0.0)
        if cap is not None and cap < floor:
            raise ValueError(f"cap {cap:g} is below the floor {floor:g}; lower the floor or raise the cap")
        return cap


class PlanFleet(StrictModel):
    """The whole file."""

    mode: AllocationMode = "fleet"
    hosts: tuple[PlanHost, ...] = Field(strict=False)
    services: tuple[PlanService, ...] = Field(default=(), strict=False)

    @classmethod
    def model_validate(cls, obj: Any, **options: Any) -> Self:  # noqa: ANN401 - as in pydantic
        """As pydantic's, and names the very item that stands twice or names an unknown host."""
        fleet = super().model_validate(obj, **options)
        for where, what in fleet._contradictions():
            detail = InitErrorDetails(type=PydanticCustomError("fleet", "{what}", {"what": what}), loc=where, input=obj)
            raise ValidationError.from_exception_data(cls.__name__, [detail])
        return fleet

    def _contradictions(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """Where items of the file contradict each other, and how."""
        names = {"hosts": [host.name for host in self.hosts], "services": [see.name for see in self.services]}
        for field, listed in names.items():
            seen: set[str] = set()
            for position, name in enumerate(listed):
                if name in seen:
                    yield (field, position, "name"), f"{name!r} is listed twice; list it once"
                seen.add(name)
        hosts = {host.name for host in self.hosts}
        for position, service in enumerate(self.services):
            for host in service.demand:
                if host not in hosts:
                    yield ("services", position, "demand", host), f"host {host!r} is not listed; add it to hosts"


class ServicePlan(TypedDict):
    """One service in the output; cores, rounded to nine decimals."""

    name: str
    total: float
    hosts: dict[str, float]
    bottleneck: str


class Plan(TypedDict):
    """The output of ``utilctl plan -o json``."""

    mode: str
    services: list[ServicePlan]
    min_max_ratio: float
    notes: list[str]


def load_fleet(path: Path) -> PlanFleet:
    """Read a fleet file. Raises UsageError, one line that names the file, the line and the field."""
    return load_yaml(path, PlanFleet)


def plan(fleet: PlanFleet) -> Plan:
    """Allocate the fleet's capacity. Deterministic, whatever the order of hosts and services in the file.

    A host's capacity is its cores minus ``unclaimed``, at least 0. Raises AllocationError if the result cannot be
    verified.
    """
    problem = AllocationProblem(
        fleet.mode,
        tuple(HostCapacity(host.name, max(0.0, host.cores - host.unclaimed)) for host in fleet.hosts),
        tuple(SeeClaim(s.name, s.share, s.floor, s.cap, s.demand) for s in fleet.services),
    )
    allocation = allocate(problem)
    return {
        "mode": allocation.mode,
        "services": [
            {
                "name": see.name,
                "total": round(see.total_cores, _DECIMALS),
                "hosts": {host: round(cores, _DECIMALS) for host, cores in see.host_cores.items()},
                "bottleneck": see.bottleneck,
            }
            for see in allocation.sees
        ],
        "min_max_ratio": round(allocation.min_max_ratio, _DECIMALS),
        "notes": [*allocation.notes, *unreachable(problem)],
    }
