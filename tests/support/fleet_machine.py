"""The design's worked example on this machine: a real controller program, two real agents, real spinning services.

Web runs on host-a only, etl on host-b only, batch on both; one CPU a host.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Final

import pytest

from support.commands import UTILCTL, Command, run
from support.etcd_server import free_port
from support.processes import WAIT_S, remove_cgroup, spinning, temporary_cgroup, wait_until
from utilctl_cli.client import ControllerClient
from utilctl_common.quantities import NS_PER_S
from utilctl_controller.allocation.model import AllocationProblem, HostCapacity, SeeClaim
from utilctl_controller.allocation.solver import allocate

HOSTS: Final = ("host-a", "host-b")
PLACEMENT: Final[Mapping[str, tuple[str, ...]]] = {
    "svc=web": ("host-a",),
    "svc=etl": ("host-b",),
    "svc=batch": ("host-a", "host-b"),
}
SHARES: Final[Mapping[str, float]] = {"svc=web": 3, "svc=etl": 1, "svc=batch": 2}
CLOSE: Final = 0.1
"""In cores, and in fractions of a host: closer than any other way of sharing would come, wide enough for noise."""
PYTHON: Final = UTILCTL[0]


def possible() -> bool:
    """Whether this machine can be two hosts: root, for cgroups of its own, and two CPUs."""
    return os.geteuid() == 0 and len(os.sched_getaffinity(0)) >= 2


class FleetMachine:
    """Use it in ``with``. Everything runs when the block begins except the agents; nothing is left after it."""

    def __init__(
        self,
        store: str,
        controllers: int = 1,
        placement: Mapping[str, tuple[str, ...]] = PLACEMENT,
        /,
        *,
        report_interval: str = "200ms",
        lease: str = "15s",
        mode: str = "fleet",
        metrics: bool = False,
        environment: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """``store`` and ``mode`` as the controller's options; ``placement``: hosts by SEE; ``environment`` is added to
        that of every program; with ``metrics``, Prometheus may fetch those of every program at ``scraped``.
        """
        self.scraped = [f"127.0.0.1:{free_port()}" for _ in range(controllers + len(HOSTS))] if metrics else []
        self._store = store
        self._placement = placement
        self._timing = ["--report-interval", report_interval, "--lease", lease, "--mode", mode]
        self._environment = environment
        self._stack = contextlib.ExitStack()
        self.cpus: dict[str, int] = dict(zip(HOSTS, sorted(os.sched_getaffinity(0)), strict=False))
        self._addresses = [f"127.0.0.1:{free_port()}" for _ in range(controllers)]
        self.address = ",".join(self._addresses)
        """Of every controller, as agents and commands are told it."""
        self.folders: dict[tuple[str, str], Path] = {}
        self.agents: dict[str, Command] = {}
        self._scopes: dict[str, str] = {}
        self._controllers: list[Command | None] = [None] * controllers

    def __enter__(self) -> FleetMachine:
        try:
            self._start_services()
            for number in range(len(self._controllers)):
                self.start_controller(number)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.ExitStack() as ending:
            ending.push(self._stack)
            for number in range(len(self._controllers)):
                ending.callback(self.kill_controller, number)
            for agent in self.agents.values():
                ending.push(agent)  # kills what still runs
                agent.process.send_signal(signal.SIGTERM)
            for agent in self.agents.values():
                agent.process.wait(WAIT_S)

    def _start_services(self) -> None:
        base = self._stack.enter_context(temporary_cgroup())
        for host in HOSTS:
            (base / host).mkdir()
            self._stack.callback(remove_cgroup, base / host)
            self._scopes[host] = f"cgroup:/{base.name}/{host}"
        for see, hosts in self._placement.items():
            for host in hosts:
                folder = base / host / see.replace("=", "-")
                folder.mkdir()
                self._stack.callback(remove_cgroup, folder)
                with pytest.MonkeyPatch.context() as labelled:
                    labelled.setenv("UTILCTL_SEE", see)
                    self._stack.enter_context(spinning(1, cgroup=folder, cpu=self.cpus[host]))
                self.folders[host, see] = folder

    # -- programs -----------------------------------------------------------------------------------------------

    def start_controller(self, number: int = 0) -> None:
        """Start a controller, on the address and the store that it had before; waits until it serves."""
        argv = [PYTHON, "-m", "utilctl_controller.main", "--listen", self._addresses[number], "--store", self._store]
        argv += ["--metrics", self.scraped[number]] if self.scraped else []
        controller = Command([*argv, *self._timing], environment=self._environment)
        self._controllers[number] = controller
        wait_until(lambda: self._serves(number, controller), "the controller serves")

    def _serves(self, number: int, controller: Command) -> bool:
        """Whether it answers, be it only that another one leads."""
        assert controller.process.poll() is None, controller.wait()
        try:
            ControllerClient((self._addresses[number],), 5 * NS_PER_S).services()
        except Exception:  # noqa: BLE001 - not yet
            return False
        return True

    def kill_controller(self, number: int = 0) -> None:
        """End one as ``kill -9`` does. Idempotent."""
        controller, self._controllers[number] = self._controllers[number], None
        if controller is not None:
            controller.__exit__(None, None, None)

    def start_agents(self) -> None:
        """Start both agents."""
        for host in HOSTS:
            argv = [PYTHON, "-m", "utilctl_agent.main", "--host", host, "--controller", self.address]
            argv += ["--scope", self._scopes[host], "--cpus", str(self.cpus[host])]
            argv += ["--metrics", self.scraped[HOSTS.index(host) - len(HOSTS)]] if self.scraped else []
            self.agents[host] = Command(argv, environment=self._environment)

    def stop_agents(self) -> None:
        """Stop both by SIGTERM; they must end cleanly and leave nothing behind."""
        for agent in self.agents.values():
            agent.process.send_signal(signal.SIGTERM)
        for agent in self.agents.values():
            outcome = agent.wait()
            assert outcome.code == 0, outcome
            agent.assert_nothing_left()

    # -- what a user sees ---------------------------------------------------------------------------------------

    def client(self) -> ControllerClient:
        """The command line's own client, without a new process for each question."""
        return ControllerClient(tuple(self._addresses), 5 * NS_PER_S)

    def utilctl(self, *arguments: str) -> Any:
        """The JSON that a command prints."""
        outcome = run(*arguments, "--controller", self.address, "-o", "json", environment=self._environment)
        assert (outcome.code, outcome.stderr) == (0, "")
        return json.loads(outcome.stdout)

    def entitled(self) -> dict[str, float]:
        """Entitlements in cores by SEE."""
        return {service["see"]: service["entitlement_cores"] for service in self.client().services()["services"]}

    # -- what the kernel says -----------------------------------------------------------------------------------

    def cpu_ns(self) -> dict[tuple[str, str], int]:
        """CPU time consumed so far, by host and SEE."""
        return {key: _usage_ns(folder) for key, folder in self.folders.items()}

    def frozen(self) -> list[tuple[str, str]]:
        """Who is held back at this instant."""
        return [key for key, folder in self.folders.items() if "frozen 1" in (folder / "cgroup.events").read_text()]

    def measured(self, seconds: float) -> dict[tuple[str, str], float]:
        """Cores used over the next ``seconds``, by host and SEE."""
        before, start = self.cpu_ns(), time.monotonic()
        time.sleep(seconds)
        after, elapsed = self.cpu_ns(), time.monotonic() - start
        return {key: (after[key] - before[key]) / NS_PER_S / elapsed for key in after}

    def granted(self) -> dict[tuple[str, str], float]:
        """What weighted max-min fairness grants now, in cores by host and SEE, if all services want a whole CPU.

        On an idle machine that is the design's example. What other programs use is not there to be granted.
        """
        hosts = self.client().hosts()["hosts"]
        placed = {see: [host["host"] for host in hosts if host["host"] in on] for see, on in self._placement.items()}
        problem = AllocationProblem(
            mode="fleet",
            hosts=tuple(HostCapacity(host["host"], 1.0 - host["unclaimed_cores"]) for host in hosts),
            sees=tuple(
                SeeClaim(service["see"], service["share"], 0.0, None, dict.fromkeys(placed[service["see"]], 1.0))
                for service in self.client().services()["services"]
            ),
        )
        allocated = {see.name: see.host_cores for see in allocate(problem).sees}
        return {(host, see): allocated.get(see, {}).get(host, 0.0) for host, see in self.folders}

    def wait_for_worked_example(self) -> None:
        """Until entitlements and consumption are what they should be, as far as a busy machine allows."""
        deadline = time.monotonic() + WAIT_S
        while True:
            measured, granted, entitled = self.measured(1.0), self.granted(), self.entitled()
            wanted = {see: sum(granted[host, see] for host in hosts) for see, hosts in PLACEMENT.items()}
            if (
                len(self.client().hosts()["hosts"]) == len(HOSTS)
                and all(abs(entitled[see] - wanted[see]) < CLOSE for see in PLACEMENT)
                and all(abs(fractions(measured)[key] - fractions(granted)[key]) < CLOSE for key in granted)
            ):
                return
            assert time.monotonic() < deadline, f"never came right: {wanted=}, {entitled=}, {granted=}, {measured=}"


def fractions(cores: Mapping[tuple[str, str], float]) -> dict[tuple[str, str], float]:
    """Each figure as a part of all those on its host."""
    totals = {host: sum(value for (where, _), value in cores.items() if where == host) for host in HOSTS}
    return {(host, see): value / totals[host] if totals[host] > 0 else 0.0 for (host, see), value in cores.items()}


@contextlib.contextmanager
def worked_example(store: str, controllers: int = 1, /, **options: Any) -> Iterator[FleetMachine]:
    """The machine with shares set, agents running, and everything settled."""
    with FleetMachine(store, controllers, **options) as machine:
        for see, share in SHARES.items():
            machine.utilctl("set-share", see, str(share), "--reason", "worked example")
        machine.start_agents()
        machine.wait_for_worked_example()
        yield machine


def _usage_ns(folder: Path) -> int:
    return int((folder / "cpu.stat").read_text().split()[1]) * 1000
