"""Pausing real processes in each way that the kernel offers: the ways to try, and what a pause then shows."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Final

import pytest

from support.processes import wait_until
from utilctl_agent.host.opening import open_cgroup
from utilctl_agent.host.port import Group, UnfinishedPauseError
from utilctl_agent.host.processes import ProcessGroup
from utilctl_agent.host.procstat import ProcessId
from utilctl_agent.safety.journal import Journal

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: cgroups, users and file systems are changed")

_ROOT: Final = [pytest.mark.root, needs_root]
_FREEZER: Final = pytest.param("freezer", marks=_ROOT)
_FREEZER_V1: Final = pytest.param("freezer-v1", marks=_ROOT)

# Each of them sets the kind of the fixture ``cgroup`` (tests/agent/conftest.py).
each_kind = pytest.mark.parametrize("cgroup", ["signal", _FREEZER, _FREEZER_V1], indirect=True)
each_freezer = pytest.mark.parametrize("cgroup", [_FREEZER, _FREEZER_V1], indirect=True)
freezer_v2 = pytest.mark.parametrize("cgroup", [_FREEZER], indirect=True)


def open_group(cgroup: Path | None, processes: list[ProcessId], journal: Journal) -> Group:
    """A group of ``processes``, or of all that ``cgroup`` contains."""
    return ProcessGroup(processes, journal) if cgroup is None else open_cgroup(cgroup, journal, weight=False)


def unfinished_for(group: Group, duration_s: float) -> bool:
    """Whether the pause is unfinished at every look for this long."""
    end = time.monotonic() + duration_s
    while time.monotonic() < end:
        try:
            group.check()
        except UnfinishedPauseError:
            time.sleep(0.01)
        else:
            return False
    return True


def finished(group: Group) -> bool:
    """Whether the pause is in force, or nothing is paused."""
    try:
        group.check()
    except UnfinishedPauseError:
        return False
    return True


def stands_still(group: Group) -> bool:
    """Whether the group consumes no CPU for 30 ms."""
    before_ns = group.cpu_ns()
    time.sleep(0.03)
    return group.cpu_ns() == before_ns


def assert_paused_and_resumed(group: Group) -> None:
    """A pause holds, and ends."""
    group.pause()
    wait_until(lambda: finished(group) and stands_still(group), "it stands still")
    group.resume()
    wait_until(lambda: not stands_still(group), "it goes on")
