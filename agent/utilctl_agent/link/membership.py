"""Which processes belong to which SEE, scanned beside the session in a thread of its own."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Final

from utilctl_agent.discovery.cgroupfs import cgroup_mounts
from utilctl_agent.discovery.forks import ForkEvents
from utilctl_agent.discovery.procfs import ProcReader
from utilctl_agent.discovery.scan import Discovery
from utilctl_agent.discovery.scope import HostScope, Scope, parse_scope
from utilctl_agent.discovery.weighing import find_weight_cgroup
from utilctl_agent.host.procstat import read_stat
from utilctl_agent.link.roster import SeeMembers, wants_weight
from utilctl_common.errors import FailedError
from utilctl_common.policy import SeePolicy

COUNT_THREADS_UP_TO: Final = 256
"""SEEs with more processes than this are taken to have one thread each: they fill any host's CPUs anyway."""


class MembershipScanner:
    """Wraps discovery; ``scan`` blocks and is called from one thread at a time."""

    def __init__(self, scope: str | None, own_pids: frozenset[int], *, weigh: bool = False) -> None:
        """weigh: weights are preferred, see link.roster. Raises UsageError for a scope that does not exist."""
        self._weigh = weigh
        reader = ProcReader()
        mounts = cgroup_mounts(Path("/proc"))
        chosen: Scope = HostScope() if scope is None else parse_scope(scope, reader, mounts)
        forks: ForkEvents | None = None
        with contextlib.suppress(FailedError):  # not permitted: daemons that fork twice between scans stay unknown
            forks = ForkEvents()
        self._discovery = Discovery(reader, chosen, own_pids, mounts=mounts, forks=forks)

    def scan(self, policies: tuple[SeePolicy, ...]) -> tuple[dict[str, SeeMembers], dict[str, str]]:
        """Members of every SEE that has any, and problems by SEE."""
        membership = self._discovery.scan(policies)
        groups = self._discovery.groups()
        weighed = {policy.name for policy in policies if wants_weight(policy.mode, host_weighs=self._weigh)}
        members: dict[str, SeeMembers] = {}
        for see, keys in membership.members.items():
            if not keys:
                continue
            found = groups[see]
            pids = frozenset(key.pid for key in keys)
            cgroup, refusal = find_weight_cgroup(pids) if see in weighed else (None, "")
            members[see] = SeeMembers(
                processes=tuple((key.pid, key.start_ticks) for key in keys),
                cgroups=tuple(str(path) for path in found.cgroup_paths),
                loose=tuple((key.pid, key.start_ticks) for key in found.loose),
                threads=_threads(sorted(pids)),
                weight_cgroup=str(cgroup) if cgroup is not None else "",
                weight_refusal=refusal,
            )
        problems: dict[str, str] = {}
        for problem in membership.problems:
            for see in problem.sees:
                problems.setdefault(see, problem.message)
        return members, problems


def _threads(pids: list[int]) -> int:
    if len(pids) > COUNT_THREADS_UP_TO:
        return len(pids)
    return sum(stat[2] for pid in pids if (stat := read_stat(pid)) is not None)
