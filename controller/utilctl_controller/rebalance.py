"""The rebalancer: what the fleet reported and what operators want in, target sets out.

Everything that happens is a method call that carries the time (monotonic nanoseconds); nothing here waits,
reads a clock, logs or talks. A decision has two halves, so that the allocation between them can run
elsewhere::

    problem = rebalancer.plan(now_ns)               # None: nothing changed since the last decision
    allocation = allocate(problem) if problem else None
    pushes = rebalancer.conclude(problem, allocation, now_ns)

``tick`` does all three. Rules:

- A host of whose demand nothing is known yet gets static shares, and so does everyone while a new controller
  learns (``learning``); a host that still enforces the targets of an earlier one is left with them meanwhile.
- Nothing is sent when nothing changed, or changed by less than the dead band (see ``targets``).
- A set in force is renewed well before its lease ends, under the same generation; a silent host is not
renewed, and
  when its lease is over its capacity and demand count no more.
- Generations increase strictly within the epoch.
- An SEE whose policy holds it keeps the part of each host that the hold names; nobody else is granted that.
  Whoever calls leaves out holds whose time is over.
- While the fleet is disabled every set says so, and goes out at once, to hosts that keep earlier targets as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

from utilctl_common.policy import HeldShare, SeePolicy
from utilctl_controller.allocation.lint import unreachable
from utilctl_controller.allocation.model import (
    Allocation,
    AllocationProblem,
    HostCapacity,
    SeeAllocation,
    SeeClaim,
)
from utilctl_controller.demand import DEMAND_DIGITS
from utilctl_controller.fleet import AgentHello, HostReading, HostState, HostTarget, Push
from utilctl_controller.learning import Learning
from utilctl_controller.reports import ReportProblem, clean_report
from utilctl_controller.settings import ControllerSettings
from utilctl_controller.shares import ShareTree
from utilctl_controller.targets import (
    DIGITS,
    TINY_RATIO,
    Standby,
    host_caps,
    host_targets,
    positive_cores,
    static_targets,
    worth_sending,
)

Allocate = Callable[[AllocationProblem], Allocation]

HOSTS_A_PART: Final = 10
"""Hosts decided on before other events may be told. Arbitrary: about 2 ms."""


@dataclass(frozen=True, slots=True)
class Decision:
    """The newest allocation: what was asked, what was granted, and when.

    ``by_host`` is by host and SEE what is for the SEE's own processes: of a parent, without the SEEs below
    it. ``shared_out`` is by host the cores that this divides: what SEEs could use there when it was decided.
    """

    problem: AllocationProblem
    allocation: Allocation
    sees: Mapping[str, SeeAllocation]
    by_host: Mapping[str, Mapping[str, float]]
    shared_out: Mapping[str, float]
    decided_ns: int


def own_grants(sees: Mapping[str, SeeAllocation]) -> dict[str, dict[str, float]]:
    """By host and SEE the cores granted to the SEE's own processes: agents know SEEs side by side only."""
    by_host: dict[str, dict[str, float]] = {}
    for name, granted in sees.items():
        for host, cores in granted.own_host_cores.items():
            if cores > 0:
                by_host.setdefault(host, {})[name] = cores
    return by_host


def reachability_warnings(decision: Decision | None, policy: SeePolicy) -> tuple[str, ...]:
    """What ``policy`` would ask for and the fleet of the newest decision could not give; nothing before the first."""
    if decision is None:
        return ()
    demand = {see.name: see.demand_cores for see in decision.problem.sees}.get(policy.name, {})
    claim = SeeClaim(policy.name, policy.share, policy.floor_cores, policy.cap_cores, demand)
    others = tuple(see for see in decision.problem.sees if see.name != policy.name)
    return unreachable(replace(decision.problem, sees=(*others, claim)), (policy.name,))


class Rebalancer:
    """The fleet as one controller knows it. Not thread-safe: one caller at a time."""

    def __init__(self, settings: ControllerSettings, epoch: int, allocate: Allocate, now_ns: int) -> None:
        """``epoch`` is this controller's, above that of every earlier one; ``now_ns`` is when it starts."""
        self.epoch = epoch
        """In which targets are sent. For reading only; ``advance`` changes it."""
        self.hosts: dict[str, HostState] = {}
        """Every host ever heard of and not forgotten, connected or not. For reading only."""
        self.policies: Mapping[str, SeePolicy] = {}
        """The policies in force, by SEE. For reading only."""
        self.decision: Decision | None = None
        """The newest allocation; None before the first."""
        self.disabled = False
        """Whether nobody is to be held back anywhere. For reading only; ``on_switch`` changes it."""
        self._settings = settings
        self._allocate = allocate
        self._tree = ShareTree({})
        self._standby = Standby({}, self._tree)
        self._static: dict[float, tuple[HostTarget, ...]] = {}  # static targets without ceilings, by size of host
        self._held_sees: frozenset[str] = frozenset()
        self._kept_ratio: dict[str, float] = {}  # by host, what part of it holds keep
        self._generation = 0
        self._dirty = True  # there is something that the targets do not show yet
        self._changes = 0  # how often that became so
        self._learning = Learning(settings, epoch, now_ns)
        self._stale_ns = settings.stale_intervals * settings.report_interval_ns
        self._renew_ns = settings.lease_ns // settings.renewals_per_lease

    @property
    def tree(self) -> ShareTree:
        """The share tree of the policies in force."""
        return self._tree

    def learning(self, now_ns: int) -> bool:
        """Whether demand moves nothing yet because this controller has only just begun to lead."""
        return self._learning.active(now_ns)

    def advance(self, epoch: int) -> None:
        """This controller leads anew, by a later epoch: everybody is sent their targets again."""
        self.epoch = epoch
        for host in self.hosts.values():
            host.pushed = None
        self._stain()

    def _stain(self) -> None:
        self._dirty = True
        self._changes += 1

    # Events

    def on_policies(self, policies: Mapping[str, SeePolicy]) -> bool:
        """These policies are in force now, with the holds whose time is not over. Returns whether that is a change."""
        if dict(policies) == dict(self.policies):
            return False
        self.policies = dict(policies)
        self._tree = ShareTree(self.policies)
        self._standby = Standby(self.policies, self._tree)
        self._static = {}
        self._held_sees = frozenset(see for see, policy in self.policies.items() if policy.hold is not None)
        self._kept_ratio = {}
        for _, host, kept in self._kept():
            self._kept_ratio[host] = self._kept_ratio.get(host, 0.0) + kept.entitlement_ratio
        self._stain()
        return True

    def on_switch(self, *, disabled: bool) -> bool:
        """The fleet is disabled or enabled now. Returns whether that is a change."""
        if disabled == self.disabled:
            return False
        self.disabled = disabled
        self._stain()
        return True

    def on_hello(self, hello: AgentHello, now_ns: int) -> None:
        """An agent connected; ``hello`` has been checked.

        A host that still counts keeps what is known of it, whichever instance speaks now, so that the restart
        of an agent moves nothing; one that does not is unknown again until its first report.
        """
        host = self.hosts.get(hello.host)
        if host is None:
            host = self.hosts[hello.host] = HostState(hello, now_ns)
        elif not self.counts(host, now_ns):
            host.reading, host.reported_at_ns = None, None
            host.readings.clear()
            host.demand.clear()
        if host.hello.instance_id != hello.instance_id:
            host.overhead_ratio = 0.0
            host.applied_epoch = host.applied_generation = 0
        host.hello = hello
        host.hello_at_ns = now_ns
        host.connected = True
        host.resend = True
        host.changed_at_ns = now_ns
        self._learning.on_hello(hello.epoch, now_ns)
        self._stain()

    def on_report(
        self, name: str, report: HostReading, last_sequence: int | None, now_ns: int
    ) -> tuple[ReportProblem, ...]:
        """The agent of host ``name`` reported, on a stream whose newest report was ``last_sequence`` (None:
        none).

        Returns what was wrong with the report. SEEs without a policy are ignored: one deleted a moment ago is
        still reported for a while.
        """
        host = self.hosts[name]
        reading, problems = clean_report(host.hello, report, last_sequence, host.reading, host.readings)
        if reading is None:
            return problems
        loop, before = reading.loop, host.reading.loop if host.reading else None
        if loop and before and reading.interval_ns > 0:
            spent_ns = max(0, loop.overhead_total_ns - before.overhead_total_ns)
            host.overhead_ratio = spent_ns / reading.interval_ns
        if host.reading is None:
            self._stain()
        host.reading = reading
        host.readings = {entry.see: entry for entry in reading.sees if entry.see in self.policies}
        host.demand.add((entry.see, entry.demand_cores, entry.processes) for entry in host.readings.values())
        host.reported_at_ns = now_ns
        return problems

    def on_unchanged(self, name: str, now_ns: int) -> None:
        """The agent of host ``name`` would report what it reported last."""
        host = self.hosts[name]
        if host.reading is not None:
            host.demand.repeat()
            host.reported_at_ns = now_ns

    def on_applied(self, name: str, epoch: int, generation: int) -> None:
        """The agent of host ``name`` enforces this set. One that was never sent is not believed."""
        host = self.hosts[name]
        if epoch == self.epoch and host.pushed is not None and generation <= host.pushed.generation:
            host.applied_epoch, host.applied_generation = epoch, generation

    def on_disconnect(self, name: str, now_ns: int) -> None:
        """The agent of host ``name`` is gone; until its lease ends the host counts with what was last
        known."""
        host = self.hosts[name]
        host.connected = False
        host.changed_at_ns = now_ns

    # Decisions

    def tick(self, now_ns: int) -> list[Push]:
        """Decide, and return what is to be sent now."""
        problem = self.plan(now_ns)
        return self.conclude(problem, self._allocate(problem) if problem else None, now_ns)

    def counts(self, host: HostState, now_ns: int) -> bool:
        """Whether a host's capacity and demand are part of the fleet now."""
        return host.reading is not None and (self.fresh(host, now_ns) or now_ns < host.lease_end_ns)

    def fresh(self, host: HostState, now_ns: int) -> bool:
        """Whether a host is connected and has been heard within the stale limit."""
        heard_ns = host.hello_at_ns
        if host.reported_at_ns is not None:
            heard_ns = max(heard_ns, host.reported_at_ns)
        return host.connected and now_ns - heard_ns <= self._stale_ns

    def plan(self, now_ns: int) -> AllocationProblem | None:
        """The fleet's problem as it is now; None while learning and if it is the one decided last."""
        self._forget(now_ns)
        if self.learning(now_ns):
            return None
        counted = [host for _, host in sorted(self.hosts.items()) if self.counts(host, now_ns)]
        demand: dict[str, dict[str, float]] = {see: {} for see in self.policies}
        for host in counted:
            for see, cores in self._wanted(host).items():
                if see in demand:
                    demand[see][host.name] = cores
        problem = AllocationProblem(
            self._settings.mode,
            tuple(HostCapacity(host.name, round(self._free_cores(host), DEMAND_DIGITS)) for host in counted),
            tuple(
                SeeClaim(name, policy.share, policy.floor_cores, policy.cap_cores, demand[name])
                for name, policy in sorted(self.policies.items())
            ),
        )
        if self.decision is not None and problem == self.decision.problem:
            return None
        return problem

    def conclude(self, problem: AllocationProblem | None, allocation: Allocation | None, now_ns: int) -> list[Push]:
        """Take in the allocation of ``problem`` (None: the last one holds) and return what is to be sent now."""
        return [push for part in self.conclude_in_parts(problem, allocation, now_ns) for push in part]

    def conclude_in_parts(
        self, problem: AllocationProblem | None, allocation: Allocation | None, now_ns: int
    ) -> Iterator[list[Push]]:
        """As ``conclude``, some hosts at a time: between two parts, other events may be told. To its end, or the rest
        is decided next time.
        """
        if problem is not None and allocation is not None:
            sees = {granted.name: granted for granted in allocation.sees}
            by_host = own_grants(sees)
            shared_out = {host.name: host.capacity_cores for host in problem.hosts}
            for see, where, kept in self._kept():
                if kept.entitlement_ratio > 0 and where in self.hosts:
                    cores = kept.entitlement_ratio * self.hosts[where].available_cores
                    by_host.setdefault(where, {})[see] = cores
                    shared_out[where] = shared_out.get(where, 0.0) + cores
            self.decision = Decision(problem, allocation, sees, by_host, shared_out, now_ns)
            self._stain()
        pushes: list[Push] = []
        caps: dict[str, dict[str, float]] | None = None
        generation = self._generation + 1
        dirty, changes = self._dirty, self._changes
        held = False
        for position, (name, host) in enumerate(sorted(self.hosts.items())):
            if position and position % HOSTS_A_PART == 0:
                yield pushes
                pushes = []
                if self._generation > generation:  # somebody else has concluded in between
                    generation = self._generation + 1
            if not host.connected:
                continue
            if self._held(host, now_ns):
                held = True
                continue
            by_demand = self._by_demand(host, now_ns)
            changed: tuple[HostTarget, ...] | None = None
            if dirty or by_demand != host.by_demand or host.pushed is None:
                if caps is None:
                    caps = self._caps(now_ns)
                targets = self._targets(host, by_demand, caps.get(name, {}))
                before = host.pushed
                if (
                    before is None
                    or before.disabled != self.disabled
                    or worth_sending(before.targets, targets, host.total_cores)
                ):
                    changed = targets
                    host.pushed_cores = self._shared_out(host) if by_demand else host.total_cores
                host.by_demand = by_demand
            if (push := self._send(host, changed, generation, now_ns)) is not None:
                pushes.append(push)
                self._generation = max(self._generation, push.generation)
        if self._changes == changes:  # else what was decided on is not all that is new
            self._dirty = held
        yield pushes

    def _send(
        self, host: HostState, changed: tuple[HostTarget, ...] | None, generation: int, now_ns: int
    ) -> Push | None:
        fresh = self.fresh(host, now_ns)
        if changed is not None:
            push = Push(
                host.name,
                self.epoch,
                generation,
                self._settings.lease_ns,
                changed,
                renewal=False,
                disabled=self.disabled,
            )
        elif host.pushed is not None and (host.resend or (fresh and now_ns - host.pushed_at_ns >= self._renew_ns)):
            push = replace(host.pushed, renewal=True)
        else:
            return None
        host.pushed = push
        host.pushed_at_ns = now_ns
        host.resend = False
        if fresh:
            # A set sent to a silent host must not make it count for another lease.
            host.lease_end_ns = now_ns + self._settings.lease_ns
        return push

    def _by_demand(self, host: HostState, now_ns: int) -> bool:
        return self.counts(host, now_ns) and self.decision is not None and not self.learning(now_ns)

    def _held(self, host: HostState, now_ns: int) -> bool:
        """Whether a host keeps the targets of an earlier controller until this one knows its demand."""
        if host.pushed is not None or host.hello.epoch == 0 or self.disabled:
            return False
        recent = self.learning(now_ns) or now_ns - host.hello_at_ns <= self._stale_ns
        return recent and not self._by_demand(host, now_ns)

    def _targets(self, host: HostState, by_demand: bool, caps: Mapping[str, float]) -> tuple[HostTarget, ...]:
        if not by_demand or self.decision is None or host.available_cores < TINY_RATIO * host.total_cores:
            # A host that others use up has nothing to grant; what is left over is still split by shares.
            targets = self._static.get(host.total_cores, ()) if not caps else ()
            if not targets:
                targets = static_targets(self.policies, self._tree, host.total_cores, caps)
            if not caps:
                self._static[host.total_cores] = targets
        else:
            granted = self.decision.by_host.get(host.name, {})
            wanted = self._wanted(host)
            targets = host_targets(
                self.policies, self._tree, self._free_cores(host), granted, wanted, caps, self._standby
            )
        if not self._held_sees:
            return targets
        cores = host.available_cores if by_demand else host.total_cores
        return tuple(_as_held(target, host.name, cores) for target in targets)

    # Holds

    def targets_of(self, see: str, now_ns: int) -> dict[str, HeldShare]:
        """What ``see`` has on every host that counts on its targets now: what a hold of it is to keep."""
        kept: dict[str, HeldShare] = {}
        for name, host in self.hosts.items():
            if host.pushed is not None and host.pushed_cores > 0 and (host.connected or now_ns < host.lease_end_ns):
                for target in host.pushed.targets:
                    if target.policy.name == see:
                        weight_ratio = target.weight / host.pushed_cores
                        granted_ratio = min(1.0, target.entitlement_cores / host.pushed_cores)
                        kept[name] = HeldShare(weight_ratio, granted_ratio, target.cap_cores)
        return kept

    def _kept(self) -> Iterator[tuple[str, str, HeldShare]]:
        """SEE, host, and what is kept there, of every hold."""
        for see in sorted(self._held_sees):
            hold = self.policies[see].hold
            assert hold is not None
            for host, kept in hold.hosts.items():
                yield see, host, kept

    def _wanted(self, host: HostState) -> Mapping[str, float]:
        """Demand on a host that the allocation is to meet: that of an SEE that is held is met already."""
        demand = host.demand.cores()
        if not self._held_sees:
            return demand
        return {see: cores for see, cores in demand.items() if see not in self._held_sees}

    def _shared_out(self, host: HostState) -> float:
        """Cores that the newest decision divides on a host. What is free there by now may be more or less."""
        assert self.decision is not None
        return self.decision.shared_out.get(host.name, host.available_cores)

    def _free_cores(self, host: HostState) -> float:
        """Cores that the allocation may grant on a host."""
        return max(0.0, host.available_cores * (1.0 - self._kept_ratio.get(host.name, 0.0)))

    def _caps(self, now_ns: int) -> dict[str, dict[str, float]]:
        """Ceilings by host and SEE, over the hosts that may be running anything of ours."""
        live = {name: host for name, host in self.hosts.items() if host.connected or now_ns < host.lease_end_ns}
        return host_caps(
            self.policies,
            self.decision.by_host if self.decision else {},
            {
                name: frozenset(see for see, entry in host.readings.items() if entry.processes > 0)
                for name, host in live.items()
            },
            {name: host.total_cores for name, host in live.items()},
        )

    def _forget(self, now_ns: int) -> None:
        gone = [
            name
            for name, host in self.hosts.items()
            if not host.connected and now_ns - host.changed_at_ns > self._settings.forget_ns
        ]
        for name in gone:
            del self.hosts[name]


def _as_held(target: HostTarget, host: str, cores: float) -> HostTarget:
    """``target``, or what a hold of its SEE keeps of the ``cores`` of ``host``."""
    hold = target.policy.hold
    kept = hold.hosts.get(host) if hold is not None else None
    if kept is None:
        return target
    weight, entitlement = positive_cores(kept.weight_ratio * cores), round(kept.entitlement_ratio * cores, DIGITS)
    return HostTarget(target.policy, weight, entitlement, kept.cap_cores)
