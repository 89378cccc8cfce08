"""One trial after the other: wait until groups are being paused, fail something at a random instant, judge."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Final

from chaos.faults import Fault, Promise
from chaos.observer import Observer
from chaos.rigs import AgentRig, Rig
from chaos.targets import let_everybody_run
from support.processes import WAIT_S
from utilctl_common.quantities import NS_PER_MS, NS_PER_S

BOUND_NS: Final = 250 * NS_PER_MS
START_BOUND_NS: Final = NS_PER_S
MAX_PAUSE_NS: Final = NS_PER_S
BOUNDS_NS: Final[dict[Promise, int]] = {
    "resumed": BOUND_NS,
    "after the next start": START_BOUND_NS,
    "goes on": MAX_PAUSE_NS,
}
RATE_OVER_NS: Final = 100 * NS_PER_MS
LATEST_NS: Final = 120 * NS_PER_MS
"""The fault comes at a random instant up to this long after everybody has been paused: a whole cycle, about."""
STILL_NS: Final = 20 * NS_PER_MS
"""Nothing paused for so long, and nobody left who could pause: that is the end."""
LOST_NS: Final = 5 * NS_PER_S
"""What is still paused after so long counts as left paused."""
BY_HAND: Final = 0.25
"""Part of the trials that leave nobody alive in which ``utilctl thaw --all`` is run before the next start."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was seen in one trial.

    - ``held_ns``: for ``resumed``, from the fault until nothing was paused; for ``goes on``, the longest pause that
      lasted beyond the fault; for ``after the next start``, from the start (or thaw) until all that was paused before
      it ran.
    - ``paused``: units that were paused at the instant of the fault. ``left``: those that stayed paused, by name.
    - ``waiting``: units that nobody was left to resume, before the start. ``pauses_per_s``: just before the fault.
    """

    number: int
    rig: str
    fault: str
    kind: str
    promise: Promise
    remedy: str
    at_ns: int
    pauses_per_s: float
    paused: int
    waiting: int
    held_ns: int
    left: tuple[str, ...]

    @property
    def kept(self) -> bool:
        """Whether the promise was."""
        return not self.left and self.held_ns <= BOUNDS_NS[self.promise]


@dataclass(slots=True)
class Campaign:
    """Trials on one rig. ``rng`` decides everything that is random."""

    rig: Rig
    observer: Observer
    rng: random.Random

    def trial(self, number: int, fault: Fault) -> Outcome:
        """One. Afterwards nothing is paused, except by an agent that goes on."""
        rig, observer = self.rig, self.observer
        self._have_it_pausing()
        time.sleep(self.rng.random() * LATEST_NS / NS_PER_S)
        at_ns = time.monotonic_ns()
        self._strike(fault)
        remedy, waiting = "", 0
        since_ns = at_ns
        if fault.promise == "goes on":
            left = self._watch_it_go_on(fault)
        elif fault.promise == "resumed":
            left = self._wait_until_resumed()
        else:
            time.sleep(self.rng.random() * 0.1)
            waiting = len(observer.paused())
            remedy = "thaw --all" if self.rng.random() < BY_HAND else "start"
            since_ns = time.monotonic_ns()
            left = self._remedy(remedy, since_ns)
        pauses = observer.pauses(at_ns - RATE_OVER_NS)
        begun = sum(at_ns - RATE_OVER_NS < pause.begin_ns < at_ns for pause in pauses)
        now_ns = time.monotonic_ns()
        held_ns = 0
        for pause in pauses:
            end_ns = now_ns if pause.end_ns is None else pause.end_ns
            if end_ns <= since_ns or (remedy and pause.begin_ns >= since_ns):
                continue
            from_ns = pause.begin_ns if fault.promise == "goes on" else since_ns
            held_ns = max(held_ns, end_ns - from_ns)
        outcome = Outcome(
            number=number,
            rig=rig.name,
            fault=fault.name(rig.companion),
            kind=fault.kind,
            promise=fault.promise,
            remedy=remedy,
            at_ns=at_ns,
            pauses_per_s=begun * NS_PER_S / RATE_OVER_NS,
            paused=sum(pause.begin_ns < at_ns and (pause.end_ns or now_ns) > at_ns for pause in pauses),
            waiting=waiting,
            held_ns=held_ns,
            left=tuple(left),
        )
        self._tidy_up(fault, remedy, left)
        observer.forget(at_ns)
        return outcome

    def end(self) -> list[str]:
        """Stop what runs, as an operator does; returns who is paused then, or ended."""
        self.rig.end()
        left = self.observer.paused()
        return left + [f"{name} (ended)" for name in self.observer.gone()]

    def _have_it_pausing(self) -> None:
        """Have the agent run, and everybody whom it controls paused at least once since its parts were started."""
        rig, observer = self.rig, self.observer
        if not rig.running:
            rig.start()
        if not rig.parts:
            rig.find()
            since_ns = rig.started_ns
            wanted = sum(1 if target.cgroup is not None else len(target.pids) for target in rig.targets)
            deadline_ns = time.monotonic_ns() + int(WAIT_S * NS_PER_S)
            while True:
                observer.see_until(time.monotonic_ns())
                if len({pause.unit for pause in observer.pauses(since_ns) if pause.begin_ns > since_ns}) >= wanted:
                    break
                assert time.monotonic_ns() < deadline_ns, f"{rig.name} does not pause everybody"
                time.sleep(0.01)

    def _strike(self, fault: Fault) -> None:
        if fault.outside is None:
            signals = list(fault.signals)
            self.rng.shuffle(signals)
            for role, number in signals:
                self.rig.parts[role].send(number)
            return
        assert isinstance(self.rig, AgentRig)
        if fault.outside == "network":
            self.rig.network.refuse()
        elif fault.outside == "controller":
            self.rig.kill_controller()
        else:
            assert self.rig.etcd is not None
            self.rig.etcd.kill()

    def _watch_it_go_on(self, fault: Fault) -> list[str]:
        """Watch for a random time, undo the fault, and see somebody paused anew; returns what is wrong."""
        time.sleep(0.1 + self.rng.random() * 0.4)
        for role, _ in fault.signals:
            self.rig.parts[role].send(signal.SIGCONT)
        if fault.outside is not None:
            assert isinstance(self.rig, AgentRig)
            self.rig.restore(fault.outside)
        since_ns = time.monotonic_ns()
        while time.monotonic_ns() < since_ns + LOST_NS:
            self.observer.see_until(time.monotonic_ns())
            if self.rig.parts["loop"].ended():
                break
            if any(pause.begin_ns > since_ns for pause in self.observer.pauses(since_ns)):
                return []
            time.sleep(0.002)
        return ["nobody, but the loop does not go on"]

    def _wait_until_resumed(self) -> list[str]:
        """Wait until the loop is gone and nothing is paused; returns who is, if that takes too long."""
        loop = self.rig.parts["loop"]
        deadline_ns = time.monotonic_ns() + LOST_NS
        still_ns = 0
        while time.monotonic_ns() < deadline_ns:
            paused = self.observer.paused()
            now_ns = time.monotonic_ns()
            if paused or not loop.ended():
                still_ns = 0
            elif not still_ns:
                still_ns = now_ns
            elif now_ns - still_ns > STILL_NS:
                return []
            time.sleep(0.002)
        return self.observer.paused() or ["nobody, but the loop did not end"]

    def _remedy(self, remedy: str, since_ns: int) -> list[str]:
        """Start the next agent, or thaw by hand; returns who of those that were paused before it still are."""
        thaw: subprocess.Popen[bytes] | None = None
        if remedy == "start":
            self.rig.set_aside()
            self.rig.start()
        else:
            home = self.rig.home
            argv = [*home.prefix, sys.executable, "-m", "utilctl_cli.main", "thaw", "--all"]
            thaw = subprocess.Popen(argv, env=home.environment, stdout=subprocess.DEVNULL)
        deadline_ns = time.monotonic_ns() + LOST_NS
        while True:
            self.observer.see_until(time.monotonic_ns())
            left = [
                self.observer.names[pause.unit]
                for pause in self.observer.pauses(since_ns)
                if pause.end_ns is None and pause.begin_ns < since_ns
            ]
            if not left or time.monotonic_ns() > deadline_ns:
                break
            time.sleep(0.002)
        if thaw is not None:
            assert thaw.wait(WAIT_S) == 0, "thaw --all failed"
        return left

    def _tidy_up(self, fault: Fault, remedy: str, left: list[str]) -> None:
        """Nothing of this trial may be seen in the next."""
        rig = self.rig
        if left:
            rig.clear()
            let_everybody_run(self.observer.targets)
        elif remedy == "start":
            rig.bury()  # the one that was started is the next trial's
        elif fault.promise == "resumed" and rig.comes_back(fault):
            rig.restarted()
        elif fault.promise != "goes on":
            rig.clear()
