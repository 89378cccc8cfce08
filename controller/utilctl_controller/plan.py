"""The offline planner behind ``utilctl plan``: a fleet described in a file, and its exact allocation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, TypedDict, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from utilctl_common.errors import UsageError
from utilctl_common.names import parse_see_name
from utilctl_common.quantities import MAX_CORES, check_share
from utilctl_controller.allocation.model import (
    Allocation,
    AllocationMode,
    AllocationProblem,
    HostCapacity,
    SeeClaim,
)
from utilctl_controller.allocation.solver import allocate


_Value = TypeVar("_Value")


def _checked(check: Callable[[_Value], _Value]) -> Callable[[_Value], _Value]:
    """``check`` for pydantic, which turns ValueErrors, not our UsageErrors, into located messages."""

    def checked(value: _Value) -> _Value:
        try:
            return check(value)
        except UsageError as error:
            raise ValueError(str(error)) from None

    return checked


def _number(value: object) -> object:
    """YAML 1.1 reads 1e3 as a text; people mean a number."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


_Cores = Annotated[float, BeforeValidator(_number), Field(ge=0, le=MAX_CORES, allow_inf_nan=False)]
_SomeCores = Annotated[float, BeforeValidator(_number), Field(gt=0, le=MAX_CORES, allow_inf_nan=False)]
_Share = Annotated[float, BeforeValidator(_number), AfterValidator(_checked(check_share))]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class PlannedHost(_Strict):
    """A host: its cores, and how many of them are used by what no service matches."""

    name: Annotated[str, Field(min_length=1, max_length=253)]
    cores: _SomeCores
    unclaimed: _Cores = 0.0


class PlannedService(_Strict):
    """A service: its policy figures and its demand by host, in cores."""

    name: Annotated[str, AfterValidator(_checked(parse_see_name))]
    share: _Share
    floor: _Cores = 0.0
    cap: _SomeCores | None = None
    demand: dict[str, _Cores] = {}

    @model_validator(mode="after")
    def _floor_below_cap(self) -> PlannedService:
        if self.cap is not None and self.floor > self.cap:
            raise ValueError(f"floor {self.floor:g} is above cap {self.cap:g}")
        return self


class PlannedFleet(_Strict):
    """The input of the planner."""

    mode: AllocationMode = "fleet"
    hosts: list[PlannedHost]
    services: list[PlannedService]

    @model_validator(mode="after")
    def _names(self) -> PlannedFleet:
        hosts = _unique([host.name for host in self.hosts], "host")
        _unique([service.name for service in self.services], "service")
        for service in self.services:
            unknown = sorted(set(service.demand) - hosts)
            if unknown:
                raise ValueError(f"{service.name} has demand on {unknown[0]!r}, which is not among the hosts")
        return self


def _unique(names: list[str], what: str) -> set[str]:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValueError(f"{what} {name} stands twice")
        seen.add(name)
    return seen


def problem_of(fleet: PlannedFleet) -> AllocationProblem:
    """The fleet as the allocation sees it."""
    return AllocationProblem(
        mode=fleet.mode,
        hosts=tuple(HostCapacity(host.name, max(0.0, host.cores - host.unclaimed)) for host in fleet.hosts),
        sees=tuple(
            SeeClaim(service.name, service.share, service.floor, service.cap, dict(service.demand))
            for service in fleet.services
        ),
    )


class PlannedServiceDocument(TypedDict):
    """One service of a plan: its cores in total and by host, and what keeps it from more."""

    name: str
    total: float
    hosts: dict[str, float]
    bottleneck: str


class PlanDocument(TypedDict):
    """The planner's JSON form. ``min_max_ratio``: of total to share, over services that want more and could get it."""

    mode: str
    services: list[PlannedServiceDocument]
    min_max_ratio: float
    notes: list[str]


def plan(fleet: PlannedFleet) -> PlanDocument:
    """The allocation in the planner's JSON form. Raises UsageError or AllocationError."""
    return document_of(allocate(problem_of(fleet)))


def document_of(allocation: Allocation) -> PlanDocument:
    """JSON form of an allocation; entitlements in cores."""
    return {
        "mode": allocation.mode,
        "services": [
            {
                "name": see.name,
                "total": see.total_cores,
                "hosts": dict(see.host_cores),
                "bottleneck": see.bottleneck,
            }
            for see in allocation.sees
        ],
        "min_max_ratio": allocation.min_max_ratio,
        "notes": list(allocation.notes),
    }
