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
    """

    processes: tuple[tuple[int, int], ...]
    cgroups: tuple[str, ...]
    loose: tuple[tuple[int, int], ...]
    threads: int


UNSUPPORTED_MODES: Mapping[str, str] = {
    "weight": "mode weight is not available on this agent; the service is measured and not held back",
}


def make_orders(
    targets: Mapping[str, LocalTarget],
    members: Mapping[str, SeeMembers],
    *,
    freezer: bool,
    observe: bool,
    cores: int,
) -> tuple[tuple[PrincipalOrder, ...], dict[str, str]]:
    """Orders for every SEE with processes here, by name, and problems by SEE.

    freezer: whole cgroups may be frozen. observe: nothing may be paused on this host. cores: what it shares out; more
    parallelism than that makes no difference, so that an order for whole cgroups stays the same, and need not be sent,
    while processes come and go in them.
    """
    orders: list[PrincipalOrder] = []
    problems: dict[str, str] = {}
    for name, target in sorted(targets.items()):
        found = members.get(name)
        if found is None or not found.processes:
            continue
        mode = target.policy.mode
        if mode in UNSUPPORTED_MODES:
            problems[name] = UNSUPPORTED_MODES[mode]
        if mode == "freezer" and not freezer:
            problems[name] = "mode freezer is not possible on this host; signals are used"
        use_cgroups = freezer and mode != "signal"
        orders.append(
            PrincipalOrder(
                name=name,
                share=min(MAX_SHARE, max(MIN_SHARE, target.weight)),
                parallelism=max(1, min(found.threads, cores)),
                cap_cores=target.cap_cores,
                cgroups=found.cgroups if use_cgroups else (),
                processes=found.loose if use_cgroups else found.processes,
                observe=observe or mode == "observe" or mode in UNSUPPORTED_MODES,
            )
        )
    return tuple(orders), problems
