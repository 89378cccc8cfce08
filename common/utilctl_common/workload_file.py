"""Workload files: what ``utilctl predict -f`` reads.

The file::

    semantics: guarantee       # or cap, none: what a share means
    cores: 1
    workloads:
      - {name: svc=web, share: 3, utilization: 0.3, service_time_s: 0.05}
      - {name: svc=etl, share: 1, batch: true, service_time_s: 60}   # a process that always has work
      - {name: svc=shop, share: 2}                                     # a group; children by path
      - {name: svc=shop/tier=gold, share: 4, utilization: 0.1}

``utilization`` is in cores: arrivals a second times CPU seconds each. ``floor`` or ``cap``, in cores, may stand in the
place of a share. A group may have ``semantics`` of its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Self

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from utilctl_common.file_values import Cores, Share, StrictModel, check_path, number
from utilctl_common.names import parent_of
from utilctl_common.responsetime.model import MAX_CORES, Batch, Machine, Node, Semantics, Transactions
from utilctl_common.yaml_input import load_yaml

MAX_SERVICE_TIME_S: Final = 1e9
"""Longest service time. Arbitrary; some thirty years."""

MAX_WORKLOADS: Final = 5_000
"""Most entries of a file. Arbitrary; this many side by side take some seconds to compute."""

_RESERVATIONS: Final[Mapping[Semantics, str]] = {"guarantee": "floor", "cap": "cap"}


def _machine_cores(value: float) -> float:
    if not 0 < value <= MAX_CORES:
        raise ValueError(f"{value:g} is out of range; use more than 0 and at most {MAX_CORES}")
    return value


def _seconds(value: float) -> float:
    if not 0 < value <= MAX_SERVICE_TIME_S:
        raise ValueError(f"{value:g} is no time a job can take; use for example 0.05")
    return value


def _reservation(value: float) -> float:
    if value <= 0 or not math.isfinite(value):
        raise ValueError(f"{value:g} is not positive; use for example 0.5")
    return value


Reservation = Annotated[Cores, AfterValidator(_reservation)]


class WorkloadEntry(StrictModel):
    """A workload, or a group of those whose names go on from its own."""

    name: Annotated[str, Field(min_length=1), AfterValidator(check_path)]
    share: Share | None = None
    floor: Reservation | None = None
    cap: Reservation | None = None
    utilization: Cores | None = None
    service_time_s: Annotated[float, BeforeValidator(number), AfterValidator(_seconds)] = 1.0
    batch: bool = False
    semantics: Semantics | None = None


class WorkloadFile(StrictModel):
    """The whole file."""

    semantics: Semantics
    cores: Annotated[float, BeforeValidator(number), AfterValidator(_machine_cores)] = 1.0
    workloads: tuple[WorkloadEntry, ...] = Field(strict=False, min_length=1, max_length=MAX_WORKLOADS)

    @classmethod
    def model_validate(cls, obj: Any, **options: Any) -> Self:  # noqa: ANN401 - as in pydantic
        """As pydantic's, and names the very entry that does not fit the others."""
        file = super().model_validate(obj, **options)
        for where, what in file._contradictions():
            detail = InitErrorDetails(
                type=PydanticCustomError("workload", "{what}", {"what": what}), loc=where, input=obj
            )
            raise ValidationError.from_exception_data(cls.__name__, [detail])
        return file

    def machine(self) -> Machine:
        """What the file describes."""
        children: dict[str | None, list[WorkloadEntry]] = {}
        for entry in self.workloads:
            children.setdefault(parent_of(entry.name), []).append(entry)

        def node(entry: WorkloadEntry) -> Node:
            below = children.get(entry.name, [])
            load: Transactions | Batch | None = None
            if entry.batch:
                load = Batch(entry.service_time_s)
            elif not below:
                load = Transactions(entry.utilization or 0.0, entry.service_time_s)
            reserved = entry.floor if entry.floor is not None else entry.cap
            share = 1.0 if entry.share is None else entry.share
            return Node(entry.name, share, reserved, load, entry.semantics, tuple(node(child) for child in below))

        return Machine(self.cores, self.semantics, tuple(node(entry) for entry in children[None]))

    def _contradictions(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """Where entries contradict each other or themselves, and how."""
        names = {entry.name: entry for entry in self.workloads}
        groups = {parent_of(name) for name in names}
        seen: set[str] = set()
        for position, entry in enumerate(self.workloads):
            parent = parent_of(entry.name)
            if entry.name in seen:
                yield ("workloads", position, "name"), f"{entry.name} is listed twice; list it once"
            elif parent is not None and parent not in names:
                yield (
                    ("workloads", position, "name"),
                    f"the parent of {entry.name} is not in the file; list {parent} too",
                )
            else:
                semantics = self._around(entry, names)
                problem = _misplaced(entry, semantics, is_group=entry.name in groups)
                if problem:
                    field, what = problem
                    yield ("workloads", position, field), what
            seen.add(entry.name)

    def _around(self, entry: WorkloadEntry, names: Mapping[str, WorkloadEntry]) -> Semantics:
        """How the siblings of ``entry`` share."""
        parent = parent_of(entry.name)
        while parent is not None and parent in names:
            semantics = names[parent].semantics
            if semantics is not None:
                return semantics
            parent = parent_of(parent)
        return self.semantics


def load_workloads(path: Path) -> Machine:
    """Read a workload file (``-``: standard input). Raises UsageError, one line with file, line, workload and field."""
    return load_yaml(path, WorkloadFile, naming_items=True).machine()


def _misplaced(entry: WorkloadEntry, semantics: Semantics, *, is_group: bool) -> tuple[str, str] | None:
    """The field of an entry that cannot stand there, and why."""
    if entry.floor is not None and entry.cap is not None:
        return "cap", "a floor and a cap together have no formula; give one of them"
    for field, other in (("floor", "cap"), ("cap", "guarantee")):
        if getattr(entry, field) is not None and _RESERVATIONS.get(semantics) != field:
            where = f"among {other}s has no formula" if semantics == other else "means nothing without shares"
            hint = (
                "put what is capped at the top and guarantees in a group beside it"
                if semantics == other
                else "leave it out"
            )
            return field, f"a {field} {where}; {hint}"
    if entry.share is not None and (entry.floor is not None or entry.cap is not None):
        return "share", "it has a floor or a cap in the place of a share; leave one out"
    if entry.share is None and entry.floor is None and entry.cap is None and semantics != "none":
        return "share", "it has no share; give one, for example 3"
    if is_group:
        if entry.utilization is not None or entry.batch:
            field = "batch" if entry.batch else "utilization"
            return field, "it has children, whose work is its own; leave this out"
        return None
    if entry.semantics is not None:
        return "semantics", "only a group, which has children, says how they share"
    if entry.batch and entry.utilization is not None:
        return "utilization", "batch work uses what it gets; leave this out"
    if not entry.batch and entry.utilization is None:
        return "utilization", "this key is missing; give the cores it uses on average, for example 0.3, or batch: true"
    return None
