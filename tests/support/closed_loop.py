"""A fleet in a closed loop, in pure values: what services want, what hosts let them have, what agents conclude from it,
what the rebalancer makes of that, and what hosts let them have then.

A host splits its cores as an agent does: among those that want some, by weight, nothing left idle. What an agent
reports is what its own estimator (``link.demand``) makes of the use and the pauses that come of this.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field

from support.fleet_values import Fleet, policies
from utilctl_agent.link.demand import Usage, demand_cores
from utilctl_common.policy import SeePolicy
from utilctl_common.quantities import NS_PER_S
from utilctl_controller.allocation.model import AllocationProblem, HostCapacity, SeeClaim
from utilctl_controller.allocation.solver import allocate

Wants = Mapping[str, Mapping[str, float]]
"""By host and SEE: cores that it would use if nothing held it back. Whole numbers: so many threads that compute."""


def split(cores: float, wants: Mapping[str, float], weights: Mapping[str, float]) -> dict[str, float]:
    """Cores that everybody gets on one host: weighted max-min fair, and nothing idle that anybody wants."""
    got = dict.fromkeys(wants, 0.0)
    hungry = {see for see, wanted in wants.items() if wanted > 0}
    left = cores
    while hungry and left > 1e-12:
        level = left / sum(weights[see] for see in hungry)
        sated = {see for see in hungry if wants[see] - got[see] <= level * weights[see] + 1e-12}
        if not sated:
            for see in hungry:
                got[see] += level * weights[see]
            break
        for see in sated:
            left -= wants[see] - got[see]
            got[see] = wants[see]
        hungry -= sated
    return got


@dataclass(slots=True)
class ClosedLoop:
    """``step`` is one report interval. ``used`` and ``fair`` are cores by SEE in the newest one: what each got over the
    fleet, and what the exact allocation of the true wants is."""

    policies: dict[str, SeePolicy]
    cores: Mapping[str, float]
    used: dict[str, float] = field(default_factory=dict)
    fair: dict[str, float] = field(default_factory=dict)
    pushes: int = 0
    _fleet: Fleet = field(init=False)
    _demand: dict[tuple[str, str], float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._fleet = Fleet(self.policies)
        for host, cores in self.cores.items():
            self._fleet.hello(host, cores)
        self._fleet.tick()

    def step(self, wants: Wants, *, noise: Mapping[tuple[str, str], float] | None = None) -> None:
        """Everybody wants this for one interval. noise: factors by which measured use is wrong, by host and SEE."""
        self.used = dict.fromkeys(self.policies, 0.0)
        for host, cores in self.cores.items():
            here = wants[host]
            weights = self._fleet.weights(host)
            got = split(cores, here, weights)
            full = sum(got.values()) > cores - 1e-6
            report: dict[str, float] = {}
            for see, wanted in here.items():
                self.used[see] += got[see]
                factor = noise.get((host, see), 1.0) if noise is not None else 1.0
                report[see] = self._estimated(host, see, wanted, got[see] * factor, full=full)
            self._fleet.report(host, report, cores=cores)
        self.pushes = sum(not push.renewal for push in self._fleet.tick(1))
        self.fair = self._exact(wants)

    def _estimated(self, host: str, see: str, wanted: float, got: float, *, full: bool) -> float:
        threads = max(1, round(wanted + 0.499))
        ran = min(1.0, got / wanted) if wanted > 0 else 1.0
        usage = Usage(
            elapsed_ns=NS_PER_S,
            cpu_ns=round(got * NS_PER_S),
            paused_ns=round((1.0 - ran) * NS_PER_S),
            wait_ns=0,
            parallelism=threads,
            cores=round(self.cores[host]),
        )
        last = self._demand.get((host, see), 0.0)
        self._demand[host, see] = demand_cores(usage, last, host_is_full=full)
        return self._demand[host, see]

    def _exact(self, wants: Wants) -> dict[str, float]:
        problem = AllocationProblem(
            "fleet",
            tuple(HostCapacity(host, cores) for host, cores in self.cores.items()),
            tuple(
                SeeClaim(see, policy.share, policy.floor_cores, policy.cap_cores, {h: wants[h][see] for h in wants})
                for see, policy in sorted(self.policies.items())
            ),
        )
        return {one.name: one.total_cores for one in allocate(problem).sees}

    def targets(self) -> dict[str, float]:
        """Entitlements that the hosts hold, by SEE over the fleet."""
        held = [self._fleet.entitlements(host) for host in self.cores]
        return {see: sum(here[see] for here in held) for see in self.policies}

    def error_cores(self) -> float:
        """How far the worst-off or best-off service is from its fair part."""
        return max(abs(self.used[see] - self.fair[see]) for see in self.policies)


@dataclass(frozen=True, slots=True)
class SkewedFleet:
    """Hosts of unequal size, and services that each run on other ones: more of them the later their name."""

    cores: Mapping[str, float]
    policies: dict[str, SeePolicy]
    wants: Wants

    def fleet_wide(self, intervals: int) -> float:
        """Smallest over largest cores per share after so many intervals of the closed loop."""
        loop = ClosedLoop(self.policies, self.cores)
        for _ in range(intervals):
            loop.step(self.wants)
        return self._min_max(loop.used)

    def host_by_host(self) -> float:
        """The same, if every host on its own made the most of the shares."""
        used = dict.fromkeys(self.policies, 0.0)
        weights = {see: policy.share for see, policy in self.policies.items()}
        for host, cores in self.cores.items():
            for see, got in split(cores, self.wants[host], weights).items():
                used[see] += got
        return self._min_max(used)

    def _min_max(self, used: Mapping[str, float]) -> float:
        per_share = [used[see] / policy.share for see, policy in self.policies.items()]
        return min(per_share) / max(per_share)


def skewed_fleet(seed: int, hosts: int = 100) -> SkewedFleet:
    """Eight services, the first on a quarter of the hosts, the last on four fifths, all wanting all there is."""
    rng = random.Random(seed)
    cores = {f"h{number:03d}": float(rng.choice([2, 4, 8])) for number in range(hosts)}
    shares = policies(*(SeePolicy(f"svc=s{number}", rng.choice([1, 2, 3])) for number in range(8)))
    placement = {see: set(rng.sample(list(cores), (25 + 8 * at) * hosts // 100)) for at, see in enumerate(shares)}
    wants = {host: {see: float(cores[host]) * (host in placement[see]) for see in shares} for host in cores}
    return SkewedFleet(cores, shares, wants)
