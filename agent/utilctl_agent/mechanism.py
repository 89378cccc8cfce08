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
class Wanted:
    """What is to be controlled, as far as it matters for the choice.

    cpus: how many are shared. weighable: everybody has, or gets, a cgroup with a weight. services: existing cgroups,
    so services of many processes that answer somebody, not programs that compute. paused: the algorithm pauses.
    """

    cpus: int = 1
    weighable: bool = False
    services: bool = False
    paused: bool = False


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


def choose(asked: Mode, host: HostAbilities, wanted: Wanted | None = None) -> Choice:
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
    return _auto(host, wanted or Wanted())


def _asked(mechanism: Mechanism, refusal: str | None, host: HostAbilities) -> Choice:
    if refusal is None:
        return Choice(mechanism, POSSIBLE[mechanism])
    instead = _auto(host, Wanted())
    # Why the freezer is no better is said already where both have the same reason.
    more = f"; {instead.reason}" if instead.reason != refusal else ""
    return Choice(instead.mechanism, f"{mechanism} is not possible: {refusal}{more}", refused=True)


def _auto(host: HostAbilities, wanted: Wanted) -> Choice:
    if host.weight is None and wanted.weighable and not wanted.paused:
        # On one CPU programs that compute get their shares in every cycle by turns. Turns of a service make its
        # clients wait, and on several CPUs they give all of them to one at a time, also to one that cannot use them.
        if wanted.services:
            return Choice("weight", "cgroups with weights were named: nobody waits for turns")
        if wanted.cpus > 1:
            return Choice("weight", "several CPUs: weights let everybody run side by side")
    if host.freezer is None:
        return Choice("freezer", POSSIBLE["freezer"])
    return Choice("signal", host.freezer)


SandboxMode = Literal["auto", "quota", "freezer", "signal"]
SANDBOX_MODES: Final[tuple[SandboxMode, ...]] = ("auto", "quota", "freezer", "signal")


@dataclass(frozen=True, slots=True)
class SandboxChoice:
    """How one program is held back, and one phrase that says why."""

    mechanism: Literal["quota", "freezer", "signal"]
    reason: str


def choose_for_sandbox(
    asked: SandboxMode, *, quota: str | None, freezer: str | None, no_cgroup: str | None = None
) -> SandboxChoice:
    """What holds one program back. quota, freezer: why that is not possible, or None; no_cgroup: why neither is.

    What was asked for and is not possible is replaced by the next best: quota, freezer, signals.
    """
    if asked == "signal":
        return SandboxChoice("signal", "signals were asked for")
    if no_cgroup is not None:
        return SandboxChoice("signal", no_cgroup)
    refusals: list[str] = []
    if asked != "freezer":
        if quota is None:
            return SandboxChoice("quota", "the kernel keeps a quota, which follows the measured progress")
        refusals.append(f"no quota: {quota}")
    if freezer is None:
        return SandboxChoice("freezer", "; ".join([*refusals, POSSIBLE["freezer"]]))
    return SandboxChoice("signal", "; ".join([*refusals, f"no freezer: {freezer}"]))
