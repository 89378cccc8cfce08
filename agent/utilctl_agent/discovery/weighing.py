"""The cgroup whose weight is an SEE's: it holds all of the SEE's processes and nobody else's.

Weights compare a cgroup with what stands beside it, so an SEE that is spread over several cgroups has no weight, unless
one cgroup above them is wholly its own.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from utilctl_agent.discovery.cgroupfs import CgroupMount, cgroup_mounts, host_cgroups, processes_below
from utilctl_agent.host.hierarchies import CPU_V1
from utilctl_agent.host.weights import has_weight, weight_mount


def find_weight_cgroup(pids: frozenset[int]) -> tuple[Path | None, str]:
    """The directory, or None and in a few words why there is none."""
    top = weight_mount()
    mount = next((mount for mount in cgroup_mounts() if mount.mount_point == top), None)
    if mount is None:
        return None, "no cgroup hierarchy has the cpu controller"
    paths = {path for pid in pids if (path := _path_of(pid, mount)) is not None}
    if not paths:
        return None, "its cgroups cannot be seen"
    directory = mount.directory(os.path.commonpath(paths))
    if directory is None or not has_weight(directory) or directory == mount.mount_point:
        return None, "its processes have no cgroup of their own in the hierarchy of the cpu controller"
    found = processes_below(directory)
    if found is None:
        return None, f"{directory} is gone"
    strangers = [pid for pid in found if not _belongs(pid, pids, found)]
    if strangers:
        return None, f"{directory} also holds other processes, for example {min(strangers)}"
    return directory, ""


def _belongs(pid: int, members: frozenset[int], group: frozenset[int]) -> bool:
    """Members, what they forked since they were listed, and what has ended meanwhile."""
    seen: set[int] = set()
    while pid not in members:
        if pid not in group or pid in seen or pid == 0:
            return False
        seen.add(pid)
        try:
            content = Path(f"/proc/{pid}/stat").read_bytes()
        except OSError:
            return True
        pid = int(content[content.rindex(b")") + 2 :].split()[1])
    return True


def _path_of(pid: int, mount: CgroupMount) -> str | None:
    with contextlib.suppress(OSError):
        for path in host_cgroups(Path(f"/proc/{pid}/cgroup").read_text(errors="surrogateescape"), (mount,)):
            if mount.is_v2 and not path.hierarchy:
                return path.path
            if not mount.is_v2 and CPU_V1 in path.hierarchy.split(","):
                return path.path
    return None
