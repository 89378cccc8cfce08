"""What an agent says, checked before anything believes it.

A faulty agent must disturb nobody else: a bad value is refused (what was known before stays) or bounded, and
counted.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal

from utilctl_common.errors import UsageError
from utilctl_common.names import parse_see_name
from utilctl_controller.fleet import AgentHello, HostReading, LoopReading, SeeReading

MAX_HOST_CORES: Final = 65_536.0
"""Largest capacity of one host that is believed, in cores. Arbitrary: above any machine built."""

MAX_INTERVAL_NS: Final = 3600 * 1_000_000_000
"""Longest report interval that is believed. Arbitrary: far beyond any sensible setting."""

MAX_SEES: Final = 20_000
"""Most services of one report that are looked at. Arbitrary: above any fleet's, and some tens of milliseconds."""

MAX_PROCESSES: Final = 4_194_304
"""Most processes of one service on one host that are believed: Linux numbers no more (PID_MAX_LIMIT)."""

MAX_WAITING: Final = 100
"""Most services without a share of one report that are looked at; agents send no more."""

MAX_PODS: Final = 100_000
"""Most pods of one node that are believed. Arbitrary: kubelets run some hundreds."""

MAX_TEXT: Final = 300
"""Longest free text kept from an agent, in characters."""

TOLERANCE: Final = 1.1
"""A rate above capacity by less than this factor is a rounding of interval ends, bounded without being
counted."""

Reason = Literal["replayed", "not_finite", "negative", "too_large", "duplicate", "not_a_name"]

_HOST_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,252}")
_UNPRINTABLE: Final = re.compile(r"[\x00-\x1f\x7f]+")


@dataclass(frozen=True, slots=True)
class ReportProblem:
    """One value that was refused or bounded; ``detail`` is one sentence for a log."""

    reason: Reason
    detail: str


def plain_text(text: str) -> str:
    """Free text of a stranger as one line of bounded length."""
    return _UNPRINTABLE.sub(" ", text).strip()[:MAX_TEXT]


def check_hello(hello: AgentHello) -> AgentHello:
    """Return ``hello`` with its texts made plain. Raises UsageError for a bad host name, capacity or
    instance."""
    if not _HOST_NAME.fullmatch(hello.host):
        raise UsageError(
            f"{plain_text(hello.host)!r} is not a host name",
            hint="use letters, digits, dots, dashes; at most 253",
        )
    if not math.isfinite(hello.capacity_cores) or not 0 < hello.capacity_cores <= MAX_HOST_CORES:
        raise UsageError(f"capacity of {hello.host} is {hello.capacity_cores:g} cores", hint="report its CPUs")
    if not hello.instance_id or len(hello.instance_id) > MAX_TEXT:
        raise UsageError(f"the agent of {hello.host} sent no usable instance id", hint="upgrade the agent")
    return replace(
        hello,
        agent_version=plain_text(hello.agent_version),
        mechanism=plain_text(hello.mechanism),
        mechanism_reason=plain_text(hello.mechanism_reason),
    )


class _Checker:
    """Collects the problems of one report."""

    def __init__(self, host: str) -> None:
        self.host = host
        self.problems: list[ReportProblem] = []

    def note(self, reason: Reason, what: str, value: object) -> None:
        shown = f"{value:g}" if isinstance(value, float) else plain_text(str(value))
        self.problems.append(ReportProblem(reason, f"{self.host}: {what} {shown}: {reason.replace('_', ' ')}"))

    def sane(self, value: float, what: str) -> bool:
        """Whether ``value`` is a finite number that is not negative; notes it otherwise."""
        if not math.isfinite(value):
            self.note("not_finite", what, value)
            return False
        if value < 0:
            self.note("negative", what, value)
            return False
        return True

    def bounded(self, value: float, bound: float, what: str) -> float:
        """``value``, at most ``bound``; notes it if it was clearly above."""
        if value > bound * TOLERANCE:
            self.note("too_large", what, value)
        return min(value, bound)


def clean_report(
    hello: AgentHello,
    report: HostReading,
    last_sequence: int | None,
    previous: HostReading | None,
    previous_sees: Mapping[str, SeeReading],
) -> tuple[HostReading | None, tuple[ReportProblem, ...]]:
    """``report`` with every bad value replaced by what was known before, and what was wrong with it.

    None for a replayed report (its sequence is not above ``last_sequence``). SEEs are returned once each.
    """
    check = _Checker(hello.host)
    if last_sequence is not None and report.sequence <= last_sequence:
        check.note("replayed", "sequence", report.sequence)
        return None, tuple(check.problems)
    known_capacity = previous.capacity_cores if previous else hello.capacity_cores
    capacity = report.capacity_cores
    if not check.sane(capacity, "capacity"):
        capacity = known_capacity
    elif capacity > MAX_HOST_CORES:
        check.note("too_large", "capacity", capacity)
        capacity = known_capacity
    elif capacity == 0:
        check.note("negative", "capacity", capacity)
        capacity = known_capacity
    unclaimed = report.unclaimed_cores
    if check.sane(unclaimed, "unclaimed CPU"):
        unclaimed = check.bounded(unclaimed, capacity, "unclaimed CPU")
    else:
        unclaimed = previous.unclaimed_cores if previous else 0.0
    interval_ns = report.interval_ns
    if not 0 <= interval_ns <= MAX_INTERVAL_NS:
        check.note("negative" if interval_ns < 0 else "too_large", "interval", interval_ns)
        interval_ns = 0
    sees: dict[str, SeeReading] = {}
    if len(report.sees) > MAX_SEES:
        check.note("too_large", "services in a report", len(report.sees))
    for entry in report.sees[:MAX_SEES]:
        if entry.see in sees:
            check.note("duplicate", "service", entry.see)
            continue
        good = _clean_see(check, entry, capacity) or previous_sees.get(entry.see)
        if good is not None:
            sees[entry.see] = good
    loop = _clean_loop(check, report.loop) or (previous.loop if previous else None)
    return (
        HostReading(
            report.sequence,
            interval_ns,
            capacity,
            unclaimed,
            tuple(sees.values()),
            loop,
            _clean_waiting(check, report.waiting),
        ),
        tuple(check.problems),
    )


def _clean_see(check: _Checker, entry: SeeReading, capacity: float) -> SeeReading | None:
    name = plain_text(entry.see)
    fine = [
        check.sane(entry.consumption_cores, f"consumption of {name}"),
        check.sane(entry.demand_cores, f"demand of {name}"),
        check.sane(entry.consumed_total_ns, f"CPU time of {name}"),
        check.sane(entry.paused_total_ns, f"paused time of {name}"),
    ]
    if not all(fine):
        return None
    return replace(
        entry,
        consumption_cores=check.bounded(entry.consumption_cores, capacity, f"consumption of {name}"),
        demand_cores=check.bounded(entry.demand_cores, capacity, f"demand of {name}"),
        processes=round(check.bounded(entry.processes, MAX_PROCESSES, f"processes of {name}")),
        problem=plain_text(entry.problem),
    )


def _clean_waiting(check: _Checker, waiting: tuple[tuple[str, int], ...]) -> tuple[tuple[str, int], ...]:
    if len(waiting) > MAX_WAITING:
        check.note("too_large", "services that pods wait for", len(waiting))
    found: dict[str, int] = {}
    for see, pods in waiting[:MAX_WAITING]:
        try:
            parse_see_name(see)
        except UsageError:
            check.note("not_a_name", "service that pods wait for", see)
            continue
        if see in found:
            check.note("duplicate", "service that pods wait for", see)
        elif pods > 0:
            found[see] = round(check.bounded(pods, MAX_PODS, f"pods that wait for {see}"))
    return tuple(sorted(found.items()))


def _clean_loop(check: _Checker, loop: LoopReading | None) -> LoopReading | None:
    if loop is None:
        return None
    fine = [
        check.sane(loop.overhead_total_ns, "overhead"),
        check.sane(loop.rms_relative_error_ratio, "error ratio"),
    ]
    if not all(fine):
        return None
    return replace(loop, algorithm=plain_text(loop.algorithm), mechanism=plain_text(loop.mechanism))
