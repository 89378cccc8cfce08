"""Which mechanism holds principals back on this host, and why. Pure: facts and a wish in, a choice out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Mode = Literal["auto", "freezer", "freezer-v1", "signal", "weight", "observe"]
MODES: Final[tuple[Mode, ...]] = ("auto", "freezer", "freezer-v1", "signal", "weight", "observe")
Mechanism = Literal["freezer", "freezer-v1", "signal", "weight", "observe"]


@dataclass(frozen=True, slots=True)
class HostAbilities:
    """Why this process cannot use a mechanism here, in a few words; None if it can. Signals always can be sent."""

    freezer: str | None
    freezer_v1: str | None
    weight: str | None


@dataclass(frozen=True, slots=True)
class Choice:
    """The mechanism, and one phrase that says why. refused: what was asked for is not possible here."""

    mechanism: Mechanism
    reason: str
    refused: bool = False


POSSIBLE: Final = {
    "freezer": "cgroup.freeze is writable",
    "freezer-v1": "freezer.state is writable",
    "weight": "weights of cgroups are writable",
}


def choose(asked: Mode, host: HostAbilities) -> Choice:
    """What to use. What was asked for and is not possible is replaced by what ``auto`` takes, with both reasons."""
    if asked == "observe":
        return Choice("observe", "only measuring was asked for")
    if asked == "signal":
        return Choice("signal", "signals were asked for")
    if asked == "freezer":
        return _asked("freezer", host.freezer, host)
    if asked == "freezer-v1":
        return _asked("freezer-v1", host.freezer_v1, host)
    if asked == "weight":
        return _asked("weight", host.weight, host)
    return _auto(host)


def _asked(mechanism: Mechanism, refusal: str | None, host: HostAbilities) -> Choice:
    if refusal is None:
        return Choice(mechanism, POSSIBLE[mechanism])
    instead = _auto(host)
    # Why the freezer is no better is said already where both have the same reason.
    more = f"; {instead.reason}" if instead.reason != refusal else ""
    return Choice(instead.mechanism, f"{mechanism} is not possible: {refusal}{more}", refused=True)


def _auto(host: HostAbilities) -> Choice:
    if host.freezer is None:
        return Choice("freezer", POSSIBLE["freezer"])
    return Choice("signal", host.freezer)
