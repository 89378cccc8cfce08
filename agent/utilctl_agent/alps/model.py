"""Values that go into and come out of a scheduler core, and the interface that all cores implement.

Vocabulary (ALPS paper, section 2): a *principal* is a process or a group of processes that holds a share. Its
*allowance* is the CPU time it may still use in the current *cycle*; with allowance left it is *eligible*, else
*ineligible* and paused. Every time is integer nanoseconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

from utilctl_common.errors import UsageError
from utilctl_common.quantities import MAX_SHARE, MIN_SHARE, NS_PER_MS, NS_PER_S

MIN_QUANTUM_NS: Final = NS_PER_MS
MAX_QUANTUM_NS: Final = 10 * NS_PER_S


@dataclass(frozen=True, slots=True)
class CoreSettings:
    """How a core runs.

    quantum_ns: granularity of control. The paper's core acts once a quantum; the default core looks at a running
        principal at least this often while it learns how that principal behaves.
    cycle_ns: CPU time handed out a cycle, in total. None: the paper's S * Q, so that a share is a number of quanta.
    cores: CPUs that the principals run on, M.
    min_gap_ns: the default core never wakes twice within this time; it bounds overhead and, with the wake-up
        latency of the host, accuracy. Arbitrary: about two wake-up latencies of an undisturbed loop.
    reading_error_ns: by how much a reading may lag behind; 0 where the reader shares the CPU of what it reads, up
        to a tick (4 ms at HZ=250) for a process that runs on another CPU.
    max_sleep_ns: longest sleep of the default core while somebody wants CPU.
    idle_sleep_ns: longest sleep while nobody is paused.
    cycles: how many cycles are wanted; None: no end.
    """

    quantum_ns: int = 10 * NS_PER_MS
    cycle_ns: int | None = None
    cores: int = 1
    min_gap_ns: int = 100_000
    reading_error_ns: int = 0
    max_sleep_ns: int = 80 * NS_PER_MS
    idle_sleep_ns: int = 100 * NS_PER_MS
    cycles: int | None = None

    def __post_init__(self) -> None:
        if not MIN_QUANTUM_NS <= self.quantum_ns <= MAX_QUANTUM_NS:
            raise UsageError(f"quantum of {self.quantum_ns / NS_PER_MS:g} ms is out of range", hint="use 1ms to 10s")
        if self.cycle_ns is not None and self.cycle_ns < self.quantum_ns:
            raise UsageError("a cycle shorter than its quantum cannot be controlled", hint="lengthen the cycle")
        if self.cores < 1:
            raise UsageError(f"{self.cores} cores cannot run anything", hint="name at least one CPU")


@dataclass(frozen=True, slots=True)
class PrincipalSpec:
    """A principal as its owner describes it.

    share: positive weight, relative to the other principals.
    parallelism: most CPUs it can use at once (its runnable threads), at least 1.
    cap_cores: hard ceiling in cores, also on an idle host; None: no ceiling.
    """

    name: str
    share: float
    parallelism: int = 1
    cap_cores: float | None = None

    def __post_init__(self) -> None:
        if not MIN_SHARE <= self.share <= MAX_SHARE:
            raise UsageError(
                f"share {self.share:g} of {self.name} is out of range",
                hint=f"use {MIN_SHARE:g} to {MAX_SHARE:g}",
            )
        if self.parallelism < 1:
            raise UsageError(f"parallelism {self.parallelism} of {self.name} is below 1")
        if self.cap_cores is not None and not self.cap_cores > 0:
            raise UsageError(f"cap {self.cap_cores:g} of {self.name} is not positive", hint="use for example 0.5")


class Reading(NamedTuple):  # made at every wake-up: a NamedTuple costs half of a frozen dataclass
    """Progress of a principal, cumulative since any fixed instant.

    cpu_ns: CPU time consumed by all its processes.
    wait_ns: time in which it was ready, nothing of it ran, and it waited for a CPU. None: not known this time.
    blocked: nothing of it wants a CPU at this instant (the paper's wait channel). None: not known this time.
    queued_ns: time in which at least one of its threads waited for a CPU, whatever the others did. None: not known.
    late_ns: so much of what it consumes may show in ``cpu_ns`` only at a later reading.
    """

    cpu_ns: int
    wait_ns: int | None = None
    blocked: bool | None = None
    queued_ns: int | None = None
    late_ns: int = 0


@dataclass(frozen=True, slots=True)
class CycleRecord:
    """A finished cycle: its number from 0, when it ended, and what each principal consumed in it."""

    index: int
    end_ns: int
    cpu_ns: dict[str, int]


class Turn(NamedTuple):
    """A turn that is planned: only this principal of the hungry ones is eligible, until ``until_ns``.

    others: those who share it; what is said of the consumption of one holds for all of them together.

    A long turn is planned in pieces, one after the other with the same name, to look whether it is used.
    least_cpu_ns: its cumulative consumption must have reached this by then, else it wants less than was thought, or
        somebody else runs, and the plan is off.
    most_cpu_ns: it must not have gone beyond this, else pausing takes longer than was thought, and the plan is off.
    """

    name: str
    until_ns: int
    least_cpu_ns: int
    most_cpu_ns: int
    others: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Whose turn it is."""
        return (self.name, *self.others)


class Switch(NamedTuple):
    """A planned turn ended and the next one began: when, and the consumption of the one whose turn it was.

    Where readings lag (``Decision.lags``), the consumption of the one whose turn had ended one switch earlier.
    others_cpu_ns: consumption of those who shared the turn, in their order.
    took_ns: how long it took to resume the one and pause the other.
    """

    now_ns: int
    cpu_ns: int
    others_cpu_ns: tuple[int, ...] = ()
    took_ns: int = 0


class Decision(NamedTuple):
    """What to do now.

    ineligible / eligible: principals that change state at this instant, in no order.
    next_wake_ns: when to decide next, at the latest; membership changes may come earlier.
    closed: cycles that ended, oldest first.
    plan: the turn that goes on and the turns to follow it, or nothing. They may be carried out without asking, each
        switch at the ``until_ns`` of the turn that ends; ``follow`` tells of them before the next decision, which is
        due at the ``until_ns`` of the last turn.
    idle: nobody wants anything: until somebody on this host waits for a CPU, there will be nothing to decide.
    lags: readings of what runs on several CPUs lag, so whoever carries the plan out reads each principal at the first
        switch after the one that ended its turn, before it can run again.
    cores: CPUs that a turn of the plan fills.
    """

    ineligible: tuple[str, ...]
    eligible: tuple[str, ...]
    next_wake_ns: int
    closed: tuple[CycleRecord, ...] = ()
    plan: tuple[Turn, ...] = ()
    lags: bool = False
    idle: bool = False
    cores: int = 1


class Scheduler(Protocol):
    """A core: fed with readings at instants of its own choosing, answers who may run.

    Calls must come with non-decreasing ``now_ns``. A new principal starts out running (eligible).
    """

    @property
    def stretch(self) -> float:
        """How many times longer than asked for cycles are, because switching takes so long; mostly 1."""
        ...

    def put(self, spec: PrincipalSpec, now_ns: int, reading: Reading) -> None:
        """Add a principal, or change the share, cap or parallelism of one that is there."""
        ...

    def remove(self, name: str) -> None:
        """Forget a principal; whoever removes it resumes it. Raises KeyError if it is unknown."""
        ...

    def follow(self, switches: Sequence[Switch], *, failed: bool) -> tuple[CycleRecord, ...]:
        """Account for the switches of the plan that were carried out, oldest first, and forget the rest of it.

        failed: the turn that goes on fell short of its ``least_cpu_ns``. Returns the cycles that ended by the switches.
        """
        ...

    def due(self, now_ns: int) -> Mapping[str, bool]:
        """Whose readings ``decide`` needs at ``now_ns``; True where it also needs ``wait_ns`` or ``blocked``."""
        ...

    def decide(self, now_ns: int, readings: Mapping[str, Reading]) -> Decision:
        """Account for the readings and decide. A principal missing from them is taken as not measured.

        Readings of others than those who are due may be among them: of an ineligible one that was let go for a breath.
        """
        ...
