"""``utilctl-agent`` as a program, with one capped service under a real controller."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import pytest

from support.commands import UTILCTL, Command, Outcome
from support.controller_server import RunningController
from support.guarded import Mechanism, Subject
from support.processes import spinning
from support.unprivileged import as_nobody
from utilctl_controller.store.sqlite import SqliteStore
from utilctl_proto.v1 import control_pb2

PYTHON: Final = UTILCTL[0]
SEE: Final = "svc=capped"
CAP_CORES: Final = 0.08
"""A capped service is paused for most of the time, whoever else is there, and costs the machine next to nothing."""


@contextlib.contextmanager
def capping_controller(store: Path) -> Iterator[RunningController]:
    """A controller that caps the one service."""
    with RunningController(SqliteStore(store)) as running:
        running.control.SetShare(control_pb2.SetShareRequest(see=SEE, share=1, cap_cores=CAP_CORES, changed_by="ada"))
        yield running


@contextlib.contextmanager
def agent(
    controller: RunningController, scope: str, *options: str, run_dir: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Command]:  # fmt: skip
    """An agent. run_dir: it runs as nobody and keeps its journal below that. environment: added to its own."""
    argv = [PYTHON, "-m", "utilctl_agent.main", "--host", "host-a", "--controller", controller.address]
    argv += ["--scope", scope, "--cpus", "0", *options]
    if run_dir is None:
        with Command(argv, environment=environment) as command:
            yield command
    else:
        with Command(argv, prefix=as_nobody([]), environment={"XDG_RUNTIME_DIR": str(run_dir)}) as command:
            yield command


@contextlib.contextmanager
def service(cgroup: Path, mechanism: Mechanism = "freezer", *, user: str | None = None) -> Iterator[Subject]:
    """One spinning process labelled as the service, in a cgroup of its own."""
    with pytest.MonkeyPatch.context() as labelled:
        labelled.setenv("UTILCTL_SEE", SEE)
        with spinning(1, cgroup=cgroup, cpu=0, user=user) as processes:
            yield Subject(SEE, tuple(processes), cgroup if mechanism == "freezer" else None)


def problem_of(controller: RunningController, see: str) -> str:
    """What the agents say is wrong with a service; empty if nothing is."""
    answer = controller.control.Explain(control_pb2.ExplainRequest(see=see))
    return " ".join(host.problem for host in answer.service.per_host)


def part(command: Command, module: str) -> int:
    """The pid of that part of a running agent; 0 if it does not run."""
    for pid in command.processes():
        with contextlib.suppress(OSError):
            if f"\0{module}\0".encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                return pid
    return 0


def stop(command: Command) -> Outcome:
    """SIGTERM; nothing may be left."""
    command.process.send_signal(signal.SIGTERM)
    outcome = command.wait()
    command.assert_nothing_left()
    return outcome
