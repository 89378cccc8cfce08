"""Real processes and cgroups for the tests of discovery, gone afterwards whatever happened."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest

from utilctl_agent.discovery.cgroupfs import CgroupMount, cgroup_mounts, v2_mount

MARK = "UTILCTL_TEST_ID"


class Spawn(Protocol):
    """Starts a Python program and waits for its first line of output."""

    def __call__(self, code: str, *arguments: str, env: dict[str, str] | None = None, **options: Any) -> Running: ...


class Running:
    """A started program; ``line`` is the first line that it wrote."""

    def __init__(self, process: subprocess.Popen[str], line: str) -> None:
        self.process = process
        self.pid = process.pid
        self.line = line

    def tell(self) -> str:
        """Let the program go on and return the next line that it writes."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def end(self) -> None:
        """Kill it and wait."""
        self.process.kill()
        self.process.wait()


def marked_pids(token: str) -> list[int]:
    """Processes with the token in their environment, wherever they were reparented to."""
    needle = f"{MARK}={token}".encode()
    found: list[int] = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                if needle in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
    return found


@pytest.fixture
def spawn() -> Iterator[Spawn]:
    token = uuid.uuid4().hex
    started: list[subprocess.Popen[str]] = []

    def start(code: str, *arguments: str, env: dict[str, str] | None = None, **options: Any) -> Running:
        process = subprocess.Popen(
            ["/usr/bin/env", "python3", "-c", code, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd="/",
            env={"PATH": "/usr/local/bin:/usr/bin:/bin", MARK: token, **(env or {})},
            **options,
        )
        started.append(process)
        assert process.stdout is not None
        return Running(process, process.stdout.readline().strip())

    yield start
    for process in started:
        process.kill()
    # Daemons may fork while they are looked for; look until there are none.
    while pids := [pid for pid in marked_pids(token) if pid not in {p.pid for p in started}]:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)
    for process in started:
        with process:
            pass


@pytest.fixture
def unique() -> str:
    """A name that no other test and no other process on the host uses."""
    return f"t{uuid.uuid4().hex[:12]}"


@pytest.fixture
def v2() -> CgroupMount:
    mount = v2_mount(cgroup_mounts())
    if mount is None or os.geteuid() != 0 or not os.access(mount.mount_point, os.W_OK):
        pytest.skip("needs root and a cgroup v2 mount")
    return mount


@pytest.fixture
def cgroup(v2: CgroupMount) -> Iterator[Path]:
    """An empty v2 cgroup of the test's own; what is in it at the end is killed."""
    top = v2.mount_point / f"utilctl-test-{uuid.uuid4().hex[:12]}"
    top.mkdir()
    yield top
    deadline = time.monotonic() + 20
    while top.exists():
        directories = [Path(path) for path, _, _ in os.walk(top, topdown=False)]
        for directory in directories:
            for pid in (directory / "cgroup.procs").read_text().split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
        for directory in directories:
            with contextlib.suppress(OSError):
                directory.rmdir()
        assert time.monotonic() < deadline, f"{top} cannot be removed"
        time.sleep(0.01)
