"""What the controller knows of agents and hosts: plain values, free of wire types, clocks and I/O.

Times called ``*_ns`` without ``unix`` are readings of one monotonic clock, handed in by the caller.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from utilctl_common.policy import SeePolicy
from utilctl_controller.demand import DemandWindow


@dataclass(frozen=True, slots=True)
class AgentHello:
    """How an agent introduces itself. ``instance_id`` changes at every start of the agent; ``epoch`` and
    ``generation`` name the targets that it enforces already (0: none)."""

    host: str
    capacity_cores: float
    agent_version: str
    instance_id: str
    mechanism: str
    mechanism_reason: str
    epoch: int
    generation: int


@dataclass(frozen=True, slots=True)
class SeeReading:
    """One SEE on one host as its agent measured it. ``*_total_ns`` count from the agent's start; ``problem``
    is empty or one sentence on what keeps the agent from enforcing this SEE."""

    see: str
    consumed_total_ns: int
    paused_total_ns: int
    consumption_cores: float
    demand_cores: float
    processes: int
    problem: str


@dataclass(frozen=True, slots=True)
class LoopReading:
    """How an agent's scheduler loop is doing; totals count from its start."""

    algorithm: str
    mechanism: str
    cycles_total: int
    wakeups_total: int
    overhead_total_ns: int
    rms_relative_error_ratio: float


@dataclass(frozen=True, slots=True)
class HostReading:
    """One report. ``sequence`` increases within a stream; ``interval_ns`` is the time since the report
    before; ``waiting`` are pods by the service without a share that they name."""

    sequence: int
    interval_ns: int
    capacity_cores: float
    unclaimed_cores: float
    sees: tuple[SeeReading, ...]
    loop: LoopReading | None
    waiting: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class HostTarget:
    """What one host is told about one SEE.

    ``weight`` is its local share, in cores, so that the weights of a host add up to about its capacity;
    ``entitlement_cores`` is what the allocation grants here; ``cap_cores`` (None: none) its ceiling here.
    """

    policy: SeePolicy
    weight: float
    entitlement_cores: float
    cap_cores: float | None


@dataclass(frozen=True, slots=True)
class Push:
    """A complete set of targets to send to one host. A renewal repeats a set under the same generation.

    ``disabled``: the host is to hold nobody back, whatever the targets say.
    """

    host: str
    epoch: int
    generation: int
    lease_ns: int
    targets: tuple[HostTarget, ...]
    renewal: bool
    disabled: bool = False


@dataclass(slots=True)
class HostState:
    """One host, owned and changed by the rebalancer alone.

    ``lease_end_ns``: until then a host that fell silent still counts, as its agent still holds its last
    targets. ``pushed_cores``: what ``pushed`` shares out. ``resend``: its agent has just connected and needs the
    current set again. ``by_demand``: what is pushed came from the allocation, not from static shares.
    """

    hello: AgentHello
    hello_at_ns: int
    connected: bool = True
    reading: HostReading | None = None
    readings: dict[str, SeeReading] = field(default_factory=dict)
    reported_at_ns: int | None = None
    demand: DemandWindow = field(default_factory=DemandWindow)
    overhead_ratio: float = 0.0
    lease_end_ns: int = 0
    pushed: Push | None = None
    pushed_at_ns: int = 0
    pushed_cores: float = 0.0
    by_demand: bool = False
    resend: bool = False
    applied_epoch: int = 0
    applied_generation: int = 0
    changed_at_ns: int = 0

    @property
    def name(self) -> str:
        """The host's name, unique in the fleet."""
        return self.hello.host

    @property
    def total_cores(self) -> float:
        """Cores that the host has, by its newest word."""
        return self.reading.capacity_cores if self.reading else self.hello.capacity_cores

    @property
    def available_cores(self) -> float:
        """Cores that SEEs may use: all but what unclaimed processes use."""
        unclaimed = self.reading.unclaimed_cores if self.reading else 0.0
        return max(0.0, self.total_cores - unclaimed)
