"""Playing the scenario: set shares by the public API, wait until the fleet has settled, measure, compare."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from utilctl_cli.client import ControllerClient
from utilctl_cli.codec import ShareChange, WriteTerms
from utilctl_cli.demo.machine import Machine
from utilctl_cli.demo.scenario import CHANGED_SHARE, FIRST_SHARES, HOSTS, PLACEMENT, PhaseResult, judge
from utilctl_common.errors import FailedError, UnreachableError
from utilctl_common.quantities import NS_PER_S
from utilctl_controller.allocation.model import AllocationMode, AllocationProblem, HostCapacity, SeeClaim
from utilctl_controller.allocation.solver import allocate

START_TIMEOUT_S: Final = 15.0
SETTLE_S: Final = 4.0
SETTLED_CORES: Final = 0.02
"""Entitlements that moved less than this between two looks count as settled."""
LOOK_S: Final = 0.5
QUIET_LOOKS: Final = 3


@dataclass(frozen=True, slots=True)
class Progress:
    """What to show while the demo runs: cores by service, entitled and over the last moment measured."""

    stage: str
    shares: Mapping[str, float]
    entitlement_cores: Mapping[str, float]
    measured_cores: Mapping[str, float]


Show = Callable[[Progress], None]


class Player:
    """Plays both phases on a Machine. Raises FailedError if the fleet does not come up."""

    def __init__(self, machine: Machine, measure_s: float, show: Show) -> None:
        self._machine = machine
        self._measure_s = measure_s
        self._show = show
        self._shares = dict(FIRST_SHARES)
        self._last_look: tuple[float, dict[str, int]] | None = None

    def _client(self) -> ControllerClient:
        return ControllerClient((self._machine.address,), 5 * NS_PER_S)  # its deadline counts from here

    def play(self) -> tuple[PhaseResult, ...]:
        """Both phases."""
        for see, share in self._shares.items():
            self._set(see, share)
        self._settle("starting")
        first = self._measure("measuring")
        see, share = CHANGED_SHARE
        self._shares[see] = share
        self._set(see, share)
        self._settle(f"set-share {see} {share:g}")
        return first, self._measure("measuring")

    def _set(self, see: str, share: float) -> None:
        change = ShareChange(
            see=see, share=share, floor_cores=None, cap_cores=None, clear_cap=False, mode=None, matchers=None
        )
        self._client().set_share(change, WriteTerms("demo", "utilctl demo", if_version=None, dry_run=False))

    def _settle(self, stage: str) -> None:
        """Wait until every host reports and every service has an entitlement, then until entitlements stand still.

        On a busy machine they never do; then the measurement, which averages them, begins after a bounded wait.
        """
        start = time.monotonic()
        ready_at: float | None = None
        last: dict[str, float] = {}
        quiet = 0
        while quiet < QUIET_LOOKS and (ready_at is None or time.monotonic() < ready_at + SETTLE_S):
            time.sleep(LOOK_S)
            entitled = self._look(stage)
            if ready_at is None:
                if all(entitled.get(see, 0.0) > 0 for see in PLACEMENT) and self._hosts_up():
                    ready_at = time.monotonic()
                elif time.monotonic() > start + START_TIMEOUT_S:
                    raise FailedError("the hosts did not report in time", hint="is the machine busy with other work?")
            moved = any(abs(entitled.get(see, 0.0) - last.get(see, 0.0)) > SETTLED_CORES for see in PLACEMENT)
            quiet = quiet + 1 if ready_at is not None and not moved else 0
            last = entitled

    def _hosts_up(self) -> bool:
        hosts = {host["host"]: host for host in self._client().hosts()["hosts"]}
        return all(name in hosts and hosts[name]["connected"] and hosts[name]["sees"] for name in HOSTS)

    def _look(self, stage: str) -> dict[str, float]:
        """Current entitlements; also shows them beside what was measured since the last look."""
        try:
            services = self._client().services()["services"]
        except UnreachableError as error:
            raise FailedError(f"the demo's controller is gone: {error}") from None
        entitled = {service["see"]: service["entitlement_cores"] for service in services}
        now, cpu_ns = time.monotonic(), self._machine.cpu_ns()
        measured: dict[str, float] = {}
        if self._last_look is not None:
            then, before_ns = self._last_look
            measured = {see: (cpu_ns[see] - before_ns[see]) / NS_PER_S / (now - then) for see in cpu_ns}
        self._last_look = (now, cpu_ns)
        self._show(Progress(stage, self._shares, entitled, measured))
        return entitled

    def _measure(self, stage: str) -> PhaseResult:
        start, before_ns = time.monotonic(), self._machine.cpu_ns()
        sums = dict.fromkeys(PLACEMENT, 0.0)
        looks = 0
        while time.monotonic() < start + self._measure_s:
            time.sleep(LOOK_S)
            for see, cores in self._look(stage).items():
                sums[see] += cores
            looks += 1
        elapsed, after_ns = time.monotonic() - start, self._machine.cpu_ns()
        entitled = {see: total / looks for see, total in sums.items()}
        measured = {see: (after_ns[see] - before_ns[see]) / NS_PER_S / elapsed for see in PLACEMENT}
        return judge(self._shares, entitled, measured, self._planned("fleet"), self._planned("host"))

    def _planned(self, mode: AllocationMode) -> dict[str, float]:
        """What the shares give in theory, by service."""
        problem = AllocationProblem(
            mode=mode,
            hosts=tuple(HostCapacity(host, 1.0) for host in HOSTS),
            sees=tuple(
                SeeClaim(see, self._shares[see], 0.0, None, dict.fromkeys(hosts, 1.0))
                for see, hosts in PLACEMENT.items()
            ),
        )
        return {see.name: see.total_cores for see in allocate(problem).sees}
