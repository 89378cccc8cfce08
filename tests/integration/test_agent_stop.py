"""SIGTERM to an agent that holds hundreds of services back: all run again within 100 ms, and it exits with 0."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.agents import agent
from support.controller_server import RunningController
from support.guarded import Subject
from support.processes import remove_cgroup, spinning, temporary_cgroup, wait_until
from utilctl_common.quantities import NS_PER_MS, NS_PER_S
from utilctl_controller.store.sqlite import SqliteStore
from utilctl_proto.v1 import common_pb2, control_pb2

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.root,
    pytest.mark.quiet,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: cgroups are made"),
]

SERVICES = 200
CAP_CORES = 0.0005
"""So little that each of them is paused for nearly all the time, and all of them at nearly any instant."""
GENEROUS_NS = NS_PER_S
"""Bound of the assertion; ten times the promise, for a busy test machine."""


def set_share(controller: RunningController, cgroup: Path) -> None:
    """A service that is this cgroup."""
    # The path within the hierarchy: all there is below the mount.
    pattern = f"/{cgroup.parent.name}/{cgroup.name}"
    controller.control.SetShare(
        control_pb2.SetShareRequest(
            see=f"svc={cgroup.name}", share=1, cap_cores=CAP_CORES, changed_by="ada", set_matchers=True,
            matchers=[common_pb2.Matcher(conditions=[common_pb2.Condition(key="cgroup", value=pattern)])],
        )
    )  # fmt: skip


@contextlib.contextmanager
def before_all_others() -> Iterator[None]:
    """Whoever measures gets a CPU at once, or it would measure how long what is resumed keeps it off one."""
    os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(20))
    try:
        yield
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def test_two_hundred_services_run_again_at_once_when_their_agent_is_told_to_stop(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        controller = stack.enter_context(RunningController(SqliteStore(tmp_path / "policy.db")))
        base = stack.enter_context(temporary_cgroup())
        held: list[Subject] = []
        for number in range(SERVICES):
            cgroup = base / f"s{number}"
            cgroup.mkdir()
            stack.callback(remove_cgroup, cgroup)
            set_share(controller, cgroup)
            processes = stack.enter_context(spinning(1, cgroup=cgroup, cpu=0))
            # They want the CPU as badly as others, but do not keep this test and the agent from getting started.
            os.sched_setscheduler(processes[0].pid, os.SCHED_IDLE, os.sched_param(0))
            held.append(Subject(cgroup.name, tuple(processes), cgroup))
        # All at once: one after the other, each would wait for its turn on a CPU that the others fill.
        stack.callback((base / "cgroup.kill").write_text, "1")
        running = stack.enter_context(agent(controller, f"cgroup:/{base.name}"))
        wait_until(lambda: sum(one.all_paused() for one in held) > 0.9 * SERVICES, "nearly all are held back at once")
        stack.enter_context(before_all_others())
        paused = sum(one.all_paused() for one in held)
        running.process.send_signal(signal.SIGTERM)
        told_ns = time.monotonic_ns()
        wait_until(lambda: not any(one.any_paused() for one in held), "all are resumed")
        resumed_ns = time.monotonic_ns() - told_ns
        outcome = running.wait()
        ended_ns = time.monotonic_ns() - told_ns
        took = (
            f"{paused} paused; resumed after {resumed_ns / NS_PER_MS:.0f} ms, ended after {ended_ns / NS_PER_MS:.0f} ms"
        )
        print(took)
        assert outcome.code == 0, outcome
        assert not any(one.any_paused() for one in held)
        assert resumed_ns < GENEROUS_NS, took
        running.assert_nothing_left()
