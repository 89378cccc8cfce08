"""Settings of the controller; every default is pinned by a test."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, cast, get_args

from utilctl_common.errors import UsageError
from utilctl_common.quantities import NS_PER_MS, NS_PER_S, parse_address
from utilctl_controller.allocation.model import AllocationMode

MODES: Final = get_args(AllocationMode)


@dataclass(frozen=True, slots=True)
class ControllerSettings:
    """How a controller runs. Validated on construction; raises UsageError.

    - ``listen``: HOST:PORT to serve on; port 0 takes a free one.
    - ``advertise``: HOST:PORT that agents and the command line are sent to while this controller leads; empty: where
      it listens.
    - ``seat_ttl_ns``: how long a leader that is gone without a word keeps its seat.
    - ``report_interval_ns``: how often agents report, and how often the fleet is decided on.
    - ``lease_ns``: how long an agent holds its targets without a renewal.
    - ``mode``: how the fleet is allocated, see the allocation model.
    - ``learning_intervals``: report intervals after the start in which demand moves nothing, so that a new
      controller has heard of the fleet before it redistributes it.
    - ``return_ns``: how long agents may take to find a new leader: one that follows another learns for as long at
      least, if their leases allow. Above the agents' longest pause while nobody leads.
    - ``stale_intervals``: report intervals of silence after which a host's lease is no longer renewed.
    - ``renewals_per_lease``: sets sent in one lease; 3 survives the loss of two.
    - ``coalesce_ns``: least time between two decisions, so that a bulk change of policy makes few of them.
    - ``forget_ns``: how long a host that has gone stays in listings.
    - ``probe_ns``: how often the store is asked whether it is there.
    - ``keepalive_ns``: how often an idle connection is probed; a dead one is found within twice that.
    - ``max_message_bytes``: largest message either way.
    - ``series_limit``: most SEEs and hosts that get metric series of their own.
    """

    listen: str = "127.0.0.1:7400"
    advertise: str = ""
    seat_ttl_ns: int = 3 * NS_PER_S
    report_interval_ns: int = NS_PER_S
    lease_ns: int = 15 * NS_PER_S
    mode: AllocationMode = "fleet"
    learning_intervals: int = 2
    return_ns: int = 2 * NS_PER_S
    stale_intervals: int = 3
    renewals_per_lease: int = 3
    coalesce_ns: int = 20 * NS_PER_MS
    forget_ns: int = 3600 * NS_PER_S
    probe_ns: int = 2 * NS_PER_S
    keepalive_ns: int = 10 * NS_PER_S
    max_message_bytes: int = 64 * 1024 * 1024
    series_limit: int = 1000

    def __post_init__(self) -> None:
        parse_address(self.listen)
        if self.advertise:
            parse_address(self.advertise)
        if self.mode not in MODES:
            raise UsageError(f"unknown mode {self.mode!r}", hint=f"use one of {', '.join(MODES)}")
        if not NS_PER_MS * 10 <= self.report_interval_ns <= 600 * NS_PER_S:
            raise UsageError("the report interval is out of range", hint="use 10ms to 10m, for example 1s")
        if self.lease_ns < 4 * self.report_interval_ns:
            raise UsageError("the lease is too short", hint="use at least four report intervals, for example 15s")


def parse_mode(text: str) -> AllocationMode:
    """``text`` as a mode. Raises UsageError."""
    if text not in MODES:
        raise UsageError(f"unknown mode {text!r}", hint=f"use one of {', '.join(MODES)}")
    return cast("AllocationMode", text)
