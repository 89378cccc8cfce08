"""Cgroup file systems: where they are mounted, and which processes a directory holds."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from utilctl_agent.discovery.facts import CgroupPath

_OCTAL_ESCAPE: Final = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class CgroupMount:
    """One mounted hierarchy.

    ``controllers`` is empty for v2; for v1 it holds the mount's options, controllers among them. ``root`` is
    the cgroup that stands at ``mount_point``, as /proc/PID/cgroup would name it: not ``/`` inside some
    containers.
    """

    mount_point: Path
    root: str
    controllers: frozenset[str]

    @property
    def is_v2(self) -> bool:
        return not self.controllers

    def holds(self, hierarchy: str) -> bool:
        """Whether this mount shows the hierarchy that /proc/PID/cgroup calls ``hierarchy``."""
        return not self.controllers if not hierarchy else set(hierarchy.split(",")) <= self.controllers

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
    """The cgroup mounts that this process sees; empty where mountinfo cannot be read."""
    try:
        return parse_mountinfo((proc_root / "self" / "mountinfo").read_text(encoding="utf-8", errors="surrogateescape"))
    except OSError:
        return ()


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
