"""From targets and membership to what the loop shall control. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from utilctl_agent.link.targets import LocalTarget
from utilctl_agent.orders import PrincipalOrder
from utilctl_common.quantities import MAX_SHARE, MIN_SHARE


@dataclass(frozen=True, slots=True)
class SeeMembers:
    """What an SEE consists of on this host: (pid, start ticks) of all its processes, and the same once more as whole
    cgroups and the loose processes outside them. ``threads`` bounds the CPUs that it can use at once.
    ``weight_cgroup`` holds exactly them and has a weight; where there is none, ``weight_refusal`` says why, if anybody
    asked.
    """

    processes: tuple[tuple[int, int], ...]
    cgroups: tuple[str, ...]
    loose: tuple[tuple[int, int], ...]
    threads: int
    weight_cgroup: str = ""
    weight_refusal: str = ""


def wants_weight(mode: str, *, host_weighs: bool) -> bool:
    """Whether a service with this policy mode is to be held back by its weight."""
    return mode == "weight" or (mode == "auto" and host_weighs)


def make_orders(
    targets: Mapping[str, LocalTarget],
    members: Mapping[str, SeeMembers],
    *,
    freezer: bool,
    observe: bool,
    cores: int,
    weigh: bool = False,
) -> tuple[tuple[PrincipalOrder, ...], dict[str, str]]:
    """Orders for every SEE with processes here, by name, and problems by SEE.

    freezer: whole cgroups may be frozen. observe: nothing may be held back on this host. cores: what it shares out;
    more parallelism than that makes no difference, so that an order for whole cgroups stays the same, and need not be
    sent, while processes come and go in them. weigh: weights are preferred to pauses for services whose policies leave
    it open.
    """
    orders: list[PrincipalOrder] = []
    problems: dict[str, str] = {}
    for name, target in sorted(targets.items()):
        found = members.get(name)
        if found is None or not found.processes:
            continue
        mode = target.policy.mode
        watched = observe or mode == "observe"
        weight = not watched and wants_weight(mode, host_weighs=weigh)
        if weight and not found.weight_cgroup:
            weight = False
            instead = "its cgroups are frozen instead" if freezer else "signals are used instead"
            problems[name] = f"mode weight is not possible: {found.weight_refusal or 'not tried yet'}; {instead}"
        if mode == "freezer" and not freezer:
            problems[name] = "mode freezer is not possible on this host; signals are used"
        use_cgroups = freezer and mode != "signal"
        orders.append(
            PrincipalOrder(
                name=name,
                share=min(MAX_SHARE, max(MIN_SHARE, target.weight)),
                parallelism=max(1, min(found.threads, cores)),
                cap_cores=target.cap_cores,
                cgroups=(found.weight_cgroup,) if weight else found.cgroups if use_cgroups else (),
                processes=() if weight else found.loose if use_cgroups else found.processes,
                observe=watched,
                weight=weight,
            )
        )
    return tuple(orders), problems
