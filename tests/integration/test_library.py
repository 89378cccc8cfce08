"""``Sandbox`` and ``Alps`` as docs/sandbox.md shows them."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from support.processes import SPIN, is_stopped, spinning, wait_until
from utilctl_agent import Alps, Sandbox
from utilctl_common.errors import FailedError, UsageError

pytestmark = [pytest.mark.kernel, pytest.mark.quiet]


def test_a_command_in_a_block_is_capped_changed_and_ended() -> None:
    with Sandbox(0.25, command=["sh", "-c", SPIN], cpus=[0]) as box:
        os.sched_setaffinity(box.pid, {0})
        assert box.wait(3) is None
        first = box.report()
        assert first.fraction == pytest.approx(0.25, abs=0.05)
        box.set_cap(0.75)

        def is_faster() -> bool:
            before = box.report()
            time.sleep(3)
            after = box.report()
            return abs((after.cpu_s - before.cpu_s) / (after.wall_s - before.wall_s) - 0.75) < 0.06

        wait_until(is_faster, "it gets three quarters")
        pid = box.pid
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    with pytest.raises(FailedError):
        box.set_cap(0.5)


def test_the_exit_status_of_a_command_is_told() -> None:
    for script, status in (("exit 3", 3), ("kill -9 $$", -9)):
        with Sandbox(0.5, command=["sh", "-c", script]) as box:
            assert box.wait(10) == status


def test_a_child_that_was_taken_runs_free_after_the_block() -> None:
    with spinning(1, cpu=0) as (child,):
        with Sandbox(0.1, pid=child.pid, cpus=[0]) as box:
            time.sleep(2)
            assert box.report().fraction == pytest.approx(0.1, abs=0.03)
        for _ in range(20):
            assert not is_stopped(child.pid)
            time.sleep(0.01)


def test_children_share_as_they_are_told() -> None:
    with spinning(2, cpu=0) as (small, large):
        alps = Alps(quantum_s=0.01, cpus=[0])
        alps.processes(1, [small.pid])
        alps.processes(3, [large.pid])
        result = alps.run(duration_s=4)
    assert [principal.fraction for principal in result.principals] == pytest.approx([0.25, 0.75], abs=0.02)


@pytest.mark.parametrize(
    "arguments", [{}, {"command": ["ls"], "pid": 1}, {"command": []}, {"command": ["/nonexistent"]}, {"pid": 4194000}]
)
def test_what_cannot_be_is_refused(arguments: dict[str, object]) -> None:
    with pytest.raises(UsageError), Sandbox(0.5, **arguments):  # type: ignore[arg-type]  # wrong on purpose
        pass
    with pytest.raises(UsageError):
        Sandbox(0.0, command=["ls"])


def test_importing_the_package_costs_nothing() -> None:
    code = "import sys, utilctl_agent; print(sorted(m for m in sys.modules if m.startswith('utilctl_')))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "['utilctl_agent']"
