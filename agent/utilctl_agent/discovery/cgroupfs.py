"""Cgroup file systems: where they are mounted, and which processes a directory holds."""

from __future__ import annotations

import os
import posixpath
import re
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Final

from utilctl_agent.discovery.facts import CgroupPath

_OCTAL_ESCAPE: Final = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class CgroupMount:
    """One mounted hierarchy.

    ``controllers`` is empty for v2; for v1 it holds the mount's options, controllers among them. ``root`` is
    the cgroup that stands at ``mount_point``, as /proc/PID/cgroup would name it: not ``/`` inside some
    containers. ``own`` is empty, or the cgroup that this process's cgroup namespace calls ``/``, as shown here.
    """

    mount_point: Path
    root: str
    controllers: frozenset[str]
    own: str = ""

    @property
    def is_v2(self) -> bool:
        return not self.controllers

    def holds(self, hierarchy: str) -> bool:
        """Whether this mount shows the hierarchy that /proc/PID/cgroup calls ``hierarchy``."""
        return not self.controllers if not hierarchy else set(hierarchy.split(",")) <= self.controllers

    def absolute(self, path: str) -> str:
        """What /proc/PID/cgroup names, as seen from the root of the mount instead of from a cgroup namespace's."""
        return posixpath.normpath(f"{self.own}/{path}") if self.own else path

    def directory(self, path: str) -> Path | None:
        """The directory of a cgroup path; None if the path lies outside what is mounted here."""
        if self.root == "/":
            return self.mount_point / path.lstrip("/")
        if path == self.root or path.startswith(self.root + "/"):
            return self.mount_point / path[len(self.root) :].lstrip("/")
        return None

    def path_of(self, directory: Path) -> str | None:
        """The cgroup path of a directory; None if the directory is not below this mount."""
        if not directory.is_relative_to(self.mount_point):
            return None
        return str(PurePosixPath(self.root) / directory.relative_to(self.mount_point))


def parse_mountinfo(text: str) -> tuple[CgroupMount, ...]:
    """The cgroup mounts in the text of /proc/PID/mountinfo, in its order. Lines of other shapes are left
    out.
    """
    mounts: list[CgroupMount] = []
    for line in text.splitlines():
        before, separator, after = line.partition(" - ")
        left, right = before.split(" "), after.split(" ")
        if not separator or len(left) < 5 or len(right) < 3 or right[0] not in ("cgroup", "cgroup2"):
            continue
        controllers = frozenset(right[2].split(",")) - {"rw", "ro"} if right[0] == "cgroup" else frozenset[str]()
        mounts.append(CgroupMount(Path(_unescape(left[4])), _unescape(left[3]), controllers))
    return tuple(mounts)


def _unescape(text: str) -> str:
    return _OCTAL_ESCAPE.sub(lambda match: chr(int(match[1], 8)), text)


def cgroup_mounts(proc_root: Path = Path("/proc")) -> tuple[CgroupMount, ...]:
    """The cgroup mounts that this process sees; empty where mountinfo cannot be read.

    A container has a cgroup namespace of its own, where version 2 is in use: paths are told from the container's
    cgroup on, ``/../other``, and the host's hierarchy, mounted into it, has a root ``/../..``. Then roots are ``/``
    here, and `CgroupMount.absolute` makes the paths fit (cgroup_namespaces(7)).
    """
    try:
        text = (proc_root / "self" / "mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return ()
    return _outside_namespaces(text, os.getpid())


@lru_cache(maxsize=4)
def _outside_namespaces(mountinfo: str, pid: int) -> tuple[CgroupMount, ...]:
    mounts: list[CgroupMount] = []
    for mount in parse_mountinfo(mountinfo):
        parts = PurePosixPath(mount.root).parts[1:]
        if parts and set(parts) == {".."}:
            own = _cgroup_of(pid, mount.mount_point, len(parts))
            mounts.append(replace(mount, root="/", own=own) if own is not None else mount)
        else:
            mounts.append(mount)
    return tuple(mounts)


def _cgroup_of(pid: int, mount_point: Path, depth: int) -> str | None:
    """The cgroup so many levels below ``mount_point`` that has this process in or below it; None if none is found."""
    level = [mount_point]
    for _ in range(depth):
        below: list[Path] = []
        for directory in level:
            with suppress(OSError), os.scandir(directory) as entries:
                below += [Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False)]
        level = below
    for directory in level:
        if pid in (processes_below(directory) or ()):
            return f"/{directory.relative_to(mount_point)}"
    return None


def v2_mount(mounts: tuple[CgroupMount, ...]) -> CgroupMount | None:
    """The v2 hierarchy, wherever it is mounted; None if it is not."""
    return next((mount for mount in mounts if mount.is_v2), None)


def parse_cgroups(text: str) -> tuple[CgroupPath, ...]:
    """The text of /proc/PID/cgroup. A path removed under a process still names it, without the kernel's
    mark.
    """
    paths: list[CgroupPath] = []
    for line in text.splitlines():
        number, _, rest = line.partition(":")
        hierarchy, separator, path = rest.partition(":")
        if separator and number.isdecimal():
            paths.append(CgroupPath(hierarchy, path.removesuffix(" (deleted)")))
    return tuple(paths)


def host_cgroups(text: str, mounts: tuple[CgroupMount, ...]) -> tuple[CgroupPath, ...]:
    """As parse_cgroups, with paths as ``mounts`` show them, also from within a cgroup namespace."""
    paths = parse_cgroups(text)
    apart = [mount for mount in mounts if mount.own]
    if not apart:
        return paths
    return tuple(
        next((CgroupPath(place.hierarchy, m.absolute(place.path)) for m in apart if m.holds(place.hierarchy)), place)
        for place in paths
    )


def processes_below(directory: Path) -> frozenset[int] | None:
    """The pids in a cgroup and all cgroups below it, read now.

    None if that cannot be known: the directory has gone, may not be read, or holds threads of several groups.
    A pid of 0 stands for a process of another pid namespace.
    """
    pids: set[int] = set()
    pending = [str(directory)]
    while pending:
        current = pending.pop()
        try:
            pids.update(map(int, Path(current, "cgroup.procs").read_bytes().split()))
            with os.scandir(current) as entries:
                pending.extend(entry.path for entry in entries if entry.is_dir(follow_symlinks=False))
        except (OSError, ValueError):
            # A subdirectory removed meanwhile held nothing; the directory itself gone means no answer.
            if current == str(directory) or Path(current).exists():
                return None
    return frozenset(pids)
