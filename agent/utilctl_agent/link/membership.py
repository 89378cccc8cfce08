"""Which processes belong to which SEE, kept up to date beside the session, in a thread of its own."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from utilctl_agent.discovery.cadence import Cadence
from utilctl_agent.discovery.cgroupfs import cgroup_mounts
from utilctl_agent.discovery.events import listen
from utilctl_agent.discovery.facts import LabelSource
from utilctl_agent.discovery.procfs import ProcReader
from utilctl_agent.discovery.scan import Discovery
from utilctl_agent.discovery.scope import HostScope, Scope, parse_scope
from utilctl_agent.discovery.weighing import find_weight_cgroup
from utilctl_agent.link.roster import SeeMembers, wants_weight
from utilctl_common.policy import SeePolicy

COUNT_THREADS_UP_TO: Final = 256
"""SEEs with more processes than this are taken to have one thread each: they fill any host's CPUs anyway."""


class MembershipScanner:
    """Wraps discovery; its methods block and are called from one thread at a time.

    ``members`` are those of every SEE that has any, ``problems`` what people must settle, by SEE. Both are replaced,
    never changed. ``cadence`` says when to call what.
    """

    def __init__(
        self,
        scope: str | None,
        own_pids: frozenset[int],
        scan_ns: int,
        *,
        events: bool = True,
        weigh: bool = False,
        labels: LabelSource | None = None,
    ) -> None:
        """events: listen to them where that is allowed. weigh: weights are preferred, see link.roster. labels: of pods.

        Raises UsageError for a scope that does not exist.
        """
        self._weigh = weigh
        self._weighed: frozenset[str] = frozenset()
        reader = ProcReader(labels=labels)
        mounts = cgroup_mounts(Path("/proc"))
        chosen: Scope = HostScope() if scope is None else parse_scope(scope, reader, mounts)
        self._events = listen() if events else None
        self.cadence = Cadence(scan_ns, events=self._events is not None)
        self.members: dict[str, SeeMembers] = {}
        self.problems: dict[str, str] = {}
        self._discovery = Discovery(reader, chosen, own_pids, mounts=mounts, events=self._events)

    @property
    def lost(self) -> int:
        """How often the kernel dropped events, each time made good by a scan."""
        return self._events.lost if self._events is not None else 0

    def fileno(self) -> int | None:
        """Readable while events wait to be taken in; None without events."""
        return self._events.fileno() if self._events is not None else None

    def scan(self, policies: tuple[SeePolicy, ...]) -> None:
        """Look at every process. Raises UsageError and FailedError as Discovery.scan."""
        begin_ns = time.thread_time_ns()
        self._weighed = frozenset(p.name for p in policies if wants_weight(p.mode, host_weighs=self._weigh))
        membership = self._discovery.scan(policies)
        before = self.members, self.problems
        self.members = {}
        self._take_over(membership.members)
        changed = before != (self.members, self.problems)
        cost_ns = time.thread_time_ns() - begin_ns
        self.cadence.scanned(
            time.monotonic_ns(),
            cost_ns,
            behind=self._discovery.behind,
            changed=changed,
            young=self._discovery.has_young,
        )

    def look(self) -> bool:
        """Look at what came, changed or went since the last look; True if anything that is ours differs.

        Raises FailedError.
        """
        begin_ns = time.thread_time_ns()
        touched = self._discovery.glance() if self._events is None else self._discovery.follow()
        revisit_ns = self.cadence.revisit_ns
        if revisit_ns is not None and time.monotonic_ns() >= revisit_ns:
            touched |= self._discovery.revisit()
        if touched:
            self._take_over(touched)
        cost_ns = time.thread_time_ns() - begin_ns
        self.cadence.looked(time.monotonic_ns(), cost_ns, changed=bool(touched), young=self._discovery.has_young)
        return bool(touched)

    def close(self) -> None:
        """Stop listening. Idempotent."""
        if self._events is not None:
            self._events.close()

    def _take_over(self, sees: Iterable[str]) -> None:
        membership, groups = self._discovery.membership, self._discovery.known_groups()
        members = dict(self.members)
        for see in sees:
            keys, found = membership.members[see], groups[see]
            if not keys:
                members.pop(see, None)
                continue
            many = len(keys) > COUNT_THREADS_UP_TO
            pids = frozenset(pid for pid, _ in keys)
            cgroup, refusal = find_weight_cgroup(pids) if see in self._weighed else (None, "")
            members[see] = SeeMembers(
                processes=keys,
                cgroups=tuple(str(path) for path in found.cgroup_paths),
                loose=found.loose,
                threads=len(keys) if many else self._discovery.threads(keys),
                weight_cgroup=str(cgroup) if cgroup is not None else "",
                weight_refusal=refusal,
            )
        problems: dict[str, str] = {}
        for problem in membership.problems:
            for see in problem.sees:
                problems.setdefault(see, problem.message)
        self.members, self.problems = members, problems
