"""A cgroup for one program that we start: made, entered, and given up again without harm to who is still in it.

Unlike those of workloads (module ``workcgroup``), what is in it may go on when we are done: it is moved to where we
are ourselves. After ``kill -9`` of everybody the cgroup stays until its processes have ended, and the next start
removes it.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from utilctl_agent.discovery.cgroupfs import cgroup_mounts, host_cgroups
from utilctl_common.errors import FailedError

PREFIX: Final = "utilctl-sandbox-"
REMOVE_S: Final = 2.0
"""How long it is tried to move everybody out, while they may fork."""


class ProgramCgroup:
    """One cgroup, of the same path in every hierarchy given."""

    def __init__(self, mounts: Sequence[Path]) -> None:
        """Raises FailedError if it cannot be made."""
        _remove_leftovers(mounts)
        name = f"{PREFIX}{os.getpid()}-{os.urandom(4).hex()}"
        homes = _own_folders()
        self._homes = {mount / name: homes.get(mount, mount) for mount in mounts}
        self.folders: tuple[Path, ...] = ()
        try:
            for folder in self._homes:
                folder.mkdir()
                self.folders += (folder,)
        except OSError as error:
            self.remove()
            raise FailedError(f"cgroup {error.filename} cannot be made: {error.strerror}") from None

    def enter(self) -> None:
        """Put the calling process in. Raises OSError."""
        for folder in self.folders:
            (folder / "cgroup.procs").write_text("0")

    def count(self) -> int:
        """How many processes are in it."""
        try:
            return len((self.folders[0] / "cgroup.procs").read_text().split())
        except OSError:
            return 0

    def remove(self) -> None:
        """Move out who is still inside, and remove it. Idempotent; gives up silently after REMOVE_S."""
        deadline = time.monotonic() + REMOVE_S
        for folder in self.folders:
            while True:
                try:
                    folder.rmdir()
                except FileNotFoundError:
                    break
                except OSError:
                    if time.monotonic() > deadline:
                        break
                    if not _move(folder, self._homes[folder]):
                        time.sleep(0.002)  # only those are left that end just now
                else:
                    break


def _move(folder: Path, home: Path) -> bool:
    """Move everybody from one cgroup to another; True if anybody was."""
    moved = False
    with contextlib.suppress(OSError):
        for pid in (folder / "cgroup.procs").read_text().split():
            with contextlib.suppress(OSError):
                (home / "cgroup.procs").write_text(pid)
                moved = True
    return moved


def _own_folders() -> dict[Path, Path]:
    """The directory of our own cgroup in every hierarchy, by its mount point."""
    mounts = cgroup_mounts()
    places = host_cgroups(Path("/proc/self/cgroup").read_text(), mounts)
    found: dict[Path, Path] = {}
    for mount in mounts:
        for place in places:
            folder = mount.directory(place.path) if mount.holds(place.hierarchy) else None
            if folder is not None and folder.is_dir():
                found[mount.mount_point] = folder
    return found


def _remove_leftovers(mounts: Sequence[Path]) -> None:
    """Remove what sandboxes that were killed have left; the kernel refuses it for those with a process in them."""
    for mount in mounts:
        for folder in mount.glob(f"{PREFIX}*-*"):
            pid = folder.name.removeprefix(PREFIX).partition("-")[0]
            if pid.isdecimal() and not Path("/proc", pid).exists():
                with contextlib.suppress(OSError):
                    folder.rmdir()
