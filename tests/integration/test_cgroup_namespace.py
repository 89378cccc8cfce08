"""An agent in a container has a cgroup namespace of its own, as all have where cgroup version 2 is in use."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

import pytest

from support.agents import PYTHON
from support.commands import Command
from support.controller_server import RunningController
from support.processes import remove_cgroup, spinning, temporary_cgroup, wait_until
from utilctl_agent.host.cgroup import cgroup2_mount
from utilctl_controller.store.sqlite import SqliteStore
from utilctl_proto.v1 import common_pb2, control_pb2

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: cgroups and a namespace are made"),
]


def below(base: Path, *parts: str, stack: contextlib.ExitStack) -> Path:
    path = base
    for part in parts:
        path = path / part
        if not path.exists():
            path.mkdir()
            stack.callback(remove_cgroup, path)
    return path


def cap(controller: RunningController, see: str, pattern: str) -> None:
    """So little that it is held back for nearly all the time."""
    condition = common_pb2.Condition(key="cgroup", value=pattern)
    controller.control.SetShare(
        control_pb2.SetShareRequest(
            see=see, share=1, cap_cores=0.05, changed_by="ada", set_matchers=True,
            matchers=[common_pb2.Matcher(conditions=[condition])],
        )
    )  # fmt: skip


def test_it_knows_and_holds_back_the_cgroups_of_others_by_their_names_on_the_host(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        controller = stack.enter_context(RunningController(SqliteStore(tmp_path / "policy.db")))
        base = stack.enter_context(temporary_cgroup())
        mount = cgroup2_mount()
        assert mount is not None
        own = below(base, "agents", "own", stack=stack)
        # A sibling, whose name within the namespace is /../sibling, and one further off, /../../services/far.
        places = {"svc=sibling": ("agents", "sibling"), "svc=far": ("services", "far")}
        cgroups = {see: below(base, *parts, stack=stack) for see, parts in places.items()}
        for see, path in cgroups.items():
            cap(controller, see, f"/{path.relative_to(mount)}")
            stack.enter_context(spinning(1, cgroup=path, cpu=0))
        command = f"{PYTHON} -m utilctl_agent.main --host host-a --controller {controller.address} --cpus 0"
        command += f" --scope cgroup:/{base.name}"
        script = f"echo $$ > {own}/cgroup.procs && exec unshare --cgroup {command}"
        running = stack.enter_context(Command(["sh", "-c", script]))
        for see, path in cgroups.items():
            wait_until(lambda path=path: "frozen 1" in (path / "cgroup.events").read_text(), f"{see} is held back")  # type: ignore[misc]
        running.process.send_signal(signal.SIGTERM)
        assert running.wait().code == 0
        assert all("frozen 0" in (path / "cgroup.events").read_text() for path in cgroups.values())
