"""``make consistency``: are policies and targets still right when members, controllers and connections keep dying?

usage: python -m chaos.consistency [--writes N] [--seed N] [--json FILE]

Three etcd members and three controllers on loopback. Four clients write through the command line's own client, each
write once, until N are acknowledged, and read everything now and then; agents' sessions record every target set.
Meanwhile, about every second, a member or a controller is killed (and started again a little later), a controller is
stopped, or connections to the store are cut. At the end the store's history is held against what the clients were told
(support.write_history). Exits with 1 if anything is wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from support.controller_server import eventually
from support.etcd_server import EtcdCluster, free_port
from support.tcp_proxy import TcpProxy
from support.write_history import Outcome, Read, Write, violations
from utilctl_agent.link.session import ControllerSession
from utilctl_agent.link.targets import TargetKeeper, TargetSet
from utilctl_cli.client import ControllerClient
from utilctl_cli.codec import ShareChange, WriteTerms
from utilctl_common.errors import ConflictError, FailedError, UnreachableError
from utilctl_common.quantities import NS_PER_S
from utilctl_proto.v1 import agent_pb2

CLIENTS: Final = 4
SEES: Final = tuple(f"svc=s{number}" for number in range(8))
READS_A_WRITE: Final = 0.3
AGENTS: Final = 2
THINK_S: Final = 0.1
"""Pause of a client between writes, so that the faults meet the writes of a minute or two."""
LEAST_FAULTS: Final = 6
"""So many in any case: one of each kind."""
TIMEOUT_NS: Final = 8 * NS_PER_S
STOP_S: Final = 20
"""How long a controller may take to stop. Only a fault waits that long."""
UNKNOWN: Final = "may or may not"
"""What the command line says of a write whose outcome nobody knows."""


class Controllers:
    """Three controller programs on fixed addresses, each with its own way to every etcd member."""

    def __init__(self, members: list[int]) -> None:
        self.addresses = [f"127.0.0.1:{free_port()}" for _ in range(3)]
        self.proxies = [[TcpProxy(port) for port in members] for _ in self.addresses]
        self._processes: list[subprocess.Popen[bytes] | None] = [None] * 3

    def __enter__(self) -> Controllers:
        for proxy in self._all_proxies():
            proxy.__enter__()
        for number in range(3):
            self.start(number)
        return self

    def __exit__(self, *_: object) -> None:
        for number in range(3):
            self.kill(number)
        for proxy in self._all_proxies():
            proxy.__exit__(None, None, None)

    def _all_proxies(self) -> Iterator[TcpProxy]:
        for proxies in self.proxies:
            yield from proxies

    def start(self, number: int) -> None:
        store = ",".join(f"127.0.0.1:{proxy.port}" for proxy in self.proxies[number])
        command = [sys.executable, "-m", "utilctl_controller.main", "--listen", self.addresses[number]]
        command += ["--store", f"etcd:{store}", "--report-interval", "200ms"]
        self._processes[number] = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def kill(self, number: int, how: signal.Signals = signal.SIGKILL) -> None:
        process = self._processes[number]
        if process is not None:
            process.send_signal(how)
            try:
                process.wait(STOP_S)
            finally:
                process.kill()

    def revive(self) -> None:
        """Start those that ended: a controller does not start while its store is away."""
        for number, process in enumerate(self._processes):
            if process is None or process.poll() is not None:
                self.start(number)


class Client(threading.Thread):
    """Writes and reads until told to stop; remembers how each write came out, and what each read saw."""

    def __init__(self, number: int, addresses: list[str], seed: int, acknowledged: Callable[[str], None]) -> None:
        super().__init__(name=f"client-{number}", daemon=True)
        self.writes: list[Write] = []
        self.reads: list[Read] = []
        self.stop = threading.Event()
        self.failure: BaseException | None = None
        self._number = number
        self._random = random.Random(f"{seed} client {number}")
        self._addresses = addresses
        self._acknowledged = acknowledged

    def run(self) -> None:
        try:
            while not self.stop.is_set():
                self._write(f"{self._number}-{len(self.writes)}")
                if self._random.random() < READS_A_WRITE:
                    self._read()
                self.stop.wait(self._random.uniform(0.5, 1.5) * THINK_S)
        except BaseException as error:  # noqa: BLE001 - told at the end
            self.failure = error

    def _read(self) -> None:
        """What the store holds, by whichever controller leads; one that cannot tell has told nothing wrong."""
        called_s = time.monotonic()
        with contextlib.suppress(UnreachableError):
            document, _ = ControllerClient(self._shuffled(), TIMEOUT_NS).export()
            seen = {record["see"]: record["reason"] for record in document["services"]}
            self.reads += [Read(see, seen.get(see), called_s, time.monotonic()) for see in SEES]

    def _shuffled(self) -> tuple[str, ...]:
        return tuple(self._random.sample(self._addresses, len(self._addresses)))

    def _write(self, mark: str) -> None:
        see = self._random.choice(SEES)
        share = round(1 + self._number + len(self.writes) / 10_000, 4)  # none is like another, so each is a change
        change = ShareChange(see, share, None, None, False, None, None)
        called_s, version = time.monotonic(), 0
        outcome: Outcome
        try:
            terms = WriteTerms(f"client-{self._number}", mark, None, False)
            version = ControllerClient(self._shuffled(), TIMEOUT_NS).set_share(change, terms)["record"]["version"]
            outcome = "done"
            self._acknowledged(mark)
        except (ConflictError, FailedError):
            outcome = "not done"
        except UnreachableError as error:
            outcome = "unknown" if UNKNOWN in str(error) else "not done"
        self.writes.append(Write(mark, see, called_s, time.monotonic(), outcome, version))


class Faults:
    """Breaks something and mends it a little later. One etcd member at a time at most.

    For the main thread: an etcd dies with the thread that started it.
    """

    def __init__(self, cluster: EtcdCluster, controllers: Controllers, seed: int) -> None:
        self.counts: Counter[str] = Counter()
        self._cluster, self._controllers = cluster, controllers
        self._random = random.Random(f"{seed} faults")
        self._kinds: list[Callable[[int], None]] = []

    def next(self) -> None:
        """One fault, after a while in which all is well."""
        time.sleep(self._random.uniform(0.3, 1.5))
        if not self._kinds:  # each comes up, in any order
            self._kinds = [self._kill_member, self._kill_controller, self._kill_controller, self._stop_controller]
            self._kinds += [self._cut, self._partition]
            self._random.shuffle(self._kinds)
        kind = self._kinds.pop()
        self.counts[kind.__name__.removeprefix("_").replace("_", " ")] += 1
        kind(self._random.randrange(3))
        self._controllers.revive()

    def _pause(self) -> None:
        time.sleep(self._random.uniform(0.1, 2.5))

    def _kill_member(self, number: int) -> None:
        member = self._cluster.members[number]
        member.kill()
        self._pause()
        member.start()

    def _kill_controller(self, number: int) -> None:
        self._controllers.kill(number)
        self._pause()

    def _stop_controller(self, number: int) -> None:
        """One is stopped as for an upgrade, in the midst of its calls."""
        self._controllers.kill(number, signal.SIGTERM)
        self._pause()

    def _cut(self, number: int) -> None:
        """All connections of one controller with the store break; new ones are possible."""
        for proxy in self._controllers.proxies[number]:
            proxy.restore()

    def _partition(self, number: int) -> None:
        """One controller cannot reach the store for a while; agents and clients reach it."""
        for proxy in self._controllers.proxies[number]:
            proxy.refuse()
        self._pause()
        for proxy in self._controllers.proxies[number]:
            proxy.restore()


class Agents(threading.Thread):
    """Sessions of agents without hosts behind them. What each would enforce goes through its real keeper."""

    def __init__(self, addresses: list[str]) -> None:
        super().__init__(name="agents", daemon=True)
        self.enforced: list[list[tuple[int, int]]] = [[] for _ in range(AGENTS)]
        self.keepers = [TargetKeeper() for _ in range(AGENTS)]
        self.expired = 0
        self.failure: BaseException | None = None
        self._addresses = tuple(addresses)
        self._loop = asyncio.new_event_loop()
        self._ended = asyncio.Event()

    def end(self) -> None:
        self._loop.call_soon_threadsafe(self._ended.set)
        self.join(60)

    def run(self) -> None:
        try:
            self._loop.run_until_complete(self._serve())
        except BaseException as error:  # noqa: BLE001 - told at the end
            self.failure = error
        finally:
            self._loop.close()

    async def _serve(self) -> None:
        sessions = [self._session(number) for number in range(AGENTS)]
        tasks = [asyncio.create_task(session.run()) for session in sessions]
        sequence = 0
        while not self._ended.is_set():
            sequence += 1
            report = agent_pb2.Report(sequence=sequence, interval_ns=NS_PER_S // 5, capacity_cores=2)
            for see in SEES:
                report.sees.append(agent_pb2.SeeReport(see=see, demand_cores=1, consumption_cores=0.2, processes=1))
            for session, keeper in zip(sessions, self.keepers, strict=True):
                session.send(agent_pb2.ConnectRequest(report=report))
                self.expired += keeper.expired(time.monotonic_ns())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.2):
                    await self._ended.wait()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _session(self, number: int) -> ControllerSession:
        keeper, enforced = self.keepers[number], self.enforced[number]

        def hello() -> agent_pb2.ConnectRequest:
            held = keeper.current
            return agent_pb2.ConnectRequest(
                hello=agent_pb2.Hello(
                    host=f"host-{number}", capacity_cores=2, agent_version="0", instance_id="x", mechanism="signal",
                    epoch=held.epoch if held else 0, generation=held.generation if held else 0,
                )
            )  # fmt: skip

        def take(offered: TargetSet) -> None:
            keeper.offer(offered, time.monotonic_ns())
            assert keeper.current is not None
            enforced.append((keeper.current.epoch, keeper.current.generation))

        def renew(epoch: int, generation: int, lease_ns: int) -> bool:
            return keeper.renew(epoch, generation, lease_ns, time.monotonic_ns())

        return ControllerSession(self._addresses, hello, take, lambda _interval_ns: None, renew)


def run(writes: int, seed: int) -> tuple[list[str], dict[str, Any]]:
    """What is wrong, and the figures."""
    acknowledged: list[str] = []
    started = time.monotonic()
    with EtcdCluster() as cluster, Controllers([member.client_port for member in cluster.members]) as controllers:
        addresses = controllers.addresses
        eventually(lambda: _answers(addresses), "a controller leads")
        agents = Agents(addresses)
        faults = Faults(cluster, controllers, seed)
        clients = [Client(number, addresses, seed, acknowledged.append) for number in range(CLIENTS)]
        threads: list[Client | Agents] = [agents, *clients]
        for thread in threads:
            thread.start()
        try:
            while len(acknowledged) < writes or faults.counts.total() < LEAST_FAULTS:
                if not all(thread.is_alive() for thread in threads):
                    break  # the failure is told below
                faults.next()
        finally:
            for client in clients:
                client.stop.set()
            for client in clients:
                client.join(60)
        mended_s = time.monotonic()
        controllers.revive()
        histories: list[dict[str, list[str]]] = []
        eventually(lambda: _read_history(addresses, histories), "a controller leads at the end, and reads its store")
        recovered_s = time.monotonic() - mended_s
        history = histories[0]
        agents.end()
    done = [write for client in clients for write in client.writes]
    reads = [read for client in clients for read in client.reads]
    wrong = violations(done, history, reads)
    wrong += [f"{thread.name} failed: {thread.failure!r}" for thread in threads if thread.failure]
    wrong += [
        f"agent {number} went back from {before} to {after}"
        for number, enforced in enumerate(agents.enforced)
        for before, after in pairwise(enforced)
        if after < before
    ]
    answered = sorted(write.answered_s for write in done if write.outcome == "done")
    gaps_s = [after - before for before, after in pairwise(answered)]
    return wrong, {
        "seed": seed,
        "duration_s": round(mended_s - started, 1),
        "writes": dict(Counter(write.outcome for write in done)),
        "reads": len(reads) // len(SEES),
        "faults": dict(faults.counts),
        "epochs": max(epoch for enforced in agents.enforced for epoch, _ in enforced),
        "sets_taken": sum(map(len, agents.enforced)),
        "stale_sets_refused": sum(keeper.stale for keeper in agents.keepers),
        "leases_found_expired": agents.expired,
        "answered_again_after_s": round(recovered_s, 2),
        "longest_without_an_acknowledged_write_s": round(max(gaps_s), 2),
    }


def _answers(addresses: list[str]) -> bool:
    try:
        ControllerClient(tuple(addresses), NS_PER_S).services()
    except UnreachableError:
        return False
    return True


def _read_history(addresses: list[str], into: list[dict[str, list[str]]]) -> bool:
    """Marks of all writes by service, oldest first. False if the leader cannot read its store yet."""
    found: dict[str, list[str]] = {}
    for see in SEES:
        try:
            entries = ControllerClient(tuple(addresses), TIMEOUT_NS).history(see, 10_000)["entries"]
        except FailedError:
            continue  # never written
        except UnreachableError:
            return False
        found[see] = [entry["reason"] for entry in reversed(entries)]
    into.append(found)
    return True


def main() -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--writes", type=int, default=1000, help="acknowledged ones")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(2**32)
    print(f"seed {seed}", flush=True)
    wrong, figures = run(options.writes, seed)
    for sentence in wrong:
        print(f"WRONG {sentence}")
    print(json.dumps(figures, indent=1))
    if options.json is not None:
        options.json.write_text(json.dumps({**figures, "wrong": wrong}, indent=1) + "\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
