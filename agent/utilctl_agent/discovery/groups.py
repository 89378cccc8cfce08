"""Which cgroups an SEE fills exactly, so that one write can pause all of it.

A v2 cgroup qualifies if every process in it and below is a member of the one SEE. Never the root, never one
that holds a process of the agent (those belong to no SEE). Of nested cgroups the topmost is named, with two
exceptions: not one that holds nothing but a single other cgroup, since that saves no write and would catch
strangers that start there later, and for the same reason no systemd slice, which is where strangers start.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from utilctl_agent.discovery.cgroupfs import CgroupMount, processes_below
from utilctl_agent.discovery.facts import ProcessKey, ProcessTable
from utilctl_agent.discovery.matching import Membership
from utilctl_agent.discovery.procfs import ProcessGoneError, ProcessHiddenError, ProcReader


@dataclass(frozen=True, slots=True)
class SeeGroups:
    """How to reach all processes of one SEE: whole cgroups (absolute v2 directories), and the processes
    left over.
    """

    cgroup_paths: tuple[Path, ...]
    loose: tuple[ProcessKey, ...]


def find_groups(
    table: ProcessTable, membership: Membership, mount: CgroupMount | None, reader: ProcReader
) -> dict[str, SeeGroups]:
    """The groups of every SEE. What the table suggests is checked against the cgroups' own lists, read
    now.
    """
    if mount is None:
        return {see: SeeGroups((), keys) for see, keys in membership.members.items()}
    owners = {key: see for see, keys in membership.members.items() for key in keys}
    tree = _OwnedTree(table, owners, mount)
    known = {key.pid for key in table.live}
    result: dict[str, SeeGroups] = {}
    for see, keys in membership.members.items():
        members = {key.pid for key in keys}
        check = _Check(members, known - members, mount, reader)
        directories: list[Path] = []
        covered: set[int] = set()
        for path in tree.topmost(see):
            for directory, pids in check.exact(path, tree):
                directories.append(directory)
                covered |= pids
        loose = tuple(key for key in keys if key.pid not in covered)
        result[see] = SeeGroups(tuple(sorted(directories)), loose)
    return result


class _OwnedTree:
    """Cgroup paths with the SEEs (None: stranger) whose processes they hold, directly and below."""

    def __init__(self, table: ProcessTable, owners: Mapping[ProcessKey, str], mount: CgroupMount) -> None:
        self.direct: dict[str, set[str | None]] = {}
        self._below: dict[str, set[str | None]] = {}
        self._children: dict[str, set[str]] = {}
        self._root = mount.root
        for key, facts in table.live.items():
            path = facts.cgroup_v2
            if path is not None:
                self.direct.setdefault(path, set()).add(owners.get(key))
        for path, sees in self.direct.items():
            child = path
            for ancestor in (path, *map(str, PurePosixPath(path).parents)):
                self._below.setdefault(ancestor, set()).update(sees)
                if ancestor != path:
                    self._children.setdefault(ancestor, set()).add(child)
                child = ancestor
        # A slice holds no processes itself; what is above one would catch the same strangers.
        slices = {path for path in self._below if path.endswith(".slice") and path not in self.direct}
        self._slices = slices.union(*(map(str, PurePosixPath(path).parents) for path in slices))

    def owned(self, path: str, see: str) -> bool:
        """Whether the table knows only processes of ``see`` there; never true of the root."""
        return path not in ("/", self._root) and self._below.get(path) == {see}

    def children(self, path: str) -> tuple[str, ...]:
        """The cgroups right below that hold processes, themselves or further down."""
        return tuple(sorted(self._children.get(path, ())))

    def topmost(self, see: str) -> tuple[str, ...]:
        """The topmost paths worth a write of their own that only ``see`` owns."""
        found: set[str] = set()
        for path in self.direct:
            if not self.owned(path, see):
                continue
            best = path
            for ancestor in map(str, PurePosixPath(path).parents):
                if not self.owned(ancestor, see):
                    break
                if ancestor in self._slices:
                    break
                if ancestor not in self.direct and len(self.children(ancestor)) < 2:
                    continue
                best = ancestor
            found.add(best)
        return tuple(sorted(path for path in found if not any(path.startswith(top + "/") for top in found)))


class _Check:
    """Compares cgroups with the members of one SEE, now."""

    def __init__(self, members: set[int], strangers: set[int], mount: CgroupMount, reader: ProcReader) -> None:
        self._members = members
        self._strangers = strangers
        self._mount = mount
        self._reader = reader

    def exact(self, path: str, tree: _OwnedTree) -> list[tuple[Path, frozenset[int]]]:
        """``path`` if it holds only members, else those below it that do, each with the pids in it."""
        directory = self._mount.directory(path)
        pids = processes_below(directory) if directory is not None else None
        if directory is not None and pids and all(self._belongs(pid, pids) for pid in pids):
            return [(directory, pids)]
        return [found for child in tree.children(path) for found in self.exact(child, tree)]

    def _belongs(self, pid: int, group: frozenset[int]) -> bool:
        """Members, and what they forked since the scan: it will be a member by descent at the next one."""
        seen: set[int] = set()
        while pid not in self._members:
            if pid == 0 or pid in self._strangers or pid in seen or pid not in group:
                return False
            seen.add(pid)
            try:
                stat = self._reader.stat(pid)
            except ProcessGoneError:
                return True
            except (ProcessHiddenError, OSError):
                return False
            if stat.ended:
                return True
            if stat.kernel_thread:
                return False
            pid = stat.ppid
        return True
