"""A whole run: targets and observer once, then blocks of trials on either rig, every fault in turn, in random order."""

from __future__ import annotations

import contextlib
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from chaos.faults import Fault, outside_faults, signal_faults
from chaos.home import Home
from chaos.observer import Observer
from chaos.rigs import AgentRig, AlpsRig, Rig
from chaos.targets import Kind, Target, cpu_ns, possible_kinds, targets
from chaos.trials import Campaign, Outcome
from support.etcd_server import EtcdServer, etcd_on_path

COUNTS: Final[Mapping[Kind, int]] = {"v2": 10, "v1": 6, "signal": 8}
"""Groups of each kind; a kind that is not possible here is made up for by signals."""
BLOCK: Final = 100
"""Trials on one rig before the other has its turn. Arbitrary: a change costs a second or two."""
AGENT_PART: Final = 0.3
"""Part of the trials that an agent gets: a start of it takes twice as long."""
LIVES_S: Final = 3.0
"""Within this time everybody must have got CPU time again at the end: a cycle of a core without any agent is short."""


@dataclass(frozen=True, slots=True)
class Result:
    """outcomes: of every trial. left: who was paused, or did not get on, when all was over."""

    outcomes: list[Outcome]
    left: list[str]
    longest_gap_ns: int


class _Deck:
    """Deals every fault once, in random order, then again."""

    def __init__(self, faults: list[Fault], rng: random.Random) -> None:
        self._faults, self._rng = faults, rng
        self._left: list[Fault] = []

    def draw(self) -> Fault:
        if not self._left:
            self._left = self._rng.sample(self._faults, len(self._faults))
        return self._left.pop()


def run(
    trials: int, seed: int, on_outcome: Callable[[Outcome], None], *, scale: float = 1.0, block: int = BLOCK
) -> Result:
    """Run so many trials; scale: of the number of targets. Nothing is left of it, whatever happens."""
    rng = random.Random(seed)
    cpu = min(os.sched_getaffinity(0))
    outcomes: list[Outcome] = []
    left: list[str] = []
    with contextlib.ExitStack() as stack:
        home = Home(Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="utilctl-chaos-"))))
        made = stack.enter_context(targets(_counts(scale), cpu))
        observer = stack.enter_context(Observer(made))
        etcd = stack.enter_context(EtcdServer()) if etcd_on_path() else None
        rigs: list[Rig] = [AlpsRig(made, cpu, home), AgentRig(made, cpu, home, etcd)]
        decks = [
            _Deck(signal_faults(), rng),
            _Deck([*signal_faults(), *outside_faults(etcd=etcd is not None)], rng),
        ]
        for which, count in _blocks(trials, block):
            with rigs[which] as rig:
                campaign = Campaign(rig, observer, rng)
                for _ in range(count):
                    outcomes.append(campaign.trial(len(outcomes), decks[which].draw()))
                    on_outcome(outcomes[-1])
                left += campaign.end()
        left += who_does_not_run(made)
        return Result(outcomes, left, observer.longest_gap_ns)


def _counts(scale: float) -> dict[Kind, int]:
    kinds = possible_kinds()
    counts: dict[Kind, int] = dict.fromkeys(kinds, 0)
    for kind, count in COUNTS.items():
        counts[kind if kind in kinds else "signal"] += max(1, round(count * scale))
    return counts


def _blocks(trials: int, block: int) -> Iterator[tuple[int, int]]:
    """(rig, trials) until all are dealt; each rig gets its part of every two blocks."""
    while trials > 0:
        for which, part in enumerate((1 - AGENT_PART, AGENT_PART)):
            count = min(trials, max(1, round(2 * block * part)))
            if count:
                yield which, count
            trials -= count


def who_does_not_run(made: Sequence[Target], within_s: float = LIVES_S) -> list[str]:
    """Whose first process gets no CPU time although it wants some: paused in a way that nobody would notice."""
    before = {target.name: cpu_ns(target) for target in made}
    waiting = list(made)
    deadline = time.monotonic() + within_s
    while waiting and time.monotonic() < deadline:
        time.sleep(0.05)
        waiting = [target for target in waiting if cpu_ns(target) == before[target.name]]
    return [f"{target.name} (gets no CPU time)" for target in waiting]
