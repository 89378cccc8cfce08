"""Short forms for agents' words and a fleet of them in tests of the rebalancer; all pure values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from utilctl_common.policy import SeePolicy
from utilctl_common.quantities import NS_PER_S
from utilctl_controller.allocation.solver import allocate
from utilctl_controller.fleet import AgentHello, HostReading, LoopReading, Push, SeeReading
from utilctl_controller.rebalance import Rebalancer
from utilctl_controller.reports import ReportProblem
from utilctl_controller.settings import ControllerSettings

SETTINGS = ControllerSettings()


def hello(host: str, cores: float = 1.0, *, instance: str = "first", epoch: int = 0) -> AgentHello:
    """An agent that introduces itself."""
    return AgentHello(host, cores, "0.1.0", instance, "signal", "not root", epoch, 0)


def see_reading(see: str, demand: float, *, processes: int = 1, consumed_ns: int = 0) -> SeeReading:
    """One SEE as measured."""
    return SeeReading(see, consumed_ns, 0, demand, demand, processes, "")


def reading(
    sequence: int,
    demand: Mapping[str, float],
    *,
    cores: float = 1.0,
    unclaimed: float = 0.0,
    loop: LoopReading | None = None,
) -> HostReading:
    """A report; every SEE named has a process."""
    sees = tuple(see_reading(see, cores_wanted) for see, cores_wanted in demand.items())
    return HostReading(sequence, NS_PER_S, cores, unclaimed, sees, loop)


def policies(*entries: SeePolicy) -> dict[str, SeePolicy]:
    """By SEE."""
    return {entry.name: entry for entry in entries}


class Fleet:
    """A rebalancer with a clock of its own, and what it sent: ``sent`` all of it, ``weights`` what hosts
    hold."""

    def __init__(self, entries: dict[str, SeePolicy], settings: ControllerSettings = SETTINGS) -> None:
        self.now_ns = 1_000 * NS_PER_S
        self.rebalancer = Rebalancer(settings, 7, allocate, self.now_ns)
        self.rebalancer.on_policies(entries)
        self.sent: list[Push] = []
        self.held: dict[str, Push] = {}
        self._sequence = 0

    def hello(self, host: str, cores: float = 1.0, *, instance: str = "first", epoch: int = 0) -> None:
        """An agent connects."""
        self.rebalancer.on_hello(hello(host, cores, instance=instance, epoch=epoch), self.now_ns)

    def report(
        self, host: str, demand: Mapping[str, float], *, cores: float = 1.0, unclaimed: float = 0.0
    ) -> tuple[ReportProblem, ...]:
        """An agent reports."""
        self._sequence += 1
        report = reading(self._sequence, demand, cores=cores, unclaimed=unclaimed)
        return self.rebalancer.on_report(host, report, None, self.now_ns)

    def tick(self, seconds: float = 0.0) -> list[Push]:
        """Let time pass, then decide."""
        self.now_ns += round(seconds * NS_PER_S)
        pushes = self.rebalancer.tick(self.now_ns)
        self.sent += pushes
        self.held.update({push.host: push for push in pushes})
        return pushes

    def run(
        self, demand: Mapping[str, Mapping[str, float]], seconds: int, *, unchanged: Sequence[str] = ()
    ) -> list[Push]:
        """Report the same from every host each second; returns what was sent meanwhile. unchanged: hosts that only say
        that nothing has changed."""
        pushes: list[Push] = []
        for _ in range(seconds):
            for host, wanted in demand.items():
                self.report(host, wanted)
            for host in unchanged:
                self.rebalancer.on_unchanged(host, self.now_ns)
            pushes += self.tick(1)
        return pushes

    def weights(self, host: str) -> dict[str, float]:
        """Weights that the host holds."""
        return {target.policy.name: target.weight for target in self.held[host].targets}

    def entitlements(self, host: str) -> dict[str, float]:
        """Entitlements that the host holds."""
        return {target.policy.name: target.entitlement_cores for target in self.held[host].targets}

    def caps(self, host: str) -> dict[str, float | None]:
        """Ceilings that the host holds."""
        return {target.policy.name: target.cap_cores for target in self.held[host].targets}
