"""Discovery: scans the host and says which processes belong to which SEE.

Runs in the agent's link process about once a second and on demand; one instance belongs to one thread.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Final, Protocol

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
from utilctl_common.policy import SeePolicy

INIT_PID: Final = 1
"""Never managed: pausing init stops the host from reaping and restarting anything."""


class ForkSource(Protocol):
    """Tells who forked whom, for processes too short-lived for a scan to see."""

    def take(self) -> Mapping[int, int]:
        """Parent pid by child pid, for forks since the last call."""
        ...


class Discovery:
    """Keeps the process table and the matching of one agent.

    ``own_pids`` are the agent's processes, never managed; it is looked at in every scan and may change.
    ``forks`` is optional; without it, what inherits its SEE from a process that lived between two scans is
    not recognised.
    """

    def __init__(
        self,
        reader: ProcReader,
        scope: Scope | None = None,
        own_pids: Collection[int] = (),
        *,
        mounts: tuple[CgroupMount, ...] | None = None,
        forks: ForkSource | None = None,
    ) -> None:
        self.membership = Membership({})
        self.table = ProcessTable({}, {})
        self._reader = reader
        self._scope: Scope = scope or HostScope()
        self._own_pids = own_pids
        self._v2_mount = v2_mount(cgroup_mounts(Path(reader.proc_root)) if mounts is None else mounts)
        self._forks = forks
        self._unused_forks: dict[int, int] = {}
        self._cache = ProcessCache(reader)
        self._lineage = Lineage()
        self._policies: tuple[SeePolicy, ...] = ()
        self._matcher = PolicyMatcher(())
        self._bound_pids: dict[int, ProcessKey | None] = {}

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
        # Asked after the scan, so that no process in the table is missing from it.
        new_forks = dict(self._forks.take()) if self._forks is not None else {}
        self._unused_forks |= new_forks
        unmanaged = frozenset(self._own_pids) | {INIT_PID}
        self._policies, self._matcher = policies, matcher
        if new_policies or new_processes or unmanaged != self.table.unmanaged:
            self._rematch(self._unused_forks, unmanaged)
            # Kept once more: they may tell of processes that came after the scan had listed the pids.
            self._unused_forks = new_forks
        return self.membership

    def _rematch(self, forks: Mapping[int, int], unmanaged: frozenset[int]) -> None:
        live = self._cache.live
        self._bind_pids()
        bound = {pid: key for pid, key in self._bound_pids.items() if key is not None}
        self._lineage.observe(live, forks=forks, keep=frozenset(bound.values()))
        departed, parents = dict(self._lineage.departed), dict(self._lineage.parents)
        self.table = ProcessTable(
            live=live,
            parents=parents,
            departed=departed,
            bound_pids=bound,
            unmanaged=unmanaged,
            in_scope=self._scope.select({**departed, **live}, parents),
        )
        self.membership = self._matcher.match(self.table)

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
        """For every SEE of the last scan, the cgroups that it fills exactly and the processes left over."""
        return find_groups(self.table, self.membership, self._v2_mount, self._reader)
