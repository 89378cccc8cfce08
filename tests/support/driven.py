"""A scheduler loop in the test's own process, on real processes and a real channel; the test is its clock."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

from support.processes import WAIT_S
from utilctl_agent.channel import Channel, Message
from utilctl_agent.control import Loop
from utilctl_agent.orders import LoopReport, LoopSettings, PrincipalOrder, Roster
from utilctl_agent.safety.journal import Journal
from utilctl_common.quantities import NS_PER_MS, NS_PER_S


class Driven:
    """A loop whose wake-ups happen when the test says so, and the other end of its channel."""

    def __init__(
        self, folder: Path, *, slots: int = 16, cpus: tuple[int, ...] | None = None, cycle_ns: int = 20 * NS_PER_MS
    ) -> None:
        """A journal of ``slots`` in ``folder``; ``cpus`` are all unless told otherwise."""
        ours, theirs = socket.socketpair()
        self.peer, self._channel = Channel(ours), Channel(theirs)
        self.journal = Journal.create(str(folder / "a.journal"), slots=slots)
        settings = LoopSettings(
            algorithm="default",
            quantum_ns=10 * NS_PER_MS,
            cycle_ns=cycle_ns,
            cpus=cpus or tuple(sorted(os.sched_getaffinity(0))),
            max_pause_ns=NS_PER_S,
            cycle_log=False,
            announce_first_cycle=True,
        )
        self.loop = Loop(settings, self._channel, self.journal, "none")

    def roster(self, generation: int, *orders: PrincipalOrder, epoch: int = 1) -> None:
        """Order it to control exactly these."""
        self.loop.obey({"op": "roster", "roster": Roster(epoch, generation, orders).to_json()}, time.monotonic_ns())

    def report(self) -> LoopReport:
        """Ask for a report."""
        self.peer.receive()
        self.loop.obey({"op": "report"}, time.monotonic_ns())
        (message,) = self.peer.receive()
        return LoopReport.from_json(message["report"])

    def run_until(self, condition: Callable[[], bool], what: str) -> list[Message]:
        """Let it work until ``condition`` holds; returns what it said meanwhile."""
        said: list[Message] = []
        deadline = time.monotonic() + WAIT_S
        while not condition():
            assert time.monotonic() < deadline, f"never happened: {what}"
            wake_ns = self.loop.wake(time.monotonic_ns())
            said += self.peer.receive()
            time.sleep(max(0, min(wake_ns - time.monotonic_ns(), 2 * NS_PER_MS)) / NS_PER_S)
        return said

    def end(self) -> None:
        """What the loop does at its end."""
        self.loop.close(time.monotonic_ns())
        assert not self.journal.any_in_force()
        for closing in (self.peer, self._channel, self.journal):
            closing.close()
