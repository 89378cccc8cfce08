"""Static shares: what the share tree alone would give each SEE on one host.

An SEE competes with the *active* ones only (those that want CPU there), level by level: at each level of the
tree a node gets its share divided by the shares of the active nodes beside it. A parent that no policy names
has share 1. Processes of a parent itself compete with its children like one more child, of share OWN_SHARE.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Final

from utilctl_common.names import parent_of
from utilctl_common.policy import SeePolicy

IMPLICIT_SHARE: Final = 1.0
"""Share of a parent that no policy names."""

OWN_SHARE: Final = 1.0
"""Share of a parent's own processes among its children; the allocation uses the same."""


def lineage(name: str) -> Iterator[str]:
    """``name``, its parent, and so on up to the top level."""
    node: str | None = name
    while node is not None:
        yield node
        node = parent_of(node)


class ShareTree:
    """The tree that a set of policies makes. Never changes."""

    __slots__ = ("_names", "_parents", "_shares")

    def __init__(self, policies: Mapping[str, SeePolicy]) -> None:
        self._names = tuple(sorted(policies))
        self._parents: set[str] = set()
        self._shares: dict[str, float] = {}
        for name in self._names:
            for node in lineage(name):
                policy = policies.get(node)
                self._shares[node] = policy.share if policy else IMPLICIT_SHARE
                if (parent := parent_of(node)) is not None:
                    self._parents.add(parent)

    def has_children(self, name: str) -> bool:
        """Whether some SEE stands below ``name``."""
        return name in self._parents

    @property
    def flat(self) -> bool:
        """Whether no SEE stands below another one."""
        return not self._parents

    def active_share(self, active: Collection[str]) -> float:
        """The shares of the ``active`` ones of a flat tree, added up."""
        shares = self._shares
        return sum(shares[name] for name in active if name in shares)

    def fractions(self, active: Collection[str]) -> dict[str, float]:
        """For every SEE the part of a host (0 to 1) that is its own when it competes with the ``active``
        ones.

        For an SEE that is not active: its part if it became so. The parts of the active ones add up to 1.
        """
        if not self._parents:
            total = self.active_share(active)
            return {
                name: share / total if name in active else share / (total + share)
                for name, share in self._shares.items()
            }
        busy: set[str] = set()
        sums: dict[str | None, float] = {}
        for name in active:
            if name not in self._shares:
                continue
            if name in self._parents:
                sums[name] = sums.get(name, 0.0) + OWN_SHARE
            for node in lineage(name):
                if node in busy:
                    break
                busy.add(node)
                parent = parent_of(node)
                sums[parent] = sums.get(parent, 0.0) + self._shares[node]
        running = set(active)
        result: dict[str, float] = {}
        for name in self._names:
            part = 1.0
            if name in self._parents:
                part = OWN_SHARE / (sums.get(name, 0.0) + (0.0 if name in running else OWN_SHARE))
            for node in lineage(name):
                share = self._shares[node]
                part *= share / (sums.get(parent_of(node), 0.0) + (0.0 if node in busy else share))
            result[name] = part
        return result
