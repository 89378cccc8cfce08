"""Where the cgroup hierarchies of this host are mounted, and the same cgroup in another one of them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from utilctl_agent.discovery.cgroupfs import CgroupMount, cgroup_mounts

CPU_V1: Final = "cpu"
FREEZER_V1: Final = "freezer"
CPUACCT_V1: Final = "cpuacct"


def v1_mount(controller: str) -> Path | None:
    """Where the version 1 hierarchy with ``controller`` is mounted; None if it is not."""
    return next((mount.mount_point for mount in cgroup_mounts() if controller in mount.controllers), None)


def counterpart(path: Path, controller: str) -> Path | None:
    """The cgroup of the same path in the version 1 hierarchy of ``controller``; None if there is none."""
    mounts = cgroup_mounts()
    own = _innermost(path, mounts)
    other = next((mount for mount in mounts if controller in mount.controllers), None)
    if own is None or other is None:
        return None
    inner = own.path_of(path)
    found = other.directory(inner) if inner is not None else None
    return found if found is not None and found.is_dir() else None


def _innermost(path: Path, mounts: tuple[CgroupMount, ...]) -> CgroupMount | None:
    around = [mount for mount in mounts if path.is_relative_to(mount.mount_point)]
    return max(around, key=lambda mount: len(mount.mount_point.parts), default=None)


def probe(mount: Path, knob: str, value: str | None) -> str | None:
    """Why a cgroup below ``mount`` cannot be made and its ``knob`` written, in a few words; None if it can.

    Without a ``value`` the knob is read instead.
    """
    folder = mount / f"utilctl-probe-{os.getpid()}-{os.urandom(4).hex()}"
    try:
        folder.mkdir()
    except OSError as error:
        return f"cgroups cannot be made in {mount}: {error.strerror}"
    try:
        # Without O_CREAT: in a hierarchy without the controller there is no such file, and there shall be none.
        fd = os.open(folder / knob, (os.O_RDONLY if value is None else os.O_WRONLY) | os.O_CLOEXEC)
        try:
            if value is None:
                os.read(fd, 4096)
            else:
                os.write(fd, value.encode())
        finally:
            os.close(fd)
    except OSError as error:
        return f"{knob} cannot be {'read' if value is None else 'written'}: {error.strerror}"
    finally:
        folder.rmdir()
    return None
