"""Cgroups that we make for processes that we start ourselves, and remove again without leaving anything behind."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

from utilctl_agent.host.cgroup import cgroup2_mount
from utilctl_agent.host.hierarchies import CPUACCT_V1, FREEZER_V1, v1_mount
from utilctl_agent.host.weights import KNOBS, weight_mount
from utilctl_agent.mechanism import Mechanism
from utilctl_common.errors import FailedError


def work_mounts(mechanism: Mechanism) -> tuple[Path, ...]:
    """Where a workload under ``mechanism`` needs a cgroup: first where it is held back, then where it is measured.

    Empty if the mechanism needs none.
    """
    if mechanism == "freezer":
        found: list[Path | None] = [cgroup2_mount()]
    elif mechanism == "freezer-v1":
        found = [v1_mount(FREEZER_V1), v1_mount(CPUACCT_V1)]
    elif mechanism == "weight":
        held = weight_mount()
        found = [held] if held == cgroup2_mount() else [held, v1_mount(CPUACCT_V1)]
    else:
        found = []
    # Several controllers of version 1 may be mounted as one.
    return tuple(dict.fromkeys(mount for mount in found if mount is not None))


class WorkCgroup:
    """A cgroup with named children, one a workload, of the same path in every hierarchy given.

    Needs the right to make cgroups.
    """

    def __init__(self, name: str, mounts: Sequence[Path] | None = None) -> None:
        """mounts: the hierarchies; None: version 2. Raises FailedError if the cgroup cannot be made."""
        if mounts is None:
            mount = cgroup2_mount()
            mounts = [mount] if mount is not None else []
        if not mounts:
            raise FailedError("no cgroup v2 hierarchy is mounted", hint="run without root to use signals")
        self.path = mounts[0] / name
        self._roots: list[Path] = []  # only what is made here is ever removed here
        try:
            for mount in mounts:
                (mount / name).mkdir()
                self._roots.append(mount / name)
        except OSError as error:
            self.remove()
            raise FailedError(f"cgroup {error.filename} cannot be made: {error.strerror}") from None

    def weigh(self, workloads: int) -> None:
        """Let the whole have the weight of so many groups, for those who compete with it from outside.

        In version 2 the children also need the cpu controller. Raises FailedError.
        """
        try:
            if (self.path / "cgroup.subtree_control").exists():
                (self.path / "cgroup.subtree_control").write_text("+cpu")
            for name, knob in KNOBS.items():
                if (self.path / name).exists():
                    (self.path / name).write_text(str(min(knob.most, knob.usual * max(1, workloads))))
        except OSError as error:
            raise FailedError(f"cgroup {self.path} cannot be weighed: {error.strerror}") from None

    def child(self, name: str) -> Path:
        """Make a child cgroup; returns its directory in the first hierarchy. Raises FailedError."""
        try:
            for root in self._roots:
                path = root / name
                path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FailedError(f"cgroup {error.filename} cannot be made: {error.strerror}") from None
        return self.path / name

    def enter(self, name: str) -> None:
        """Put the calling process into a child, in every hierarchy. Raises OSError."""
        for root in self._roots:
            (root / name / "cgroup.procs").write_text("0")

    def remove(self) -> None:
        """Thaw, kill what is inside, and remove all of it. Idempotent; gives up silently after two seconds."""
        folders = [folder for root in self._roots if root.exists() for folder in (root, *root.rglob("*/"))]
        for folder in folders:
            for knob, thawed in (("cgroup.freeze", "0"), ("freezer.state", "THAWED")):
                with contextlib.suppress(OSError):
                    if (folder / knob).exists():
                        (folder / knob).write_text(thawed)
        for root in self._roots:
            _kill(root)
        deadline = time.monotonic() + 2.0
        for folder in sorted(folders, reverse=True):
            while folder.exists() and time.monotonic() < deadline:
                try:
                    folder.rmdir()
                except OSError:
                    _kill(folder)  # without cgroup.kill, what was forked meanwhile escaped
                    time.sleep(0.005)


def _kill(root: Path) -> None:
    if not root.exists():
        return
    try:
        fd = os.open(root / "cgroup.kill", os.O_WRONLY | os.O_CLOEXEC)  # version 2, Linux 5.14 and later
        try:
            os.write(fd, b"1")
        finally:
            os.close(fd)
    except OSError:
        for procs in root.rglob("cgroup.procs"):
            with contextlib.suppress(OSError):
                for pid in procs.read_text().split():
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(int(pid), signal.SIGKILL)
