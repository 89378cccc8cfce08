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

MOST_STANDBY: Final = 256
"""Sets of standby targets that are kept. Arbitrary: some megabytes with hundreds of SEEs."""

DIGITS: Final = 6
"""Decimals of a core that are sent."""


class Standby:
    """Targets of SEEs that want nothing on a host, by its size and by what the others there weigh.

    Most SEEs run on few of a fleet's hosts, so most targets of most hosts are of this kind, and the same on many: they
    are made once, compared by identity, and put on the wire from one copy. Made anew with every change of policy.
    """

    def __init__(self, policies: Mapping[str, SeePolicy], tree: ShareTree) -> None:
        self._policies = {see: policies[see] for see in sorted(policies)}
        self._tree = tree
        self._known: dict[tuple[float, float], dict[str, HostTarget]] = {}

    def beside(self, capacity_cores: float, active: Collection[str]) -> Mapping[str, HostTarget]:
        """Targets of all SEEs by name, were each of them without demand beside the ``active`` ones of a flat tree.

        They are as coarse as the capacity's first two digits: finer than what is worth a message.
        """
        key = (float(f"{capacity_cores:.2g}"), self._tree.active_share(active))
        found = self._known.get(key)
        if found is None:
            if len(self._known) >= MOST_STANDBY:
                self._known.clear()
            found = self._known[key] = {see: self._made(policy, *key) for see, policy in self._policies.items()}
        return found

    @staticmethod
    def _made(policy: SeePolicy, capacity_cores: float, active_share: float) -> HostTarget:
        weight = capacity_cores * policy.share / (active_share + policy.share)
        return HostTarget(policy, positive_cores(max(weight, TINY_RATIO * capacity_cores)), 0.0, None)


def host_targets(
    policies: Mapping[str, SeePolicy],
    tree: ShareTree,
    capacity_cores: float,
    granted: Mapping[str, float],
    demand: Mapping[str, float],
    caps: Mapping[str, float],
    standby: Standby | None = None,
) -> tuple[HostTarget, ...]:
    """The targets of one host, sorted by SEE, from what the allocation granted there and what is wanted there.

    standby: of these policies, kept from call to call, so that only those with demand here are worked out.
    """
    tiny = TINY_RATIO * capacity_cores

    def target(see: str, idle_weight: float) -> HostTarget:
        entitlement = granted.get(see, 0.0)
        cap = caps.get(see)
        return HostTarget(
            policies[see],
            positive_cores(max(entitlement if see in demand else idle_weight, tiny)),
            round(entitlement, DIGITS),
            None if cap is None else positive_cores(max(cap, tiny)),
        )

    if tree.flat and standby is not None:
        result = dict(standby.beside(capacity_cores, demand))
        for see in {*demand, *granted, *caps}:
            if see in result:
                result[see] = target(see, result[see].weight)
        return tuple(result.values())
    fractions = tree.fractions(demand)
    return tuple(target(see, capacity_cores * fractions[see]) for see in sorted(policies))


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
        if before is after:
            continue
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
