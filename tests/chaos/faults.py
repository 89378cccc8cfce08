"""What is done to the parts of an agent, and what is promised then."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from typing import Final, Literal

Role = Literal["loop", "companion", "guard"]
"""companion: the link of an agent, or the command ``utilctl alps``."""
ROLES: Final[tuple[Role, ...]] = ("loop", "companion", "guard")
Outside = Literal["network", "controller", "etcd"]
OUTSIDE: Final[tuple[Outside, ...]] = ("network", "controller", "etcd")

Promise = Literal["resumed", "goes on", "after the next start"]
"""resumed: within 250 ms nothing is paused any more, and the loop is gone. goes on: the loop lives, and no pause
outlasts max_pause. after the next start: nobody is left who could do anything; the next start resumes everything."""

_SENT: Final = {signal.SIGKILL: "killed", signal.SIGSTOP: "stopped", signal.SIGTERM: "told to end"}


@dataclass(frozen=True, slots=True)
class Fault:
    """``signals`` go to parts of the agent, all at the same instant; or something outside of it fails."""

    signals: tuple[tuple[Role, signal.Signals], ...] = ()
    outside: Outside | None = None

    def to(self, role: Role) -> signal.Signals | None:
        """What that part gets."""
        return dict(self.signals).get(role)

    @property
    def promise(self) -> Promise:
        """What holds afterwards."""
        if self.outside is not None:
            return "goes on"
        if all(self.to(role) in (signal.SIGKILL, signal.SIGSTOP) for role in ROLES):
            return "after the next start"
        stopped_beside_loop = all(
            self.to(role) in (None, signal.SIGSTOP) for role in ("companion", "guard")
        )  # a dead companion or guard ends the loop
        return "goes on" if self.to("loop") is None and stopped_beside_loop else "resumed"

    def name(self, companion: str) -> str:
        """In words."""
        if self.outside is not None:
            return {"network": "network cut"}.get(self.outside, f"{self.outside} killed")
        words: list[str] = []
        for number, what in _SENT.items():
            roles = [companion if role == "companion" else role for role, sent in self.signals if sent == number]
            if roles:
                words.append(f"{' and '.join(roles)} {what}")
        return ", ".join(words)

    @property
    def kind(self) -> str:
        """The row of the report that it belongs to."""
        if self.outside is not None:
            return "network cut, controller or etcd killed"
        sent = [number for _, number in self.signals]
        if signal.SIGTERM in sent:
            return "told to end (SIGTERM)"
        killed, stopped = sent.count(signal.SIGKILL), sent.count(signal.SIGSTOP)
        if killed + stopped == len(ROLES):
            return "all three killed at once" if killed == len(ROLES) else "all three killed or stopped"
        if killed + stopped == 1:
            return f"{ROLE_WORDS[self.signals[0][0]]} {_SENT[sent[0]]}"
        return {(2, 0): "any two killed", (0, 2): "any two stopped"}.get(
            (killed, stopped), "one killed, another stopped"
        )


ROLE_WORDS: Final[Mapping[Role, str]] = {"loop": "loop", "companion": "link or command", "guard": "guard"}


def signal_faults() -> list[Fault]:
    """Every way to kill, stop, or spare each of the three, and a clean stop."""
    choices = (None, signal.SIGKILL, signal.SIGSTOP)
    faults = [
        Fault(tuple((role, number) for role, number in zip(ROLES, sent, strict=True) if number is not None))
        for sent in product(choices, repeat=len(ROLES))
        if any(sent)
    ]
    return [*faults, Fault((("guard", signal.SIGTERM),))]


def outside_faults(*, etcd: bool) -> list[Fault]:
    """What can fail around an agent."""
    return [Fault(outside=what) for what in OUTSIDE if etcd or what != "etcd"]
