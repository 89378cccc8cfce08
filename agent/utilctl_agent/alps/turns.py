"""The default core: event-driven turns.

The paper lets every principal with allowance compete and looks at them once a quantum. This core keeps the paper's
model (allowances, cycles, errors carried over) and changes who is looked at, and when:

- A principal is *hungry* if it was ready or running all the time we last watched it, else *light*. Light ones stay
  eligible while they have allowance: they take little, and the kernel serves them promptly.
- Hungry ones take *turns*: only as many are eligible at once as the cores can run. A turn ends when the allowance is
  used up, at an instant known in advance, so nobody has to be sampled before it.
- A cycle ends when no hungry principal has allowance left, or when a core would idle although somebody is hungry.
  What is left over is carried into the next cycle only as far as the principal was held back (paused by us, or ready
  and waiting); time in which it wanted nothing earns no credit. Overruns are carried as debts.
- Nobody is paused while nobody else wants the CPU.
- In long cycles those with much allowance left share the core by the kernel's fairness first (module ``together``),
  hundreds of principals all the time (module ``crowd``).
- In a cycle longer than a round everybody gets several turns, so that nobody has to be let go before its time
  because it was paused for too long (module ``pauses``): that would cost small shares their accuracy.

Work conservation (paper section 2.4) follows: a principal that blocks during its turn turns light, and the next
hungry one is admitted beside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from utilctl_agent.alps import crowd, lead, lights, together
from utilctl_agent.alps.accounts import Accounts
from utilctl_agent.alps.allotment import allotments_ns
from utilctl_agent.alps.caps import caps_due_ns, fill
from utilctl_agent.alps.carry import DONE_NS, MIN_TURN_NS, begin_afresh, begin_cycle, fills, threshold_ns
from utilctl_agent.alps.feasible import most_cores, usable_cores
from utilctl_agent.alps.lagging import IDLING, Lagging, prove
from utilctl_agent.alps.lead import Lead
from utilctl_agent.alps.model import CoreSettings, CycleRecord, Decision, PrincipalSpec, Reading, Switch
from utilctl_agent.alps.plan import PlannedTurn, plan_turns, rules_for
from utilctl_agent.alps.principal import FULL_TOLERANCE_CORES, LOOK_NS, TRUSTED, Principal, observe, proven
from utilctl_agent.alps.roles import Roles
from utilctl_agent.alps.rounds import ROUND_NS, floor_ns, rounds_in, turns_used
from utilctl_agent.alps.stretch import Stretch
from utilctl_agent.alps.together import SharedTurn


class TurnScheduler:
    """The default core; implements model.Scheduler. Deterministic: same calls, same decisions."""

    def __init__(self, settings: CoreSettings) -> None:
        self._settings = settings
        self._principals: dict[str, Principal] = {}
        self._cores = settings.cores
        self._roles = Roles()
        self._turn, self._queue, self._lights = self._roles.turn, self._roles.queue, self._roles.lights
        self._spent, self._shut = self._roles.spent, self._roles.shut
        self._move = self._roles.move
        self._caps: list[Principal] = []
        self._accounts = Accounts()
        self._shared = SharedTurn(settings.max_sleep_ns)
        self._stale = False  # somebody came or left since allotments were made
        self._rounds = 1
        self._round = 0  # most turns that anybody has begun in this cycle
        self._held_back = False  # somebody who wanted CPU was paused in this cycle
        self._scan_ns = self._scanned_ns = 0  # when to look at idle principals again, and when that was done last
        self._caps_filled_ns: int | None = None
        self._lead = Lead(settings.cores)
        self._unseen_ns = self._lead.most_ns + settings.cores * settings.reading_error_ns
        self._plan: list[PlannedTurn] = []
        self._stretch = Stretch(settings.cores)
        self._lagging = Lagging(settings, self._accounts, self._lead)
        self._unsettled = self._lagging.unsettled

    @property
    def stretch(self) -> float:
        """See model.Scheduler."""
        return self._stretch.factor

    # -- membership ---------------------------------------------------------------------------------------------

    def put(self, spec: PrincipalSpec, now_ns: int, reading: Reading) -> None:
        """See model.Scheduler. A newcomer is eligible with a full allotment and is observed for half a quantum."""
        most = most_cores(spec, self._settings.cores)
        known = self._principals.get(spec.name)
        if known is None:
            known = Principal(
                spec, reading.cpu_ns, reading.wait_ns, now_ns, most, others_mark_ns=self._accounts.total_ns
            )
            self._principals[spec.name] = known
            self._roles.enter(known)
        else:
            if known.spec.parallelism != spec.parallelism:
                known.rate_cores = most
            known.spec = spec
            known.rate_cores = min(known.rate_cores, most)
        self._caps = [p for p in self._principals.values() if p.spec.cap_cores is not None]
        if known.role == "capped" and spec.cap_cores is None:
            self._roles.classified(known)
        self._stale = True  # made anew once for all who come at the same time

    def remove(self, name: str) -> None:
        """See model.Scheduler."""
        gone = self._principals.pop(name)
        self._unsettled.remove(name)
        self._roles.leave(gone)
        if gone in self._caps:
            self._caps.remove(gone)
        self._accounts.forget(gone)
        self._stale = True

    def _reallot(self) -> None:
        self._stale = False
        allotted = allotments_ns([p.spec for p in self._principals.values()], self._settings, stretch=self.stretch)
        for name, principal in self._principals.items():
            principal.allowance_ns += allotted[name] - principal.allotment_ns
            principal.allotment_ns = allotted[name]
            if principal.role == "spent" and principal.allowance_ns > threshold_ns(principal):
                self._move(principal, "queue")
            elif principal.role == "shut" and principal.allowance_ns > DONE_NS:
                self._move(principal, "light")
        self._accounts.allotted_ns = sum(allotted.values())
        self._rounds = rounds_in(self._accounts.allotted_ns, self._cores)

    # -- one decision -------------------------------------------------------------------------------------------

    def due(self, now_ns: int) -> Mapping[str, bool]:
        """Everybody who is in a turn or was lately active; the idle ones only now and then."""
        if self._shared:
            due = self._shared.due(now_ns)
        else:
            due = {name: now_ns >= p.observe_at_ns for name, p in self._turn.items()}
        for name in self._unsettled.names:
            due[name] = False
        if self._lights:
            scan = now_ns >= self._scan_ns
            for name, principal in self._lights.items():
                if principal.active:
                    due[name] = now_ns >= principal.observe_at_ns
                elif scan:
                    due[name] = False
        return due

    def decide(self, now_ns: int, readings: Mapping[str, Reading]) -> Decision:
        """See model.Scheduler."""
        if self._stale:
            self._reallot()
        if now_ns >= self._scan_ns:  # so the idle ones are among the readings
            self._scanned_ns = now_ns
            self._scan_ns = now_ns + lights.glance_period_ns(len(self._lights), self._settings)
        self._account(now_ns, readings)
        if self._caps:
            self._fill_caps(now_ns)
        settled = self._unsettled.completed()
        closed = self._rotate(now_ns)
        ineligible: list[str] = []
        eligible: list[str] = []
        if self._roles.moved:
            for principal in self._roles.moved:
                may_run = principal.role in ("turn", "light")
                if may_run != principal.eligible:
                    self._switch(principal, may_run, now_ns)
                    (eligible if may_run else ineligible).append(principal.spec.name)
            self._roles.moved.clear()
        closed = (*settled, *self._unsettled.complete(closed))
        sleep_ns = self._sleep_ns(now_ns)
        self._plan = self._planned(now_ns)
        if self._plan:
            turns = tuple(planned.turn for planned in self._plan)
            self._lagging.plan_begins()
            wake_ns, lags = turns[0].until_ns, self._lagging.on
            return Decision(tuple(ineligible), tuple(eligible), wake_ns, closed, turns, lags, cores=self._cores)
        idle = not self._caps and lights.idle(self._lights.values(), len(self._principals))
        return Decision(tuple(ineligible), tuple(eligible), now_ns + sleep_ns, closed, idle=idle)

    def _switch(self, principal: Principal, may_run: bool, now_ns: int) -> None:
        others_ns = self._accounts.total_ns - principal.used_ns
        if may_run:
            principal.credit_ns += round((now_ns - principal.ineligible_since_ns) * principal.rate_cores)
            principal.last_ns = principal.turn_began_ns = now_ns
            principal.turn_used_ns = principal.used_ns
        else:
            if self._lagging.on:
                self._unsettled.add(principal)
            principal.ineligible_since_ns = now_ns
            principal.observed_others_ns += others_ns - principal.others_mark_ns
        principal.others_mark_ns = others_ns
        principal.eligible = may_run

    def _glance_early(self) -> None:
        """Somebody else seems to run in a turn that is not used: one of the idle ones may have begun to work."""
        self._scan_ns = min(self._scan_ns, self._scanned_ns + lights.GLANCE_EACH_NS * len(self._lights))

    # -- plans --------------------------------------------------------------------------------------------------

    def _planned(self, now_ns: int) -> list[PlannedTurn]:
        """Turns ahead, if everybody who is active is trusted to want all the CPU there is; else nothing."""
        settings = self._settings
        if self._shared or len(self._turn) != 1 or len(self._unsettled.names) > 1 or not (self._queue or self._spent):
            return []
        if self._caps or self._shut or any(light.active for light in self._lights.values()):
            return []
        everybody = [p for p in self._principals.values() if p.hungry]
        (current,) = self._turn.values()
        # Others are observed in their own turns: a plan ends where one is not used. Where readings lag, that would show
        # too late.
        if any(p.observe_at_ns == 0 for p in (everybody if self._lagging.on else (current,))):
            return []
        if any(p.streak < TRUSTED or not fills(p, settings.cores) for p in everybody):
            return []
        rules = rules_for(
            settings,
            self._lead,
            lagging=self._lagging.on,
            cycle_ns=self._accounts.allotted_ns,
            most_ns=lights.glance_period_ns(len(self._lights), settings) if self._lights else None,
            together=self._amounts_together,
        )
        closings_left = None if settings.cycles is None else settings.cycles - self._accounts.cycles
        return plan_turns(
            current,
            self._queue.values(),
            everybody,
            rules,
            now_ns=now_ns,
            round_now=self._round,
            closings_left=closings_left,
        )

    def follow(self, switches: Sequence[Switch], *, failed: bool) -> tuple[CycleRecord, ...]:
        """See model.Scheduler. Whoever used a planned turn to the full has proven that it is still hungry."""
        closed: list[CycleRecord] = []
        for switch, ended, begun in zip(switches, self._plan, self._plan[1:], strict=False):
            now_ns = switch.now_ns
            if self._lagging.on:
                closed += self._lagging.settle_last(ended.places[0].principal, switch)
            else:
                self._charge_turn(ended, switch)
            if begun.places is ended.places:
                continue
            for principal, floor, _ in ended.places:
                self._move(principal, "queue" if floor > 0 and principal.left_ns > DONE_NS else "spent")
            records = self._close(now_ns) if begun.closes else ()
            for principal, floor, turns in begun.places:
                self._move(principal, "turn")
                principal.turn_floor_ns = floor
                principal.turns = turns
                principal.due_ns = begun.turn.until_ns
                self._round = max(self._round, turns)
            for place in ended.places:
                self._switch(place.principal, False, now_ns)
            for place in begun.places:
                self._switch(place.principal, True, now_ns)
            if len(begun.places) > 1:
                self._shared.begin(self._turn, now_ns)
            closed += self._unsettled.complete(records)
            self._held_back = True
        if self._stretch.learn(switches, self._accounts.allotted_ns):
            self._reallot()
        if switches:
            self._lead.switching_takes(sum(switch.took_ns for switch in switches) // len(switches))
        self._roles.moved.clear()
        self._plan = []
        if failed and not self._lagging.on:
            self._glance_early()
            for principal in self._turn.values():
                principal.observe_at_ns = 0
        return tuple(closed)

    def _charge_turn(self, ended: PlannedTurn, switch: Switch) -> None:
        used_ns = elapsed_ns = 0
        for place, cpu_ns in zip(ended.places, (switch.cpu_ns, *switch.others_cpu_ns), strict=True):
            elapsed_ns = switch.now_ns - place.principal.last_ns
            used_ns = self._accounts.charge(place.principal, switch.now_ns, cpu_ns)
            if len(ended.places) > 1:
                proven(place.principal)
        if len(ended.places) == 1:
            planned = ended is not self._plan[0]
            (place,) = ended.places
            prove(place.principal, self._lead, self._cores, elapsed_ns=elapsed_ns, used_ns=used_ns, planned=planned)

    # -- accounting ---------------------------------------------------------------------------------------------

    def _account(self, now_ns: int, readings: Mapping[str, Reading]) -> None:
        half_quantum_ns = self._settings.quantum_ns // 2
        concluded: list[tuple[Principal, Reading]] | None = None
        shared: list[tuple[Principal, int]] = []
        for name, reading in readings.items():
            principal = self._principals.get(name)
            if principal is None:
                continue
            cpu_ns, wait_ns, blocked, _, _ = reading
            if name in self._unsettled.names:
                self._lagging.settle(principal, cpu_ns)
                continue
            if not principal.eligible:
                self._charge_breath(principal, cpu_ns)
                continue
            elapsed_ns = now_ns - principal.last_ns
            used_ns = self._accounts.charge(principal, now_ns, cpu_ns)
            if principal.together:
                shared.append((principal, used_ns))
            elif principal.role == "turn":
                if used_ns + self._unseen_ns < IDLING * principal.rate_cores * elapsed_ns:
                    principal.observe_at_ns = 0
                    self._glance_early()
                elif 0 < principal.due_ns <= now_ns and elapsed_ns - used_ns <= self._lead.most_ns:
                    self._lead.learn(elapsed_ns - used_ns, planned=False)
                    if (
                        principal.hungry
                        and not principal.proof_ns
                        and elapsed_ns >= MIN_TURN_NS
                        and not self._lagging.on
                    ):
                        principal.streak = TRUSTED  # a turn used to its end says more than any observation
            elif principal.role == "light" and not principal.active and principal.observed_ns >= half_quantum_ns:
                lights.glanced(principal, self._settings, self._accounts.use())
                continue
            if (wait_ns is not None or blocked is not None) and principal.observed_ns >= half_quantum_ns:
                concluded = [*(concluded or ()), (principal, reading)]
        if self._shared and self._shared.account(shared, now_ns) and concluded:
            concluded = [entry for entry in concluded if not entry[0].together]
        for principal, reading in concluded or ():
            changed = observe(principal, reading, self._settings, self._accounts.use())
            if changed and principal.role != "capped":
                self._roles.classified(principal)
            trusted = principal.hungry and principal.streak >= TRUSTED
            principal.observe_at_ns = now_ns + (LOOK_NS if trusted else half_quantum_ns)

    def _charge_breath(self, principal: Principal, cpu_ns: int) -> None:
        """Account for what an ineligible principal used in a breath: in this cycle, and no sign of how it behaves."""
        self._accounts.take(principal, cpu_ns)
        if principal.role == "queue" and principal.left_ns <= threshold_ns(principal):
            self._move(principal, "spent")

    def _fill_caps(self, now_ns: int) -> None:
        elapsed_ns = 0 if self._caps_filled_ns is None else now_ns - self._caps_filled_ns
        self._caps_filled_ns = now_ns
        for principal in self._caps:
            most_ns = fill(principal, elapsed_ns, self._settings, self._accounts.allotted_ns)
            if principal.role != "capped" and principal.cap_budget_ns <= 0:
                self._move(principal, "capped")
            elif principal.role == "capped" and principal.cap_budget_ns >= most_ns // 2:
                self._roles.classified(principal)

    # -- turns and cycles ---------------------------------------------------------------------------------------

    def _rotate(self, now_ns: int) -> tuple[CycleRecord, ...]:
        """End turns that are over, begin others, end the cycle if it is over; returns its record."""
        if self._shared:
            if self._shared.ends(now_ns) and self._left_ns() <= crowd.OVER_NS:
                return self._close_shared(now_ns)
            if self._shared.crowd != self._crowded():  # it has become one, or is no longer one
                self._requeue()
            over = self._shared.over() if self._turn else []
            for principal in over:
                used = turns_used(principal.left_ns, principal.allotment_ns, self._rounds)
                principal.turns = max(principal.turns, used)
                self._round = max(self._round, principal.turns)
        else:
            over = []
            for principal in self._turn.values():
                lagging_ns = self._lagging.unseen_ns(principal, now_ns)
                if principal.allowance_ns - lagging_ns <= principal.turn_floor_ns + DONE_NS:
                    principal.pending_ns = lagging_ns
                    over.append(principal)
        for principal in over:
            self._move(principal, "spent" if principal.left_ns <= DONE_NS else "queue")
        exhausted = [p for p in self._lights.values() if p.allowance_ns <= DONE_NS] if self._lights else []
        if self._turn and not exhausted and not self._roles.moved and self._cores == 1:
            return ()  # the turn goes on
        if not (self._turn or self._queue or self._spent):
            return self._close_idle(now_ns) if exhausted or self._shut else ()
        for principal in exhausted:
            self._move(principal, "shut")
        load = self._admit(now_ns)
        # On one core a hungry principal with allowance leaves nothing idle, however little of the core is left to it.
        full = self._turn and (self._cores == 1 or load >= self._cores - FULL_TOLERANCE_CORES)
        closed: tuple[CycleRecord, ...] = ()
        if not full and (self._spent or self._shut):
            closed = self._close(now_ns)
            self._admit(now_ns)
        if self._queue or self._spent or self._shut:
            self._held_back = True
        return closed

    def _admit(self, now_ns: int) -> float:
        """Begin turns until the cores are full; returns the cores in use."""
        if self._shared and self._queue:
            waiting = self._queue.values()
            for principal in self._shared.joins(waiting, cycle_ns=self._accounts.allotted_ns, round_ns=ROUND_NS):
                self._move(principal, "turn")
        load = 0.0
        for principal in self._turn.values():
            load += principal.rate_cores
        if not self._turn and self._cores == 1:
            for name, amount_ns in self._amounts_together([(p, p.allowance_ns) for p in self._queue.values()]).items():
                member = self._queue[name]
                self._move(member, "turn")
                member.turn_floor_ns = member.allowance_ns - amount_ns
                load += member.rate_cores
            if self._turn:
                self._shared.begin(self._turn, now_ns, crowd=self._crowded())
        while self._queue and load < self._cores - FULL_TOLERANCE_CORES:
            principal = next(iter(self._queue.values()))
            self._move(principal, "turn")
            missed = max(principal.turns, self._round - 1)
            principal.turn_floor_ns = floor_ns(principal.allowance_ns, missed, self._rounds)
            principal.turns = missed + 1
            self._round = max(self._round, principal.turns)
            load += principal.rate_cores
        return load

    def _amounts_together(self, candidates: Iterable[tuple[Principal, int]]) -> dict[str, int]:
        if not self._shareable():
            return {}
        known = list(candidates)
        if self._crowded():
            return crowd.amounts(known)
        if sum(allowance_ns for _, allowance_ns in known) < together.TOGETHER_FROM * ROUND_NS:
            return {}  # what is left of this cycle is for exact turns
        return together.amounts_together(known, cycle_ns=self._accounts.allotted_ns, round_ns=ROUND_NS)

    def _shareable(self) -> bool:
        """Whether turns of several are possible: on one core, in long cycles, and nobody is to be stopped by a cap."""
        return self._cores == 1 and self._accounts.allotted_ns >= 2 * ROUND_NS and not self._caps

    def _crowded(self) -> bool:
        return self._shareable() and crowd.is_crowd(len(self._turn) + len(self._queue) + len(self._spent))

    def _left_ns(self, *, waiting_only: bool = False) -> int:
        waiting = (self._queue.values(), self._spent.values())
        return crowd.left_ns(waiting if waiting_only else (self._turn.values(), *waiting))

    def _requeue(self) -> None:
        """End the turn of several, for other terms."""
        for principal in list(self._turn.values()):
            self._move(principal, "queue")

    def _close_shared(self, now_ns: int) -> tuple[CycleRecord, ...]:
        """End the cycle of a crowd, which goes on sharing the core."""
        self._requeue()
        self._held_back = True  # by each other, paused or not
        closed = self._close(now_ns)
        self._admit(now_ns)
        self._held_back = bool(self._queue or self._spent or self._shut)
        return closed

    def _close(self, now_ns: int) -> tuple[CycleRecord, ...]:
        """End the cycle, and as many empty ones after it as it takes until somebody hungry has allowance."""
        everybody = self._principals.values()
        # Where nobody was held back, what was used beyond the allotment did no harm and is no debt.
        least_ns = -self._accounts.allotted_ns if self._held_back else 0
        begin_cycle(everybody, now_ns, cores=self._cores, least_ns=least_ns)
        self._round = 0
        ready = [p for p in everybody if p.role in ("spent", "queue") and p.left_ns > threshold_ns(p)]
        if not all(fills(p, self._cores) for p in ready):
            # The longest first leaves the short ones to fill up the cores at the end of the cycle (the LPT rule).
            ready.sort(key=lambda p: -p.allowance_ns / max(p.rate_cores, FULL_TOLERANCE_CORES))
        for principal in ready:
            self._move(principal, "queue")
        for principal in [p for p in self._shut.values() if p.allowance_ns > DONE_NS]:
            self._move(principal, "light")
        return self._record(now_ns)

    def _close_idle(self, now_ns: int) -> tuple[CycleRecord, ...]:
        """Nobody is hungry, so nobody's use takes anything from anybody: everyone starts afresh."""
        begin_afresh(self._principals.values())
        for principal in list(self._shut.values()):
            self._move(principal, "light")
        return self._record(now_ns)

    def _record(self, now_ns: int) -> tuple[CycleRecord, ...]:
        self._held_back = False
        return (self._accounts.close(self._principals, now_ns),)

    def _sleep_ns(self, now_ns: int) -> int:
        settings = self._settings
        contended = bool(self._queue or self._spent or self._shut)
        sleep_ns = settings.max_sleep_ns if contended or self._turn else settings.idle_sleep_ns
        if self._shared:
            return self._shared.sleep_ns(now_ns, self._left_ns(waiting_only=True))
        for principal in self._turn.values():
            principal.due_ns = 0
            if contended:
                left_ns = max(
                    0, principal.allowance_ns - principal.turn_floor_ns - self._lagging.unseen_ns(principal, now_ns)
                )
                turn_ns = left_ns // usable_cores(principal.spec, settings.cores) + self._lead.decided_ns
                principal.due_ns = now_ns + turn_ns
                turn_ns += lead.AIM_NS
                watch_ns = settings.quantum_ns << principal.streak
                if watch_ns < sleep_ns:
                    sleep_ns = watch_ns
                if turn_ns < sleep_ns:
                    sleep_ns = turn_ns
        if self._lights:
            look_ns = lights.sleep_ns(self._lights.values(), settings, contended=contended or bool(self._turn))
            if look_ns is not None and look_ns < sleep_ns:
                sleep_ns = look_ns
        if self._caps:
            sleep_ns = min(sleep_ns, caps_due_ns(self._caps, settings, self._accounts.allotted_ns))
        return max(settings.min_gap_ns, sleep_ns)
