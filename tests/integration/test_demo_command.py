"""``utilctl demo`` for real: its JSON, and that Ctrl-C at any moment leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest

from support.commands import UTILCTL, Command, one_line, run
from support.processes import wait_until
from support.unprivileged import as_nobody, can_become_nobody, give_to_nobody

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.quiet,
    pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two CPUs to be two hosts"),
]

SERVICES = {"svc=web", "svc=etl", "svc=batch"}
PROMISED = {"share", "entitlement_cores", "measured_cores", "relative_error"}
MORE = {"planned_cores", "per_host_shares_cores"}


def test_the_demo_measures_two_phases_and_cleans_up() -> None:
    with Command([*UTILCTL, "demo", "--duration", "12s", "-o", "json"]) as command:
        outcome = command.wait(110)
        command.assert_nothing_left()
    document = json.loads(outcome.stdout)
    assert set(document) == {"phases", "ok"}
    assert [phase["shares"] for phase in document["phases"]] == [
        {"svc=web": 3, "svc=etl": 1, "svc=batch": 2},
        {"svc=web": 3, "svc=etl": 4, "svc=batch": 2},
    ]
    for phase in document["phases"]:
        assert set(phase) == {"shares", "services"}
        assert set(phase["services"]) == SERVICES
        for see, service in phase["services"].items():
            assert set(service) == PROMISED | MORE
            assert service["share"] == phase["shares"][see]
            assert 0 < service["entitlement_cores"] <= 2
            assert 0 < service["measured_cores"] <= 2
    if document["ok"]:
        assert (outcome.code, outcome.stderr) == (0, "")
    else:
        assert outcome.code == 1
        assert "off by more than 5 %" in one_line(outcome)


@pytest.mark.parametrize(
    ("programs", "then_s"),
    [(1, 0.0), (2, 0.0), (5, 0.0), (9, 0.0), (12, 0.3), (12, 1.5)],
    ids=["controller", "first-service", "services", "first-agent", "agents", "settling"],
)
def test_ctrl_c_at_any_moment_leaves_nothing_behind(programs: int, then_s: float) -> None:
    with Command([*UTILCTL, "demo", "-o", "json"]) as command:
        interrupt(command, programs, then_s)


@pytest.mark.root
@pytest.mark.skipif(not can_become_nobody(), reason="needs root and setpriv")
@pytest.mark.parametrize(("programs", "then_s"), [(2, 0.0), (5, 0.0), (12, 0.5)])
def test_ctrl_c_without_privilege_leaves_nothing_behind_either(tmp_path: Path, programs: int, then_s: float) -> None:
    runtime = give_to_nobody(tmp_path / "runtime")
    with Command(
        [*UTILCTL, "demo", "-o", "json"], prefix=as_nobody([]), environment={"XDG_RUNTIME_DIR": str(runtime)}
    ) as command:
        interrupt(command, programs, then_s)
    assert not list(runtime.rglob("*.journal"))


def interrupt(command: Command, programs: int, then_s: float) -> None:
    """Ctrl-C a while after so many programs were started; it must end quietly with nothing left."""
    wait_until(lambda: len(command.processes()) >= programs, f"{programs} programs run")
    time.sleep(then_s)
    command.process.send_signal(signal.SIGINT)
    outcome = command.wait()
    assert (outcome.code, outcome.stdout, outcome.stderr) == (130, "", "")
    command.assert_nothing_left()


def test_being_told_to_end_cleans_up_as_well() -> None:
    with Command([*UTILCTL, "demo", "-o", "json"]) as command:
        wait_until(lambda: len(command.processes()) >= 12, "everything runs")
        command.process.send_signal(signal.SIGTERM)
        assert command.wait().code == 128 + signal.SIGTERM
        command.assert_nothing_left()


@pytest.mark.parametrize("duration", ["5s", "soon", "-1s"])
def test_a_duration_that_cannot_work_is_one_line_and_starts_nothing(duration: str) -> None:
    outcome = run("demo", "--duration", duration)
    assert outcome.code == 2
    one_line(outcome)
