"""``--scope``: the part of the host that one agent looks after, a cgroup subtree or a process tree."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from utilctl_agent.discovery.cgroupfs import CgroupMount
from utilctl_agent.discovery.facts import ProcessFacts, ProcessKey
from utilctl_agent.discovery.procfs import ProcessGoneError, ProcessHiddenError, ProcReader
from utilctl_common.errors import UsageError


class Scope(Protocol):
    """Chooses the processes that an agent may manage."""

    def select(
        self, processes: Mapping[ProcessKey, ProcessFacts], parents: Mapping[ProcessKey, ProcessKey]
    ) -> frozenset[ProcessKey] | None:
        """Those of ``processes`` that are in scope; None stands for all."""
        ...


@dataclass(frozen=True, slots=True)
class HostScope:
    """The whole host."""

    def select(
        self, processes: Mapping[ProcessKey, ProcessFacts], parents: Mapping[ProcessKey, ProcessKey]
    ) -> frozenset[ProcessKey] | None:
        """Every process."""
        del processes, parents
        return None

    def __str__(self) -> str:
        return "the whole host"


@dataclass(frozen=True, slots=True)
class CgroupScope:
    """The processes in the cgroup ``path`` or below it, in any of the hierarchies that ``mounts`` show."""

    path: str
    mounts: tuple[CgroupMount, ...]

    def select(
        self, processes: Mapping[ProcessKey, ProcessFacts], parents: Mapping[ProcessKey, ProcessKey]
    ) -> frozenset[ProcessKey] | None:
        """Membership follows the cgroup: a process that leaves it leaves the scope."""
        del parents
        return frozenset(key for key, facts in processes.items() if self._contains(facts))

    def _contains(self, facts: ProcessFacts) -> bool:
        prefix = self.path.rstrip("/") + "/"
        return any(
            (path + "/").startswith(prefix) and any(mount.holds(hierarchy) for mount in self.mounts)
            for hierarchy, path in facts.cgroups
        )

    def __str__(self) -> str:
        return f"cgroup:{self.path}"


@dataclass(frozen=True, slots=True)
class TreeScope:
    """One process and all that descend from it, including those that turned into daemons since they were
    first seen. Outlives its root.
    """

    root: ProcessKey

    def select(
        self, processes: Mapping[ProcessKey, ProcessFacts], parents: Mapping[ProcessKey, ProcessKey]
    ) -> frozenset[ProcessKey] | None:
        """Once in the tree, always in the tree."""
        inside: dict[ProcessKey, bool] = {self.root: True}
        for start in processes:
            path: list[ProcessKey] = []
            current: ProcessKey | None = start
            while current is not None and current not in inside:
                # Marked before its answer is known, so that a loop in the data ends.
                inside[current] = False
                path.append(current)
                current = parents.get(current)
            if current is not None and inside[current]:
                inside.update(dict.fromkeys(path, True))
        return frozenset(key for key in processes if inside[key])

    def __str__(self) -> str:
        return f"tree:{self.root.pid}"


def parse_scope(text: str, reader: ProcReader, mounts: tuple[CgroupMount, ...]) -> Scope:
    """``cgroup:PATH`` or ``tree:PID`` as a scope.

    PATH is a cgroup path, found in every hierarchy that has it, or a directory below a cgroup mount, which
    stands for that hierarchy alone. Raises UsageError for any other text, a missing cgroup and a process that
    has gone.
    """
    kind, colon, value = text.partition(":")
    if not colon or kind not in ("cgroup", "tree") or not value:
        raise UsageError(f"scope {text!r} is malformed", hint="write cgroup:PATH or tree:PID")
    return _cgroup_scope(value, mounts) if kind == "cgroup" else _tree_scope(value, reader)


def _cgroup_scope(value: str, mounts: tuple[CgroupMount, ...]) -> CgroupScope:
    if not value.startswith("/") or "\0" in value or ".." in value.split("/"):
        raise UsageError(
            f"scope cgroup:{value!r} is not an absolute path without '..'",
            hint="write for example cgroup:/web.slice",
        )
    if not mounts:
        raise UsageError("no cgroup file system is mounted here", hint="use tree:PID instead")
    directory = Path(value)
    for mount in mounts:
        path = mount.path_of(directory)
        if path is not None and directory.is_dir():
            return CgroupScope(path, (mount,))
    path = str(directory)
    having = tuple(mount for mount in mounts if (place := mount.directory(path)) is not None and place.is_dir())
    if not having:
        raise UsageError(f"there is no cgroup {path} in any hierarchy", hint="create it first, or check the path")
    return CgroupScope(path, having)


def _tree_scope(value: str, reader: ProcReader) -> TreeScope:
    if not (value.isascii() and value.isdecimal()) or not 0 < int(value) < 2**31:
        raise UsageError(f"scope tree:{value} is not a process id", hint="write for example tree:1234")
    try:
        stat = reader.stat(int(value))
    except ProcessGoneError:
        raise UsageError(f"scope tree:{value}: there is no such process", hint="start it first") from None
    except ProcessHiddenError:
        raise UsageError(f"scope tree:{value}: the process is hidden from this user", hint="run as root") from None
    if stat.kernel_thread or stat.ended:
        what = "is a kernel thread" if stat.kernel_thread else "has ended"
        raise UsageError(f"scope tree:{value}: the process {what}", hint="name a running process")
    return TreeScope(ProcessKey(stat.pid, stat.start_ticks))
