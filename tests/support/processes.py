"""Real spinning processes and cgroups for tests, gone afterwards whatever happened."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from utilctl_agent.host.cgroup import cgroup2_mount
from utilctl_agent.host.procstat import ProcessId, identify, read_stat

WAIT_S = 30.0
"""How long a test waits for what must come. Only a failing test waits that long."""

SPIN = "ulimit -t 60; while :; do :; done"
"""A spinner with 60 s of CPU time to live, should even the test runner be killed."""


@contextlib.contextmanager
def spinning(
    count: int, *, cgroup: Path | None = None, cpu: int | None = None, user: str | None = None
) -> Iterator[list[ProcessId]]:
    """``count`` processes that want CPU all the time; killed and reaped at the end, stopped and frozen ones too.

    cgroup: a cgroup directory of either version to put them in. cpu: the only CPU that they may use. user: whose they
    are; another user than one's own needs root.
    """
    children: list[subprocess.Popen[bytes]] = []
    try:
        for _ in range(count):
            # With another user, the groups must go as well; without one, nothing may be changed.
            groups: list[int] | None = None if user is None else []
            group = None if user is None else pwd.getpwnam(user).pw_gid
            children.append(
                subprocess.Popen(
                    [shutil.which("sh") or "/bin/sh", "-c", SPIN], user=user, group=group, extra_groups=groups, cwd="/"
                )
            )
            if cgroup is not None:
                (cgroup / "cgroup.procs").write_text(str(children[-1].pid))
            if cpu is not None:
                os.sched_setaffinity(children[-1].pid, {cpu})
        yield [_identified(child.pid) for child in children]
    finally:
        for child in children:
            child.kill()
        if cgroup is not None and cgroup.exists():
            # SIGKILL reaches a frozen process too, but a foreign freeze left in force would outlive the test.
            thaw(cgroup)
        for child in children:
            child.wait()


@contextlib.contextmanager
def temporary_cgroup(mount: Path | None = None) -> Iterator[Path]:
    """A cgroup of the test's own, removed at the end. Needs root and a mounted hierarchy: ``mount``, or version 2."""
    mount = mount if mount is not None else cgroup2_mount()
    assert mount is not None, "no cgroup v2 hierarchy is mounted"
    path = mount / f"utilctl-test-{uuid.uuid4().hex[:12]}"
    path.mkdir()
    try:
        yield path
    finally:
        if path.exists():
            thaw(path)
            remove_cgroup(path)


def thaw(path: Path) -> None:
    """Thaw a cgroup of either version, whoever froze it."""
    for knob, value in (("cgroup.freeze", "0"), ("freezer.state", "THAWED")):
        if (path / knob).exists():
            (path / knob).write_text(value)


def freeze(path: Path) -> None:
    """Freeze a cgroup of either version, as somebody with a shell would."""
    knob, value = ("freezer.state", "FROZEN") if (path / "freezer.state").exists() else ("cgroup.freeze", "1")
    (path / knob).write_text(value)


def remove_cgroup(path: Path) -> None:
    """Kill what is in a cgroup and remove it."""
    deadline = time.monotonic() + WAIT_S
    while path.exists():
        with contextlib.suppress(OSError):  # gone meanwhile
            if (path / "cgroup.kill").exists():  # version 2, Linux 5.14 and later
                (path / "cgroup.kill").write_text("1")
            else:
                thaw(path)  # version 1 lets nobody die who is frozen
                for pid in (path / "cgroup.procs").read_text().split():
                    os.kill(int(pid), signal.SIGKILL)
        with contextlib.suppress(OSError):  # its processes are still dying
            path.rmdir()
        assert time.monotonic() < deadline, f"{path} cannot be removed"
        time.sleep(0.001)


def is_stopped(pid: int) -> bool:
    """Whether the process is stopped by a signal."""
    stat = read_stat(pid)
    return stat is not None and stat[0] in (b"T", b"t")


def is_frozen(path: Path) -> bool:
    """Whether somebody asked for the cgroup to be frozen; one that is gone is not."""
    for knob, thawed in (("cgroup.freeze", "0"), ("freezer.self_freezing", "0")):
        with contextlib.suppress(OSError):
            return (path / knob).read_text().strip() != thawed
    return False


def end_process(pid: int) -> None:
    """Kill a child of ours and reap it."""
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Return once ``condition`` holds; fails, naming ``what``, if it never does."""
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, f"never happened: {what}"
        time.sleep(0.001)


def _identified(pid: int) -> ProcessId:
    process = identify(pid)
    assert process is not None, f"process {pid} ended at once"
    return process
