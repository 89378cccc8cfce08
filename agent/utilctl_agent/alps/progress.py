"""A core that caps each principal by the progress of its ready periods: what ``utilctl sandbox`` runs.

A program with a part c of a CPU progresses, whenever it could run, at c times the speed of a CPU of its own (Chang,
Karamcheti, Kedem, "User-Level Resource-Constrained Sandboxing", 2000). So what is metered is CPU time used against
*ready* time: time in which it ran, waited for a CPU, or was paused by us. Time in which it waited for something else is
neither, so waiting earns no credit and waits are not stretched; and when others keep it from a CPU, its ready time goes
on, so that it may catch up afterwards.

The *balance* is ``cap * ready - used``. At zero the principal is paused until the balance has grown to what it uses in
the next slice; slices are as long as the longest pause allows. Where waiting for a CPU cannot be told by the kernel,
a principal counts as ready between two readings unless it is seen waiting (the paper's heuristic). CPU time that shows
late (``Reading.late_ns``: that of children which came and went unseen) proves such a guess wrong afterwards, and what
it took for waiting is counted as ready then. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from utilctl_agent.alps.model import CoreSettings, CycleRecord, Decision, PrincipalSpec, Reading, Switch
from utilctl_common.quantities import NS_PER_MS, NS_PER_S

LONGEST_STRETCH_NS: Final = 80 * NS_PER_MS
"""Pause that slices are made for. Shorter ones are smoother and cost more switches."""
SHORTEST_SLICE_NS: Final = 200_000
"""CPU time of a slice at least: below, the latency of waking up is all there is."""
NEARLY: Final = 12
"""Of a slice, the part that may be left over. What is left is not lost: the next slice begins with it."""
MOST_CREDIT_NS: Final = 2 * NS_PER_S
"""Ready time that others have taken and that is made up for later, at most."""
SOONEST_NS: Final = 300_000
LATEST_NS: Final = 100 * NS_PER_MS
"""Bounds of the time between two looks at one that runs."""
DOUBT_NS: Final = NS_PER_MS
WAITING_NS: Final = 20 * NS_PER_MS
"""To the next look at one that owes and waits: whether it has just begun to, and whether it still does. The latter is
half as long to one and a half times as long: looks at equal distances always find a program waiting that computes for
1 ms in 11, and it never got a pause."""
GOLDEN: Final = 0.6180339887498949
"""Multiples of it, modulo 1, keep their distance from each other and from all fractions."""
BLIND_NS: Final = 10 * NS_PER_MS
"""The latter where only states are seen: what happened between two looks is a guess. The paper's period."""


@dataclass(slots=True)
class _Metered:
    spec: PrincipalSpec
    cap: float
    cpu_ns: int
    wait_ns: int | None
    seen_ns: int
    balance_ns: float = 0.0
    resume_ns: int | None = None  # when its pause ends; None: it runs
    stood_still: bool = False  # it used nothing up to the last look
    seen_cores: int = 1  # it was seen to run on so many CPUs at once
    waiting_looks: int = 0  # that found it owing and waiting
    doubted_ns: int = 0  # time that was taken for waiting, and may prove to be something else

    @property
    def cores(self) -> int:
        """CPUs that it may run on at once. Threads come and go faster than orders tell of them."""
        return max(1, self.spec.parallelism, self.seen_cores)

    @property
    def slice_ns(self) -> float:
        """CPU time until the next pause."""
        least = min(1.0, self.cap)
        if least >= 1.0:
            return float(LATEST_NS)
        return max(SHORTEST_SLICE_NS, LONGEST_STRETCH_NS * least / (1.0 - least))

    @property
    def full_ns(self) -> float:
        """The balance at which a pause ends."""
        return self.slice_ns * max(0.0, self.cores - self.cap) / self.cores

    def waiting_ns(self) -> int:
        """To the next look at one that still waits."""
        self.waiting_looks += 1
        return round(WAITING_NS * (0.5 + self.waiting_looks * GOLDEN % 1.0))

    @property
    def spent_ns(self) -> float:
        """The balance at which a slice counts as used up: to hit zero would take a look every few microseconds."""
        return self.full_ns / NEARLY if self.full_ns > 0.0 else -math.inf


class ProgressScheduler:
    """Implements model.Scheduler. ``use_wait`` False: by the states that are seen alone, as a baseline."""

    def __init__(self, settings: CoreSettings, *, use_wait: bool = True) -> None:
        self._settings = settings
        self._use_wait = use_wait
        self._metered: dict[str, _Metered] = {}

    @property
    def stretch(self) -> float:
        """See model.Scheduler."""
        return 1.0

    def put(self, spec: PrincipalSpec, now_ns: int, reading: Reading) -> None:
        """See model.Scheduler. One without a cap is let run."""
        cap = spec.cap_cores if spec.cap_cores is not None else float(max(spec.parallelism, self._settings.cores))
        known = self._metered.get(spec.name)
        if known is None:
            self._metered[spec.name] = _Metered(spec, cap, reading.cpu_ns, reading.wait_ns, now_ns)
            return
        known.spec = spec
        if known.cap != cap:
            # What was paused for the old cap must not be paid for by the new one.
            known.cap = cap
            known.balance_ns = min(known.balance_ns, known.full_ns)
            if known.resume_ns is not None:
                known.resume_ns = min(known.resume_ns, now_ns + self._pause_ns(known))

    def remove(self, name: str) -> None:
        """See model.Scheduler."""
        del self._metered[name]

    def follow(self, switches: Sequence[Switch], *, failed: bool) -> tuple[CycleRecord, ...]:
        """See model.Scheduler. This core never plans."""
        return ()

    def due(self, now_ns: int) -> Mapping[str, bool]:
        """Those who run. Of a paused one there is nothing to learn."""
        return {name: True for name, one in self._metered.items() if one.resume_ns is None}

    def decide(self, now_ns: int, readings: Mapping[str, Reading]) -> Decision:
        """See model.Scheduler."""
        ineligible: list[str] = []
        eligible: list[str] = []
        wake_ns = now_ns + LATEST_NS
        for name, one in self._metered.items():
            reading = readings.get(name)
            if one.resume_ns is not None:
                self._account_paused(one, now_ns, reading)
                if one.balance_ns >= one.full_ns or now_ns >= one.resume_ns:
                    eligible.append(name)
                    one.resume_ns = None
                    wake_ns = min(wake_ns, now_ns + self._run_ns(one))
                else:
                    wake_ns = min(wake_ns, one.resume_ns)
                continue
            used_ns, waits = self._account(one, now_ns, reading)
            if one.balance_ns <= one.spent_ns and used_ns > 0 and not waits:
                one.resume_ns = now_ns + self._pause_ns(one)
                ineligible.append(name)
                wake_ns = min(wake_ns, one.resume_ns)
            elif waits and one.balance_ns <= one.spent_ns:
                # It owes, and waits for something: it must not be paused now, and soon after it runs on.
                wake_ns = min(wake_ns, now_ns + (one.waiting_ns() if one.stood_still and not used_ns else DOUBT_NS))
            else:
                wake_ns = min(wake_ns, now_ns + self._run_ns(one))
            one.stood_still = used_ns == 0
        return Decision(tuple(ineligible), tuple(eligible), wake_ns)

    def _account(self, one: _Metered, now_ns: int, reading: Reading | None) -> tuple[int, bool]:
        """Meter one that ran; returns what it used, and whether it waits for something now."""
        elapsed_ns, one.seen_ns = now_ns - one.seen_ns, now_ns
        if reading is None:
            return 0, False
        used_ns = max(0, reading.cpu_ns - one.cpu_ns)
        one.cpu_ns = reading.cpu_ns
        if used_ns > one.cores * elapsed_ns + reading.late_ns and elapsed_ns > 0:
            one.seen_cores = min(self._settings.cores, -(-used_ns // elapsed_ns))
        waited_ns = None
        if self._use_wait and reading.wait_ns is not None and one.wait_ns is not None:
            waited_ns = max(0, reading.wait_ns - one.wait_ns)
        one.wait_ns = reading.wait_ns if reading.wait_ns is not None else one.wait_ns
        if waited_ns is not None:
            ready_ns = min(elapsed_ns, used_ns + waited_ns)
            waits = bool(reading.blocked)
        else:
            # The state is the main thread's; others may run while it waits for them.
            waits = bool(reading.blocked) and 2 * used_ns < elapsed_ns
            ready_ns = min(elapsed_ns, used_ns) if waits else elapsed_ns
            ready_ns += self._late_ready_ns(one, elapsed_ns - ready_ns, used_ns - elapsed_ns, reading.late_ns)
        self._credit(one, ready_ns, used_ns)
        return used_ns, waits

    def _late_ready_ns(self, one: _Metered, waited_ns: int, beyond_ns: int, late_ns: int) -> int:
        """Time that was taken for waiting and was none, as CPU time shows that does not fit between two looks."""
        proven_ns = min(one.doubted_ns, max(0, beyond_ns))
        one.doubted_ns = min(late_ns, one.doubted_ns - proven_ns + waited_ns)
        return proven_ns

    def _account_paused(self, one: _Metered, now_ns: int, reading: Reading | None) -> None:
        elapsed_ns, one.seen_ns = now_ns - one.seen_ns, now_ns
        used_ns = 0
        if reading is not None:  # it was let go for a breath
            used_ns = max(0, reading.cpu_ns - one.cpu_ns)
            one.cpu_ns = reading.cpu_ns
        self._credit(one, elapsed_ns, used_ns)
        if used_ns and one.resume_ns is not None:
            one.resume_ns = now_ns + self._pause_ns(one)

    def _credit(self, one: _Metered, ready_ns: int, used_ns: int) -> None:
        most_ns = one.full_ns + one.cap * MOST_CREDIT_NS
        one.balance_ns = min(most_ns, one.balance_ns + one.cap * ready_ns - used_ns)

    def _pause_ns(self, one: _Metered) -> int:
        """How long a pause takes until the balance is full."""
        return max(1, round((one.full_ns - one.balance_ns) / one.cap))

    def _run_ns(self, one: _Metered) -> int:
        """How long the balance lasts if it runs on all the CPUs that it can use."""
        pace = one.cores - one.cap
        latest_ns = LATEST_NS if self._use_wait and one.wait_ns is not None else BLIND_NS
        if pace <= 0:
            return latest_ns
        return max(SOONEST_NS, min(latest_ns, round(one.balance_ns / pace)))
