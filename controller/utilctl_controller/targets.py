"""From an allocation to what one host is told: weights, ceilings, and whether the change is worth a message.

Weights are in cores, so that the weights of the SEEs that run on a host add up to about what it has:

- an SEE with an entitlement weighs that;
- one without demand weighs its static part of the host, so that a spike competes at once, ahead of the next
decision
  (it costs nobody anything before: an agent splits the CPU among those that want it);
- one with demand but no entitlement here (its fair part lies on other hosts) weighs next to nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

from utilctl_common.policy import SeePolicy
from utilctl_controller.fleet import HostTarget
from utilctl_controller.shares import ShareTree, lineage

TINY_RATIO: Final = 0.001
"""Smallest weight and ceiling, as a part of the host: enough never to starve a process, too little to
matter."""

DEAD_BAND_RATIO: Final = 0.01
"""A figure that moved by less than this part of the host's capacity is left alone ..."""

DEAD_BAND_OWN_RATIO: Final = 0.05
"""... unless it moved by this part of itself (a hundredth of a large host is a lot for a small service)
..."""

DEAD_BAND_CORES: Final = 0.01
"""... and by at least this many cores, below which no agent could tell the difference."""

ABSENT_HEADROOM: Final = 0.1
"""Part of an SEE's unused cap set aside for hosts where it does not run now. Arbitrary."""

DIGITS: Final = 6
"""Decimals of a core that are sent."""


def host_targets(
    policies: Mapping[str, SeePolicy],
    tree: ShareTree,
    capacity_cores: float,
    granted: Mapping[str, float],
    demand: Mapping[str, float],
    caps: Mapping[str, float],
) -> tuple[HostTarget, ...]:
    """The targets of one host, sorted by SEE, from what the allocation granted there and what is wanted
    there."""
    tiny = TINY_RATIO * capacity_cores
    fractions = tree.fractions(demand)
    result: list[HostTarget] = []
    for see in sorted(policies):
        entitlement = granted.get(see, 0.0)
        weight = entitlement if see in demand else capacity_cores * fractions[see]
        cap = caps.get(see)
        result.append(
            HostTarget(
                policies[see],
                positive_cores(max(weight, tiny)),
                round(entitlement, DIGITS),
                None if cap is None else positive_cores(max(cap, tiny)),
            )
        )
    return tuple(result)


def static_targets(
    policies: Mapping[str, SeePolicy], tree: ShareTree, capacity_cores: float, caps: Mapping[str, float]
) -> tuple[HostTarget, ...]:
    """The targets of a host of whose demand nothing is known: shares alone, everybody competing."""
    fractions = tree.fractions(policies)
    tiny = TINY_RATIO * capacity_cores
    return tuple(
        HostTarget(
            policies[see],
            positive_cores(capacity_cores * fractions[see]),
            0.0,
            None if see not in caps else positive_cores(max(caps[see], tiny)),
        )
        for see in sorted(policies)
    )


def positive_cores(cores: float) -> float:
    """Rounded for sending, never to 0: a weight of nothing means nothing and a ceiling of 0 would stop a
    service."""
    return max(round(cores, DIGITS), 10.0**-DIGITS)


def host_caps(
    policies: Mapping[str, SeePolicy],
    granted: Mapping[str, Mapping[str, float]],
    present: Mapping[str, Collection[str]],
    capacity_cores: Mapping[str, float],
) -> dict[str, dict[str, float]]:
    """Ceilings by host and SEE that together keep every fleet-wide cap, also between two decisions.

    ``granted`` is by host and SEE, ``present`` the SEEs with processes by host, ``capacity_cores`` names the
    hosts. An SEE's ceiling on a host is what it is granted there and a part of what its cap leaves unused:
    most of that for the hosts where it runs, in proportion to their size, a tenth for all the others
    together. The cap of a parent is divided among all the SEEs below it the same way, in proportion to their
    shares as well.
    """
    result: dict[str, dict[str, float]] = {host: {} for host in capacity_cores}
    members: dict[str, list[str]] = {}
    for see in policies:
        for node in lineage(see):
            if node in policies and policies[node].cap_cores is not None:
                members.setdefault(node, []).append(see)
    for node, below in members.items():
        cap = policies[node].cap_cores
        assert cap is not None
        used = 0.0
        here: dict[tuple[str, str], float] = {}
        elsewhere: dict[tuple[str, str], float] = {}
        for host, cores in capacity_cores.items():
            for see in below:
                used += granted.get(host, {}).get(see, 0.0)
                side = here if see in present.get(host, ()) else elsewhere
                side[host, see] = max(cores, TINY_RATIO) * policies[see].share
        headroom = max(0.0, cap - used)
        reserved = headroom if not here else headroom * ABSENT_HEADROOM if elsewhere else 0.0
        for side, part in ((here, headroom - reserved), (elsewhere, reserved)):
            total = sum(side.values())
            for (host, see), size in side.items():
                ceiling = granted.get(host, {}).get(see, 0.0) + part * size / total
                result[host][see] = min(ceiling, result[host].get(see, ceiling))
    return result


def worth_sending(old: tuple[HostTarget, ...], new: tuple[HostTarget, ...], capacity_cores: float) -> bool:
    """Whether ``new`` differs from ``old`` by more than the dead band; any change of policy does."""
    if len(old) != len(new):
        return True
    for before, after in zip(old, new, strict=True):
        if before.policy != after.policy or (before.cap_cores is None) != (after.cap_cores is None):
            return True
        if _moved(before.entitlement_cores, after.entitlement_cores, capacity_cores):
            return True
        if _moved(before.weight, after.weight, capacity_cores):
            return True
        if (
            before.cap_cores is not None
            and after.cap_cores is not None
            and _moved(before.cap_cores, after.cap_cores, capacity_cores)
        ):
            return True
    return False


def _moved(before: float, after: float, capacity_cores: float) -> bool:
    step = abs(after - before)
    if step >= DEAD_BAND_RATIO * max(capacity_cores, DEAD_BAND_CORES):
        return True
    return step >= DEAD_BAND_CORES and step >= DEAD_BAND_OWN_RATIO * max(before, after)
