"""What is known of one process, and what else discovery is told about the host. Plain values, no I/O."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol

MARKER_VARIABLE: Final = "UTILCTL_SEE"
"""Environment variable by which a process says which SEE it belongs to."""


class ProcessKey(NamedTuple):
    """A process for good: pids are reused, a pid with its start time is not.

    ``start_ticks`` is field 22 of /proc/PID/stat, clock ticks since boot.
    """

    pid: int
    start_ticks: int


class CgroupPath(NamedTuple):
    """Membership of a process in one cgroup hierarchy.

    ``hierarchy`` is the middle field of /proc/PID/cgroup: empty for v2, else for example ``freezer``,
    ``cpu,cpuacct`` or ``name=systemd``. ``path`` begins with a slash.
    """

    hierarchy: str
    path: str


@dataclass(frozen=True, slots=True)
class ProcessFacts:
    """One process at the time it was last read.

    ``uid`` is the effective user id and ``user`` its name (the number as text where no name is known).
    ``comm`` is the kernel's name of the process (15 characters at most), ``exe`` the base name of its
    executable, empty if it may not be read. ``environment`` holds only the variables that some policy asks
    for; None means that it may not be read. ``labels`` are those of the pod the process runs in.
    """

    pid: int
    start_ticks: int
    ppid: int
    uid: int
    user: str
    comm: str
    exe: str = ""
    cmdline: str = ""
    cgroups: tuple[CgroupPath, ...] = ()
    environment: tuple[tuple[str, str], ...] | None = ()
    labels: tuple[tuple[str, str], ...] = ()

    @property
    def key(self) -> ProcessKey:
        """The process for good."""
        return ProcessKey(self.pid, self.start_ticks)

    @property
    def marker(self) -> str | None:
        """Value of UTILCTL_SEE in its environment; None if absent or unreadable."""
        return self.variable(MARKER_VARIABLE)

    @property
    def cgroup_v2(self) -> str | None:
        """Its path in the v2 hierarchy; None where there is none."""
        return next((path for hierarchy, path in self.cgroups if not hierarchy), None)

    def variable(self, name: str) -> str | None:
        """Value of one environment variable; None if absent, unreadable or not asked for when it was read."""
        return next((value for key, value in self.environment or () if key == name), None)


def printable(text: str) -> str:
    """``text`` safe for a terminal and for UTF-8: a process chooses its name and may put escape codes into
    it.
    """
    return "".join(char if char.isprintable() else "?" for char in text)


class LabelSource(Protocol):
    """Where the labels of pods come from. ``revision`` grows whenever any answer may have changed."""

    @property
    def revision(self) -> int: ...

    def labels_of(self, cgroups: tuple[CgroupPath, ...]) -> Mapping[str, str]:
        """Labels of the pod that owns these cgroups; empty if none does. Must not block."""
        ...


class NoLabels:
    """The LabelSource of a host without pods."""

    revision = 0

    def labels_of(self, cgroups: tuple[CgroupPath, ...]) -> Mapping[str, str]:
        """Nothing is labelled."""
        del cgroups
        return {}


@dataclass(frozen=True, slots=True)
class ProcessTable:
    """All that matching looks at: a pure value.

    ``live`` are the processes of the host by key. ``departed`` are dead ancestors of live ones, remembered
    because descent counts after reparenting. ``parents`` gives for either the process that was its parent
    when first seen (absent: unknown). ``bound_pids`` says which process a bare pid in a matcher means: the
    one that had it when the matcher came, so that a reused pid does not match. ``unmanaged`` are live
    processes that never belong to an SEE: the agent's own and init. ``in_scope`` None means that the agent
    has the whole host.
    """

    live: Mapping[ProcessKey, ProcessFacts]
    parents: Mapping[ProcessKey, ProcessKey]
    departed: Mapping[ProcessKey, ProcessFacts] = field(default_factory=dict)
    bound_pids: Mapping[int, ProcessKey] = field(default_factory=dict)
    unmanaged: frozenset[int] = frozenset()
    in_scope: frozenset[ProcessKey] | None = None

    def facts(self, key: ProcessKey) -> ProcessFacts | None:
        """Facts of a live or departed process."""
        return self.live.get(key) or self.departed.get(key)

    def manages(self, key: ProcessKey) -> bool:
        """Whether the process may belong to an SEE at all."""
        return (self.in_scope is None or key in self.in_scope) and not (key.pid in self.unmanaged and key in self.live)

    def ancestors(self, key: ProcessKey) -> Iterable[ProcessKey]:
        """The process itself, then its known ancestors, nearest first."""
        seen: set[ProcessKey] = set()
        current: ProcessKey | None = key
        while current is not None and current not in seen:
            seen.add(current)
            yield current
            current = self.parents.get(current)


def table_of(
    processes: Iterable[ProcessFacts],
    *,
    unmanaged: frozenset[int] = frozenset(),
    in_scope: frozenset[ProcessKey] | None = None,
) -> ProcessTable:
    """A table of one moment, with no memory: parents by ppid, every pid bound to its present process."""
    live = {facts.key: facts for facts in processes}
    by_pid = {key.pid: key for key in live}
    parents = {
        key: parent for key, facts in live.items() if (parent := by_pid.get(facts.ppid)) is not None and parent != key
    }
    return ProcessTable(live, parents, bound_pids=by_pid, unmanaged=unmanaged, in_scope=in_scope)
