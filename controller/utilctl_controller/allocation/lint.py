"""What a policy asks for and the fleet cannot give, said when it is set: unreachable shares and floors.

Compares policies with the hosts where services run, not with their demand of the moment: demand comes and goes, but a
share of half the fleet is out of reach for good to a service that runs on a tenth of it, or whose cap is below.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

from utilctl_controller.allocation.instance import OWN_DEMAND_SHARE
from utilctl_controller.allocation.model import AllocationProblem, SeeClaim

_NOTICEABLE: Final = 1.01
"""A need above what can be used by less than this factor is not worth a word. Arbitrary."""


def unreachable(problem: AllocationProblem, sees: Collection[str] | None = None) -> tuple[str, ...]:
    """One sentence for each share or floor that cannot be reached, of ``sees`` (None: of all), sorted by name.

    A share is compared with those of the siblings that have demand now. A service without demand may start on any
    host. In mode ``host`` a share says nothing of the fleet, so only floors are looked at. The problem must be one
    that ``allocate`` accepts.
    """
    fleet = _Fleet(problem)
    found: list[str] = []
    for name in sorted(fleet.claims if sees is None else sees):
        claim = fleet.claims[name]
        reach, limit = fleet.reach(name)
        if claim.floor_cores > reach:
            found.append(f"{name}: a floor of {claim.floor_cores:.4g} cores cannot be met, {limit} {reach:.4g}")
        if problem.mode != "host":
            shares, need = fleet.need(name)
            if need > reach * _NOTICEABLE:
                found.append(
                    f"{name}: share {claim.share:.4g} of {shares:.4g} would need {need:.3g} cores, "
                    f"it can use {reach:.3g}: {limit} {reach:.4g}"
                )
    return tuple(found)


class _Fleet:
    """The tree of claims: who runs where, and what everybody's share comes to."""

    def __init__(self, problem: AllocationProblem) -> None:
        self.claims: Mapping[str, SeeClaim] = {see.name: see for see in problem.sees}
        self._capacity = {host.name: host.capacity_cores for host in problem.hosts}
        self._total_cores = sum(self._capacity.values())
        self._hosts: dict[str, set[str]] = {}
        self._children: dict[str, set[str]] = {}
        self._own: set[str] = set()
        for see in problem.sees:
            wanted = [host for host, cores in see.demand_cores.items() if cores > 0.0]
            if wanted:
                self._own.add(see.name)
            node = see.name
            while node:
                above = node.rpartition("/")[0]
                self._children.setdefault(above, set()).add(node)
                if wanted:
                    self._hosts.setdefault(node, set()).update(wanted)
                node = above

    def reach(self, node: str) -> tuple[float, str]:
        """The most cores that a node could ever use as it is placed and capped, and what says so."""
        hosts = self._hosts.get(node)
        most = sum(self._capacity[host] for host in sorted(hosts)) if hosts else self._total_cores
        limit = "the hosts where it runs have" if hosts else "the fleet has"
        here = node
        while here:
            claim = self.claims.get(here)
            if claim is not None and claim.cap_cores is not None and claim.cap_cores < most:
                most, limit = claim.cap_cores, "its cap is" if here == node else f"the cap of {here} is"
            here = here.rpartition("/")[0]
        return most, limit

    def need(self, node: str) -> tuple[float, float]:
        """The shares that compete with a node's, its own included, and the cores that its part of them comes to."""
        above = node.rpartition("/")[0]
        siblings = {sibling for sibling in self._children[above] if sibling in self._hosts} | {node}
        shares = sum(self._share(sibling) for sibling in sorted(siblings))
        if above in self._own:
            shares += OWN_DEMAND_SHARE
        available = min(self.need(above)[1], self.reach(above)[0]) if above else self._total_cores
        return shares, available * self._share(node) / shares

    def _share(self, node: str) -> float:
        claim = self.claims.get(node)
        return claim.share if claim is not None else 1.0
