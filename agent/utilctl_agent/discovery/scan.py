"""Discovery: watches the host and says which processes belong to which SEE.

Runs in the agent's link process; one instance belongs to one thread. ``scan`` looks at all processes, ``follow`` at
those that events name, ``glance`` at those that came since the last look, where there are no events.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Final

from utilctl_agent.discovery.batch import Changes, EventBatch, EventSource
from utilctl_agent.discovery.cgroupfs import CgroupMount, cgroup_mounts, v2_mount
from utilctl_agent.discovery.conditions import named_pids, wanted_variables
from utilctl_agent.discovery.explain import MatchExplanation, explain
from utilctl_agent.discovery.facts import ProcessKey, ProcessTable
from utilctl_agent.discovery.groups import SeeGroups, find_groups
from utilctl_agent.discovery.lineage import Lineage
from utilctl_agent.discovery.matching import Membership, PolicyMatcher
from utilctl_agent.discovery.process_cache import ProcessCache, ScanStats
from utilctl_agent.discovery.procfs import ProcReader
from utilctl_agent.discovery.scope import HostScope, Scope
from utilctl_agent.discovery.standing import Standing
from utilctl_agent.discovery.standing_groups import StandingGroups
from utilctl_common.policy import SeePolicy

INIT_PID: Final = 1
"""Never managed: pausing init stops the host from reaping and restarting anything."""


class Discovery:
    """Keeps the process table and the matching of one agent.

    ``own_pids`` are the agent's processes, never managed; it is looked at in every look and may change.
    ``events`` is optional; without it, what inherits its SEE from a process that lived between two looks is
    not recognised.
    """

    def __init__(
        self,
        reader: ProcReader,
        scope: Scope | None = None,
        own_pids: Collection[int] = (),
        *,
        mounts: tuple[CgroupMount, ...] | None = None,
        events: EventSource | None = None,
    ) -> None:
        self.table = ProcessTable({}, {})
        self.behind = False
        """Events were lost during the last scan: the next one should not wait."""
        self._reader = reader
        self._scope: Scope = scope or HostScope()
        self._own_pids = own_pids
        self._v2_mount = v2_mount(cgroup_mounts(Path(reader.proc_root)) if mounts is None else mounts)
        self._events = events
        self._last_forks: dict[int, int] = {}
        self._cache = ProcessCache(reader)
        self._lineage = Lineage()
        self._standing = Standing()
        self._groups = StandingGroups()
        self._groups_due = True
        self._policies: tuple[SeePolicy, ...] = ()
        self._matcher = PolicyMatcher(())
        self._bound_pids: dict[int, ProcessKey | None] = {}

    @property
    def membership(self) -> Membership:
        """The outcome of the last look."""
        return self._standing.membership

    @property
    def stats(self) -> ScanStats:
        """What the last scan did."""
        return self._cache.stats

    def scan(self, policies: Iterable[SeePolicy]) -> Membership:
        """Read what changed on the host and match it against ``policies``.

        Raises UsageError if two policies have one name, and FailedError if there is no /proc.
        """
        policies = tuple(policies)
        new_policies = policies != self._policies
        matcher = PolicyMatcher(policies) if new_policies else self._matcher
        new_processes = self._cache.update(wanted_variables(policies))
        # Taken after the scan, so that no process in the table is missing from it.
        batch = self._events.take() if self._events is not None else EventBatch()
        self.behind = batch.lost
        new_processes |= bool(self._cache.apply(batch))
        unmanaged = frozenset(self._own_pids) | {INIT_PID}
        self._policies, self._matcher = policies, matcher
        self._groups_due = True
        forks = self._forks(batch.parents)
        if new_policies or new_processes or unmanaged != self.table.unmanaged:
            live = self._cache.live
            self._bind_pids()
            self._lineage.observe(live, forks=forks, keep=frozenset(self._bound().values()))
            departed, parents = dict(self._lineage.departed), dict(self._lineage.parents)
            in_scope = self._scope.select({**departed, **live}, parents)
            self.table = ProcessTable(live, parents, departed, self._bound(), unmanaged, in_scope)
            self._standing.rebuild(matcher, self.table)
        return self.membership

    def follow(self) -> frozenset[str]:
        """Take in the events since the last look; returns the SEEs whose processes may differ from before.

        Where the kernel lost events this is a scan. Raises FailedError if there is no /proc then.
        """
        batch = self._events.take() if self._events is not None else EventBatch()
        if batch.lost:
            self.scan(self._policies)
            return frozenset(self.membership.members)
        return self._amend(self._cache.apply(batch), self._forks(batch.parents))

    @property
    def has_young(self) -> bool:
        """Whether processes have executed a program lately, and ``revisit`` should come soon."""
        return self._cache.has_young

    def revisit(self) -> frozenset[str]:
        """Look at those once more; returns the SEEs whose processes may differ from before."""
        return self._amend(self._cache.revisit(), self._forks({}))

    def glance(self) -> frozenset[str]:
        """Look for processes that came or went; returns the SEEs whose processes may differ from before.

        Raises FailedError if there is no /proc.
        """
        return self._amend(self._cache.glance(), self._forks({}))

    def threads(self, keys: Iterable[ProcessKey]) -> int:
        """How many threads these processes had when they were last looked at."""
        return self._cache.threads(keys)

    def _forks(self, new: dict[int, int]) -> dict[int, int]:
        """New forks with those of the look before: they may tell of what came after that had listed the pids."""
        forks = {**self._last_forks, **new}
        self._last_forks = new
        return forks

    def _amend(self, changes: Changes, forks: Mapping[int, int]) -> frozenset[str]:
        if not changes:
            return frozenset()
        live, before = self._cache.live, self.table
        self._lineage.follow(live, changes.added, changes.gone, forks=forks, keep=frozenset(self._bound().values()))
        departed, parents = dict(self._lineage.departed), dict(self._lineage.parents)
        stale = frozenset(self._lineage.descendants((*changes.added, *changes.changed)))
        in_scope = before.in_scope
        if in_scope is not None:
            known = {key: facts for key in stale if (facts := live.get(key) or departed.get(key)) is not None}
            selected = self._scope.select(known, parents) or frozenset()
            left = frozenset(key for key in changes.gone if key not in departed)
            in_scope = (in_scope - stale - left) | selected
        self.table = ProcessTable(live, parents, departed, before.bound_pids, before.unmanaged, in_scope)
        touched = self._standing.amend(self._matcher, self.table, changes, stale)
        if not self._groups_due and not self._groups.amend(self.table, self._standing.see_of, changes, stale):
            # A stranger stands in a cgroup that was one SEE's alone.
            self._groups_due = True
            return frozenset(self.membership.members)
        return touched

    def _bound(self) -> dict[int, ProcessKey]:
        return {pid: key for pid, key in self._bound_pids.items() if key is not None}

    def _bind_pids(self) -> None:
        """A bare pid means the process that has it when the matcher comes, and never a later one."""
        by_pid = {key.pid: key for key in self._cache.live}
        self._bound_pids = {
            pid: self._bound_pids[pid] if pid in self._bound_pids else by_pid.get(pid)
            for pid in named_pids(self._policies)
        }

    def explain_pid(self, pid: int) -> MatchExplanation:
        """What the conditions of every SEE of the last scan said about ``pid`` then, and the outcome."""
        return explain(pid, self._policies, self.table)

    def groups(self) -> dict[str, SeeGroups]:
        """For every SEE of the last look, the cgroups that it fills exactly and the processes left over, read now."""
        found = find_groups(self.table, self.membership, self._v2_mount, self._reader)
        self._groups.rebuild(found, self._v2_mount)
        self._groups_due = False
        return found

    def known_groups(self) -> Mapping[str, SeeGroups]:
        """The same, read at the last scan (or when a stranger came to a cgroup) and amended by the looks since."""
        return self.groups() if self._groups_due else self._groups.groups
