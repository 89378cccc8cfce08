"""A core that pauses nobody: it moves the weights by which the kernel shares, until what is measured is what is due.

The kernel splits by weights only roughly: over several cores each one splits by itself, wake-ups and slices round, and
threads are many or few. So the weights start out proportional to the shares, and a control loop corrects them by the
*debt* of every principal, that is the CPU time it should have had so far minus what it got.

    error of a period   e = due - got             due: its fraction (module ``feasible``) of what all got together
    debt                d = sum of e              the integral: what a slow start lost is given back later
    seconds behind      r = d / (fraction * M)    makes small and large shares alike
    correction          u = r / T  +  sum of r * period / (T * 4 T)      (r / T is less for debts within the noise)
    weight              w = share-proportional weight * exp(u)

Since weights act on the *rate* and the debt is the rate's sum, the first term alone brings back every disturbance
within T, and the second one (with 4 T: no overshoot) finds the weight at which a lasting deviation of the kernel leaves
no debt. Everything is relative to what the principals got together, so strangers on the same CPUs do no harm.

A principal that leaves CPU unused has no debt: what it does not want is due to the others, and its correction stays
as it was (it says how the kernel errs, not what the principal wants). Debts are bounded: nobody is made to pay back
more than DEBT_S seconds of its part. Pure: time is an argument, integer nanoseconds; readings in, weights out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

from utilctl_agent.alps.feasible import feasible_fractions, spread_ns
from utilctl_agent.alps.model import CycleRecord, PrincipalSpec, Reading
from utilctl_common.errors import UsageError
from utilctl_common.quantities import NS_PER_MS, NS_PER_S

DEBT_S: Final = 2.0
"""Bound of a debt, in seconds of the principal's part of the host. Arbitrary."""
MOST_CORRECTION: Final = math.log(16)
"""Bound of u: no weight is moved further than by this factor from the share-proportional one. Arbitrary; kernels were
seen to be off by a factor of 1.5."""
FULL: Final = 0.9
"""Who was running or ready for this much of the time wants all that it can use; absorbs the counters' lag."""
CALM: Final = 0.5
"""Part of a debt within the noise that is not acted on at once. Arbitrary: with none of it acted on, the slow second
term would swing by itself."""
IDLE: Final = 0.02
"""Who used and waited for less of a period and is blocked at its end took no part in it."""
FORGET_S: Final = 300.0
"""Time constant by which the lasting correction leaks, so that common drifts of all corrections die out. Arbitrary."""
STUCK_NS: Final = 10 * NS_PER_S
"""A correction at its bound for so long is reported: that principal's weight does not do what it should."""


@dataclass(frozen=True, slots=True)
class WeightSettings:
    """How the loop runs.

    period_ns: time between looks. cycle_ns: CPU time after which a cycle is recorded, for comparison with the other
        cores. cores: CPUs that the principals share, M. response_ns: T above, at least four periods; shorter is more
        exact over seconds, and noisier. dead_band: a weight that would change by a smaller part is not written.
        noise_ns: how far a debt may be off, on each core, because time slices and the kernel's ticks are that long.
    """

    period_ns: int = 200 * NS_PER_MS
    cycle_ns: int = 100 * NS_PER_MS
    cores: int = 1
    response_ns: int = 1500 * NS_PER_MS
    dead_band: float = 0.01
    noise_ns: int = 4 * NS_PER_MS

    def __post_init__(self) -> None:
        if not 20 * NS_PER_MS <= self.period_ns <= 2 * NS_PER_S:
            raise UsageError(f"a period of {self.period_ns / NS_PER_MS:g} ms is out of range", hint="use 20ms to 2s")
        if self.response_ns < 4 * self.period_ns:
            raise UsageError("a response within less than four periods would swing", hint="shorten the period")


@dataclass(frozen=True, slots=True)
class Knob:
    """What a weight may be: its bounds, and what one that nobody set has."""

    least: int
    most: int
    usual: int


CPU_SHARES: Final = Knob(2, 262_144, 1024)
"""``cpu.shares``, cgroup version 1 (kernel/sched/sched.h, MIN_SHARES and MAX_SHARES)."""
CPU_WEIGHT: Final = Knob(1, 10_000, 100)
"""``cpu.weight``, cgroup version 2 (include/linux/cgroup.h, CGROUP_WEIGHT_MIN and CGROUP_WEIGHT_MAX)."""


class WeightDecision(NamedTuple):
    """What to do now.

    weights: what to write, only where it changes. next_wake_ns: when to decide next. closed: cycles that ended.
    stuck: principals whose weight is at its bound and still does not bring them what is due.
    """

    weights: Mapping[str, int]
    next_wake_ns: int
    closed: tuple[CycleRecord, ...] = ()
    stuck: tuple[str, ...] = ()


@dataclass(slots=True)
class _State:
    spec: PrincipalSpec
    knob: Knob | None  # None: it counts for what is due to whom, and its weight is not ours
    last: Reading
    debt_ns: int = 0
    lasting: float = 0.0  # the second term of u
    aim: float = 0.0  # u, as last computed
    wanted: float = 1.0  # cores that it used or waited for, running mean over about a second
    idle: bool = False  # neither used nor waited for CPU in the last period, and is blocked
    weight: int | None = None  # as last answered
    stuck_since_ns: int | None = None
    cycle_cpu_ns: int = 0


@dataclass(slots=True)
class WeightScheduler:
    """Calls must come with non-decreasing ``now_ns``."""

    settings: WeightSettings = field(default_factory=WeightSettings)
    _states: dict[str, _State] = field(default_factory=dict)
    _last_ns: int | None = None  # of the last look
    _cycles: int = 0

    def put(self, spec: PrincipalSpec, now_ns: int, reading: Reading, knob: Knob | None) -> None:
        """Add a principal, or change its share, cap, parallelism or knob. Its weight is answered at the next look."""
        state = self._states.get(spec.name)
        if state is None:
            self._states[spec.name] = _State(spec, knob, reading, wanted=float(self._most(spec)))
            return
        if spec.share != state.spec.share:
            state.debt_ns = 0  # it was a debt under another share
        if knob != state.knob:
            state.weight = None
        state.spec, state.knob = spec, knob

    def remove(self, name: str) -> None:
        """Forget a principal; whoever removes it puts its weight back. Raises KeyError if it is unknown."""
        del self._states[name]

    def names(self) -> tuple[str, ...]:
        """All principals, in the order in which they joined."""
        return tuple(self._states)

    def debts_ns(self) -> dict[str, int]:
        """What everybody is owed now; negative: had too much."""
        return {name: state.debt_ns for name, state in self._states.items()}

    def decide(self, now_ns: int, readings: Mapping[str, Reading]) -> WeightDecision:
        """Account for the readings and answer weights. Who is missing from them is taken as not measured.

        Before half a period is over nothing is accounted for: only new principals get their weights. Nor is a gap of
        many periods, which says nothing about the weights.
        """
        period_ns = self.settings.period_ns
        elapsed_ns = now_ns - self._last_ns if self._last_ns is not None else 0
        if self._last_ns is not None and 2 * elapsed_ns < period_ns:
            return WeightDecision(self._answers(), self._last_ns + period_ns)
        self._last_ns = now_ns
        got_ns: dict[str, int] = {}
        for name, state in self._states.items():
            reading = readings.get(name)
            if reading is not None:
                got_ns[name] = max(0, reading.cpu_ns - state.last.cpu_ns)
                self._note_want(state, reading, got_ns[name], elapsed_ns)
                state.cycle_cpu_ns += got_ns[name]
                state.last = reading
        if 0 < elapsed_ns <= 10 * period_ns:
            self._account(got_ns, elapsed_ns, now_ns)
        stuck = tuple(
            name
            for name, state in self._states.items()
            if state.stuck_since_ns is not None and now_ns - state.stuck_since_ns >= STUCK_NS
        )
        return WeightDecision(self._answers(), now_ns + period_ns, self._close_cycle(now_ns), stuck)

    # -- what is due --------------------------------------------------------------------------------------------

    def _most(self, spec: PrincipalSpec) -> float:
        most = float(min(spec.parallelism, self.settings.cores))
        return most if spec.cap_cores is None else min(most, spec.cap_cores)

    def _note_want(self, state: _State, reading: Reading, got_ns: int, elapsed_ns: int) -> None:
        """Update the running mean of the cores that a principal used or waited for."""
        if elapsed_ns <= 0:
            return
        waited_ns = 0
        if reading.wait_ns is not None and state.last.wait_ns is not None:
            waited_ns = max(0, reading.wait_ns - state.last.wait_ns)
            wanted_ns = got_ns + waited_ns
            # Waiting shows only once it is over: who is ready now and has not run has waited all along.
            if reading.blocked is False and wanted_ns == 0:
                wanted_ns = elapsed_ns
        elif reading.blocked:
            wanted_ns = got_ns
        else:
            wanted_ns = round(self._most(state.spec) * elapsed_ns)
        state.idle = reading.blocked is True and got_ns + waited_ns < IDLE * elapsed_ns
        wanted = min(self._most(state.spec), wanted_ns / elapsed_ns)
        state.wanted += min(1.0, elapsed_ns / NS_PER_S) * (wanted - state.wanted)

    def _account(self, got_ns: Mapping[str, int], elapsed_ns: int, now_ns: int) -> None:
        total_ns = sum(got_ns.values())
        if total_ns <= 0:
            return
        bounds, full = self._bounds(got_ns, elapsed_ns, total_ns)
        fractions = feasible_fractions(bounds, self.settings.cores)
        # Limited by the share, or wanting all it can use: the others leave CPU unused, and take part in no debt.
        hungry = {
            name: fraction
            for name, fraction in fractions.items()
            if not self._states[name].idle
            and (name in full or fraction * total_ns < 0.95 * self._states[name].wanted * elapsed_ns)
        }
        for name in got_ns:
            state = self._states[name]
            if name not in hungry:
                part = min(1.0, elapsed_ns / self.settings.response_ns)
                state.debt_ns -= round(state.debt_ns * part)
                state.aim -= (state.aim - state.lasting) * part
                state.stuck_since_ns = None
        due_ns = spread_ns(hungry, sum(got_ns[name] for name in hungry))
        for name, fraction in hungry.items():
            self._steer(self._states[name], due_ns[name] - got_ns[name], fraction, elapsed_ns, now_ns)

    def _bounds(
        self, got_ns: Mapping[str, int], elapsed_ns: int, total_ns: int
    ) -> tuple[list[PrincipalSpec], set[str]]:
        """Everybody with what they can use as their cap, and who wants all of that.

        The caps are scaled to what all got together, as strangers may have had the rest of the host.
        """
        cores = self.settings.cores
        bounds: list[PrincipalSpec] = []
        full: set[str] = set()
        for name in got_ns:
            state = self._states[name]
            most = self._most(state.spec)
            if state.wanted >= FULL * most:
                full.add(name)
                usable = most
            else:
                usable = max(state.wanted, got_ns[name] / elapsed_ns)
            cap_cores = max(1e-9, cores * usable * elapsed_ns / total_ns)
            bounds.append(replace(state.spec, parallelism=cores, cap_cores=cap_cores))
        return bounds, full

    # -- the loop -----------------------------------------------------------------------------------------------

    def _steer(self, state: _State, error_ns: int, fraction: float, elapsed_ns: int, now_ns: int) -> None:
        bound_ns = max(1, round(DEBT_S * NS_PER_S * fraction * self.settings.cores))
        state.debt_ns = max(-bound_ns, min(bound_ns, state.debt_ns + error_ns))
        part = max(1e-9, fraction * self.settings.cores)
        behind_s = state.debt_ns / NS_PER_S / part
        response_s, elapsed_s = self.settings.response_ns / NS_PER_S, elapsed_ns / NS_PER_S
        noise_ns = self.settings.noise_ns * self.settings.cores
        noise_s = max(-noise_ns, min(noise_ns, state.debt_ns)) / NS_PER_S / part
        wish = (behind_s - CALM * noise_s) / response_s + state.lasting
        state.aim = max(-MOST_CORRECTION, min(MOST_CORRECTION, wish))
        if self._at_bound(state) and behind_s * state.aim > 0:
            # Anti wind-up: what is at its bound learns nothing from pushing on.
            if state.stuck_since_ns is None:
                state.stuck_since_ns = now_ns
            return
        state.stuck_since_ns = None
        state.lasting += behind_s * elapsed_s / (4.0 * response_s * response_s)
        state.lasting -= state.lasting * min(1.0, elapsed_s / FORGET_S)
        state.lasting = max(-MOST_CORRECTION, min(MOST_CORRECTION, state.lasting))

    def _at_bound(self, state: _State) -> bool:
        if abs(state.aim) >= MOST_CORRECTION:
            return True
        if state.knob is None:
            return False
        weight = self._nominal(state) * math.exp(state.aim)
        return weight >= state.knob.most if state.aim > 0 else weight <= state.knob.least

    # -- weights ------------------------------------------------------------------------------------------------

    def _nominal(self, state: _State) -> float:
        """The share-proportional weight: on average what a cgroup has that nobody touched, so that principals
        together stand against strangers as if they were left alone.
        """
        usual = state.knob.usual if state.knob is not None else 0
        return usual * state.spec.share * len(self._states) / sum(other.spec.share for other in self._states.values())

    def _answers(self) -> dict[str, int]:
        """Weights that differ from the last answer by more than the dead band."""
        answers: dict[str, int] = {}
        for name, state in self._states.items():
            if state.knob is None:
                continue
            exact = self._nominal(state) * math.exp(state.aim)
            weight = round(max(state.knob.least, min(state.knob.most, exact)))
            if state.weight is None or abs(weight - state.weight) > self.settings.dead_band * state.weight:
                answers[name] = state.weight = weight
        return answers

    def _close_cycle(self, now_ns: int) -> tuple[CycleRecord, ...]:
        used_ns = {name: state.cycle_cpu_ns for name, state in self._states.items()}
        if not used_ns or sum(used_ns.values()) < self.settings.cycle_ns:
            return ()
        for state in self._states.values():
            state.cycle_cpu_ns = 0
        self._cycles += 1
        return (CycleRecord(self._cycles - 1, now_ns, used_ns),)
