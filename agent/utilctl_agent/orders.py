"""What the loop is told and what it answers, as values with a JSON form (module ``channel`` carries it).

Orders are idempotent: a ``Roster`` names every principal that shall be under control, a ``MembersDelta`` says which
processes came and went since the message before it. A repeated one does no harm; a lost one shows by the serial
numbers, and the loop then asks for a complete roster (module ``dispatch`` has the sender's side).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final, Literal

from utilctl_common.quantities import NS_PER_MS

Algorithm = Literal["default", "paper", "paper-unoptimized", "none", "progress", "progress-by-state", "quota"]
ALGORITHMS: Final[tuple[Algorithm, ...]] = ("default", "paper", "paper-unoptimized", "none")
"""Those that share; the others cap."""


@dataclass(frozen=True, slots=True)
class LoopSettings:
    """How the loop runs; fixed from its start.

    cpus: CPUs it may use, also the cores its principals share. cycle_log: whether every finished cycle is sent.
    announce_first_cycle: whether a report is sent, unasked, once the first cycle under a new decision has ended.
    weight_period_ns: how often weights are looked at.
    """

    algorithm: Algorithm
    quantum_ns: int
    cycle_ns: int | None
    cpus: tuple[int, ...]
    max_pause_ns: int
    cycle_log: bool
    announce_first_cycle: bool
    stop_after_cycles: int | None = None
    weight_period_ns: int = 200 * NS_PER_MS

    def to_json(self) -> dict[str, Any]:
        """JSON form."""
        return {name: getattr(self, name) for name in self.__slots__}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> LoopSettings:
        """Inverse of to_json."""
        return cls(**{**data, "cpus": tuple(data["cpus"])})


@dataclass(frozen=True, slots=True)
class PrincipalOrder:
    """A principal to control: its figures, and what it consists of.

    cgroups: absolute directories, each controlled as a whole. processes: (pid, start ticks) of the loose ones.
    family: the processes are all that descend from one; what those have used that ended unseen is counted, too.
    reaper: who adopts its orphans, as (pid, start ticks); it is not one of them.
    observe: measure it, never pause it. weight: hold it back by the weight of its only cgroup, never pause it.
    """

    name: str
    share: float
    parallelism: int
    cap_cores: float | None = None
    cgroups: tuple[str, ...] = ()
    processes: tuple[tuple[int, int], ...] = ()
    observe: bool = False
    weight: bool = False
    family: bool = False
    reaper: tuple[int, int] | None = None

    def to_json(self) -> dict[str, Any]:
        """JSON form."""
        return {name: getattr(self, name) for name in self.__slots__}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> PrincipalOrder:
        """Inverse of to_json."""
        return cls(
            **{
                **data,
                "cgroups": tuple(data["cgroups"]),
                "processes": tuple((int(pid), int(start)) for pid, start in data["processes"]),
                "reaper": tuple(data["reaper"]) if data.get("reaper") is not None else None,
            }
        )


@dataclass(frozen=True, slots=True)
class Roster:
    """Every principal that shall be under control now. ``epoch`` and ``generation`` say by which decision, ``serial``
    counts the sender's messages about membership.
    """

    epoch: int
    generation: int
    principals: tuple[PrincipalOrder, ...]
    serial: int = 0

    def to_json(self) -> dict[str, Any]:
        """JSON form."""
        return {
            "epoch": self.epoch,
            "generation": self.generation,
            "principals": [p.to_json() for p in self.principals],
            "serial": self.serial,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Roster:
        """Inverse of to_json."""
        return cls(
            data["epoch"],
            data["generation"],
            tuple(PrincipalOrder.from_json(entry) for entry in data["principals"]),
            data.get("serial", 0),
        )


@dataclass(frozen=True, slots=True)
class PrincipalDelta:
    """Which loose processes, as (pid, start ticks), joined and left a principal; ``parallelism`` is the new one."""

    name: str
    parallelism: int
    joined: tuple[tuple[int, int], ...] = ()
    left: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class MembersDelta:
    """What changed in the membership since the message with the serial before. All else is as the roster has it."""

    serial: int
    changes: tuple[PrincipalDelta, ...]

    def to_json(self) -> dict[str, Any]:
        """JSON form."""
        return {
            "serial": self.serial,
            "changes": [{name: getattr(change, name) for name in change.__slots__} for change in self.changes],
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> MembersDelta:
        """Inverse of to_json."""
        return cls(
            data["serial"],
            tuple(
                PrincipalDelta(
                    entry["name"],
                    entry["parallelism"],
                    tuple((int(pid), int(start)) for pid, start in entry["joined"]),
                    tuple((int(pid), int(start)) for pid, start in entry["left"]),
                )
                for entry in data["changes"]
            ),
        )


@dataclass(frozen=True, slots=True)
class PrincipalReport:
    """Totals of one principal since it came under control, and what keeps us from controlling it (or empty).

    wait_ns counts from an arbitrary start, so use differences.
    """

    cpu_ns: int
    wait_ns: int | None
    paused_ns: int
    mechanism: str
    problem: str


@dataclass(frozen=True, slots=True)
class LoopReport:
    """The loop's state at ``now_ns`` (CLOCK_MONOTONIC). Totals count since its start.

    cycles_since_roster: whole cycles that ended since the newest roster was applied. foreign_writes, foreign_stops,
    unfinished_pauses: see holding.Faults. cycle_stretch: how many times longer than asked for cycles are now.
    """

    now_ns: int
    epoch: int
    generation: int
    cycles_since_roster: int
    loop_class: str
    algorithm: str
    wakeups: int
    overhead_ns: int
    cycles: int
    rms_error_sum: float
    late_sum_ns: int
    late_max_ns: int
    foreign_writes: int = 0
    foreign_stops: int = 0
    unfinished_pauses: int = 0
    cycle_stretch: float = 1.0
    principals: dict[str, PrincipalReport] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """JSON form."""
        data = {name: getattr(self, name) for name in self.__slots__}
        data["principals"] = {
            name: {key: getattr(report, key) for key in report.__slots__} for name, report in self.principals.items()
        }
        return data

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> LoopReport:
        """Inverse of to_json."""
        principals = {name: PrincipalReport(**entry) for name, entry in data["principals"].items()}
        return cls(**{**data, "principals": principals})
