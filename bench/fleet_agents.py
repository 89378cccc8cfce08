"""Many agents in one process, without hosts: the agent's own sessions and messages, simulated services behind them.

usage: python -m bench.fleet_agents CONTROLLER[,CONTROLLER...] FIRST COUNT SERVICES OF INTERVAL_S

Agents FIRST up to FIRST + COUNT report SERVICES services each, of OF in the fleet, once an interval, each at its own
moment, with another demand in one report of five. Every target set goes through the agent's own keeper and is
acknowledged. They take the CPU time that the controller leaves, which elsewhere has its machine to itself. One line of
JSON goes to standard output for every event that the experiment asks about: ``connected`` (how many are, when that
changes), and ``share`` (which share of ``svc=s0`` an agent holds from when on).
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import time

from utilctl_agent.link import codec, session
from utilctl_agent.link.session import ControllerSession
from utilctl_agent.link.targets import TargetKeeper, TargetSet

MOVING = 0.2
"""Part of the reports in which a service's demand has moved."""
WATCHED = "svc=s0"
"""Every agent has it."""


class SimulatedAgent:
    """One agent: a session, a keeper, and services that want more or less CPU from one report to the next."""

    def __init__(self, controllers: tuple[str, ...], number: int, services: int, of: int) -> None:
        self._random = random.Random(number)
        self._identity = codec.Identity(f"host-{number:05d}", 8.0, "0", f"simulated-{number}", "freezer", "simulated")
        others = self._random.sample(range(1, of), services - 1)
        self._demand = {f"svc=s{see}": self._random.uniform(0.1, 2.0) for see in (0, *others)}
        self._consumed_ns = dict.fromkeys(self._demand, 0)
        self._sequence = 0
        self._held = 0.0
        self.keeper = TargetKeeper()
        self.session = ControllerSession(controllers, self._hello, self._take, lambda _interval_ns: None, self._renew)

    def _hello(self) -> codec.ConnectRequest:
        held = self.keeper.current
        return codec.hello(self._identity, held.epoch if held else 0, held.generation if held else 0)

    def _renew(self, epoch: int, generation: int, lease_ns: int) -> bool:
        return self.keeper.renew(epoch, generation, lease_ns, time.monotonic_ns())

    def _take(self, offered: TargetSet) -> None:
        now_ns = time.monotonic_ns()
        if not self.keeper.offer(offered, now_ns):
            return
        self.session.send(
            codec.applied(offered.epoch, offered.generation, first_cycle_done=False, at_unix_ns=time.time_ns())
        )
        for target in offered.targets:
            if target.policy.name == WATCHED and target.policy.share != self._held:
                self._held = target.policy.share
                tell({"share": self._held, "host": self._identity.host, "at_ns": now_ns})

    async def report_forever(self, interval_s: float) -> None:
        """At a moment of its own in every interval."""
        await asyncio.sleep(self._random.uniform(0, interval_s))
        while True:
            if self.session.connected:
                self._report(round(interval_s * 1e9))
            await asyncio.sleep(interval_s)

    def _report(self, interval_ns: int) -> None:
        self._sequence += 1
        sees = []
        moved = self._random.choice([*self._demand]) if self._random.random() < MOVING else ""
        for see, cores in self._demand.items():
            wanted = cores if see != moved else min(8.0, max(0.01, cores * self._random.uniform(0.7, 1.4)))
            self._demand[see] = wanted
            self._consumed_ns[see] += round(0.5 * wanted * interval_ns)
            sees.append(codec.SeeStatus(see, self._consumed_ns[see], 0, 0.5 * wanted, wanted, 4, ""))
        loop = ("default", "freezer", self._sequence * 50, self._sequence * 150, self._sequence * 10_000_000, 0.005)
        self.session.send(
            codec.report_message(codec.HostReport(self._sequence, interval_ns, 8.0, 0.1, tuple(sees), *loop))
        )


def tell(event: dict[str, object]) -> None:
    """One line for the experiment."""
    print(json.dumps(event), flush=True)


async def serve(
    controllers: tuple[str, ...], first: int, count: int, services: int, of: int, interval_s: float
) -> None:
    """Until killed."""
    agents = [SimulatedAgent(controllers, number, services, of) for number in range(first, first + count)]
    tasks = [asyncio.create_task(agent.session.run()) for agent in agents]
    tasks += [asyncio.create_task(agent.report_forever(interval_s)) for agent in agents]
    told = -1
    while True:
        connected = sum(agent.session.connected for agent in agents)
        if connected != told:
            told = connected
            tell({"connected": connected, "of": count, "at_ns": time.monotonic_ns()})
        await asyncio.sleep(0.05)


def main() -> None:
    """Runs until it is killed."""
    controllers, first, count, services, of, interval_s = sys.argv[1:7]
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    # Agents on machines of their own share no connection; in one process the library would have them share one.
    session.OPTIONS.append(("grpc.use_local_subchannel_pool", 1))
    asyncio.run(serve(tuple(controllers.split(",")), int(first), int(count), int(services), int(of), float(interval_s)))


if __name__ == "__main__":
    main()
