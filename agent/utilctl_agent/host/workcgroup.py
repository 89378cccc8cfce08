"""Cgroups that we make for processes that we start ourselves, and remove again without leaving anything behind."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

from utilctl_agent.host.cgroup import cgroup2_mount
from utilctl_common.errors import FailedError


class WorkCgroup:
    """A cgroup below the version 2 mount with named children, one a workload. Needs the right to make cgroups."""

    def __init__(self, name: str) -> None:
        """Raises FailedError if the cgroup cannot be made."""
        mount = cgroup2_mount()
        if mount is None:
            raise FailedError("no cgroup v2 hierarchy is mounted", hint="run without root to use signals")
        self.path = mount / name
        try:
            self.path.mkdir()
        except OSError as error:
            raise FailedError(f"cgroup {self.path} cannot be made: {error.strerror}") from None

    def child(self, name: str) -> Path:
        """Make a child cgroup; returns its directory. Raises FailedError."""
        path = self.path / name
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FailedError(f"cgroup {path} cannot be made: {error.strerror}") from None
        return path

    def remove(self) -> None:
        """Thaw, kill what is inside, and remove all of it. Idempotent; gives up silently after two seconds."""
        if not self.path.exists():
            return
        for folder in [self.path, *self.path.rglob("*/")]:
            with contextlib.suppress(OSError):
                (folder / "cgroup.freeze").write_text("0")
        self._kill()
        deadline = time.monotonic() + 2.0
        for folder in sorted([self.path, *self.path.rglob("*/")], reverse=True):
            while folder.exists() and time.monotonic() < deadline:
                try:
                    folder.rmdir()
                except OSError:
                    time.sleep(0.005)

    def _kill(self) -> None:
        try:
            (self.path / "cgroup.kill").write_text("1")  # Linux 5.14 and later
        except OSError:
            for procs in self.path.rglob("cgroup.procs"):
                for pid in procs.read_text().split():
                    with contextlib.suppress(OSError):
                        os.kill(int(pid), signal.SIGKILL)
