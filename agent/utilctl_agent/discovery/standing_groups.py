"""Which processes of an SEE stand outside its whole cgroups, amended for what changed. Pure.

A newcomer in one of its SEE's cgroups is frozen with it and changes nothing; elsewhere it is loose. Whether further
cgroups have become whole shows at the next complete look (``groups.find_groups``); that one of them no longer is, at
once: nothing of a stranger may be frozen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from utilctl_agent.discovery.batch import Changes
from utilctl_agent.discovery.cgroupfs import CgroupMount
from utilctl_agent.discovery.facts import ProcessKey, ProcessTable
from utilctl_agent.discovery.groups import SeeGroups


class StandingGroups:
    """Groups of every SEE, kept between complete looks at them."""

    def __init__(self) -> None:
        self.groups: dict[str, SeeGroups] = {}
        self._owners: dict[str, str] = {}  # SEE by the path of a cgroup that it fills
        self._loose: dict[str, set[ProcessKey]] = {}

    def rebuild(self, groups: Mapping[str, SeeGroups], mount: CgroupMount | None) -> None:
        """Take over a complete look."""
        self.groups = dict(groups)
        self._loose = {see: set(found.loose) for see, found in groups.items()}
        self._owners = {
            path: see
            for see, found in groups.items()
            for directory in found.cgroup_paths
            if mount is not None and (path := mount.path_of(directory)) is not None
        }

    def amend(
        self,
        table: ProcessTable,
        see_of: Callable[[ProcessKey], str | None],
        changes: Changes,
        stale: frozenset[ProcessKey],
    ) -> bool:
        """Take in that ``stale`` came or changed and ``changes.gone`` went. False if a complete look is needed."""
        touched: set[str] = set()
        affected = stale.union(changes.gone)
        for name, loose in self._loose.items():
            if not loose.isdisjoint(affected):
                loose.difference_update(affected)
                touched.add(name)
        for key in stale:
            facts = table.live.get(key)
            if facts is None:
                continue
            see, owner = see_of(key), self._owner(facts.cgroup_v2)
            if owner is not None and owner != see:
                return False
            if see is not None and owner is None:
                self._loose[see].add(key)
                touched.add(see)
        for name in touched:
            self.groups[name] = SeeGroups(self.groups[name].cgroup_paths, tuple(sorted(self._loose[name])))
        return True

    def _owner(self, path: str | None) -> str | None:
        """The SEE that fills this cgroup or one above."""
        while path and self._owners:
            if path in self._owners:
                return self._owners[path]
            path = path.rpartition("/")[0]
        return None
