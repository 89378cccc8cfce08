"""Somebody else has a hand in what an agent holds back: told by ``utilctl explain``, and not fought over."""

from __future__ import annotations

import os
import signal
import time

import pytest

from support.agents import SEE, agent, problem_of, service, stop
from support.commands import run
from support.controller_server import RunningController
from support.guarded import Mechanism, Subject
from support.processes import temporary_cgroup, wait_until

pytestmark = [pytest.mark.kernel, pytest.mark.root]

root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: cgroups are made")


def resume_from_outside(held: Subject) -> None:
    if held.cgroup is not None:
        (held.cgroup / "cgroup.freeze").write_text("0")
    else:
        for process in held.processes:
            os.kill(process.pid, signal.SIGCONT)


@root
@pytest.mark.parametrize("mechanism", ["freezer", "signal"])
def test_who_resumes_what_is_held_back_is_told_and_not_fought_over(
    controller: RunningController, mechanism: Mechanism
) -> None:
    with (
        temporary_cgroup() as cgroup,
        service(cgroup, mechanism) as held,
        agent(controller, f"cgroup:/{cgroup.name}", "--mode", mechanism) as command,
    ):
        wait_until(held.all_paused, "it is held back")
        deadline = time.monotonic() + 30
        while "somebody else" not in problem_of(controller, SEE):
            assert time.monotonic() < deadline, "nobody noticed"
            until = time.monotonic() + 0.3
            while time.monotonic() < until:
                resume_from_outside(held)
                time.sleep(0.002)
        explained = run("explain", SEE, environment={"UTILCTL_CONTROLLER": controller.address})
        assert explained.code == 0, explained.stderr
        assert "by somebody else" in " ".join(explained.stdout.split())
        # It is let run for a second at least, and held back again once they leave it alone.
        wait_until(held.all_paused, "it is held back again")
        wait_until(lambda: problem_of(controller, SEE) == "", "the reason goes once pauses hold")
        assert stop(command).code == 0
        assert not held.any_paused()
