"""``utilctl-agent`` as a program under a real controller: it enforces, survives its own parts, and ends cleanly."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.agents import PYTHON, agent, part, problem_of, service, stop
from support.commands import Command
from support.controller_server import RunningController
from support.guarded import Mechanism, time_until_resumed
from support.processes import remove_cgroup, spinning, temporary_cgroup, wait_until
from support.unprivileged import NOBODY, can_become_nobody, give_to_nobody
from utilctl_agent.host.weights import weight_mount, weight_refusal
from utilctl_controller.store.sqlite import SqliteStore
from utilctl_proto.v1 import control_pb2

pytestmark = pytest.mark.kernel

root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: cgroups are made")


@pytest.mark.root
@root
@pytest.mark.parametrize("killed", ["utilctl_agent.loop", "utilctl_agent.link"])
def test_loop_and_link_are_started_afresh_when_one_dies_and_enforcement_goes_on(
    controller: RunningController, killed: str
) -> None:
    with (
        temporary_cgroup() as cgroup,
        service(cgroup) as held,
        agent(controller, f"cgroup:/{cgroup.name}") as command,
    ):
        wait_until(held.all_paused, "it is held back")
        before = part(command, killed)
        os.kill(before, signal.SIGKILL)
        took_ns = time_until_resumed([held], time.monotonic_ns())
        assert took_ns < 1e9, f"resumed after {took_ns / 1e6:.1f} ms (promised: 250 ms)"
        wait_until(lambda: part(command, killed) not in (0, before), "it is started again")
        wait_until(held.all_paused, "it is held back again")
        outcome = stop(command)
        assert outcome.code == 0
        assert "everything is resumed; restarting" in outcome.stderr
        assert "Traceback" not in outcome.stderr
        assert not held.any_paused()


@pytest.mark.root
@root
def test_a_guard_that_is_killed_takes_the_whole_agent_with_it_and_the_next_start_takes_over(
    controller: RunningController,
) -> None:
    with temporary_cgroup() as cgroup, service(cgroup) as held:
        with agent(controller, f"cgroup:/{cgroup.name}") as command:
            wait_until(held.all_paused, "it is held back")
            command.process.kill()
            took_ns = time_until_resumed([held], time.monotonic_ns())
            assert took_ns < 1e9, f"resumed after {took_ns / 1e6:.1f} ms (promised: 250 ms)"
            wait_until(lambda: not command.processes(), "loop and link end by themselves")
        with agent(controller, f"cgroup:/{cgroup.name}") as command:
            wait_until(held.all_paused, "it is held back again")
            assert stop(command).code == 0
        assert not held.any_paused()


@pytest.mark.root
@root
def test_a_service_that_restarts_in_the_same_cgroup_is_held_back_again(controller: RunningController) -> None:
    with temporary_cgroup() as base, agent(controller, f"cgroup:/{base.name}") as command:
        cgroup = base / "service"
        cgroup.mkdir()
        try:
            for _ in range(4):  # as a service manager does it: the cgroup is removed and made again at once
                with service(cgroup) as held:
                    wait_until(held.all_paused, "it is held back")
                    remove_cgroup(cgroup)
                    cgroup.mkdir()
            with service(cgroup) as held:
                wait_until(held.all_paused, "it is held back after the last restart, too")
        finally:
            remove_cgroup(cgroup)
        assert stop(command).code == 0


@pytest.mark.root
@pytest.mark.skipif(not can_become_nobody(), reason="needs root and setpriv")
def test_without_privilege_an_agent_holds_its_own_users_processes_back_by_signals(
    controller: RunningController, tmp_path: Path
) -> None:
    run_dir = give_to_nobody(tmp_path / "runtime")
    with (
        temporary_cgroup() as cgroup,
        service(cgroup, "signal", user=NOBODY) as held,
        agent(controller, f"cgroup:/{cgroup.name}", run_dir=run_dir) as command,
    ):
        wait_until(held.all_paused, "it is held back")
        wait_until(lambda: controller.host("host-a").mechanism == "signal", "the mechanism is told")
        assert "ermission denied" in controller.host("host-a").mechanism_reason
        assert stop(command).code == 0
        assert not held.any_paused()
    assert not list((run_dir / "utilctl").iterdir())


@contextlib.contextmanager
def labelled(see: str, *, cgroup: Path | None) -> Iterator[None]:
    """One spinning process of a service, in a cgroup whose weight is the service's, or in none of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UTILCTL_SEE", see)
        with spinning(1, cgroup=cgroup, cpu=0):
            yield


def knob(cgroup: Path) -> Path:
    return next(cgroup / name for name in ("cpu.weight", "cpu.shares") if (cgroup / name).exists())


@pytest.mark.root
@root
@pytest.mark.parametrize(("agent_mode", "policy_mode"), [("weight", "auto"), ("auto", "weight")])
def test_services_are_weighed_where_agent_or_policy_say_so_and_their_weights_put_back(
    tmp_path: Path, agent_mode: str, policy_mode: str
) -> None:
    refusal = weight_refusal()
    if refusal is not None:
        pytest.skip(refusal)
    with contextlib.ExitStack() as stack:
        running = stack.enter_context(RunningController(SqliteStore(tmp_path / "policy.db")))
        cgroups: list[Path] = []
        for see, share in (("svc=one", 1), ("svc=three", 3), ("svc=loose", 1)):
            running.control.SetShare(
                control_pb2.SetShareRequest(see=see, share=share, mode=policy_mode, changed_by="ada")
            )
            cgroup = None if see == "svc=loose" else stack.enter_context(temporary_cgroup(weight_mount()))
            cgroups += [cgroup] if cgroup is not None else []
            stack.enter_context(labelled(see, cgroup=cgroup))
        one, three = map(knob, cgroups)
        found = one.read_text()
        command = stack.enter_context(agent(running, f"tree:{os.getpid()}", "--mode", agent_mode))
        wait_until(lambda: int(three.read_text()) > int(found) > int(one.read_text()), "weights follow the shares")
        wait_until(lambda: "weight" in running.host("host-a").mechanism, "the mechanism is told")
        wait_until(
            lambda: "mode weight is not possible" in problem_of(running, "svc=loose"), "what cannot be weighed is told"
        )
        assert problem_of(running, "svc=three") == ""
        assert stop(command).code == 0
        assert one.read_text() == three.read_text() == found


@pytest.mark.root
@root
@pytest.mark.parametrize("mechanism", ["freezer", "signal"])
def test_a_disabled_fleet_pauses_nobody_within_a_second_and_an_enabled_one_holds_back_again(
    controller: RunningController, mechanism: Mechanism
) -> None:
    with (
        temporary_cgroup() as cgroup,
        service(cgroup, mechanism) as held,
        agent(controller, f"cgroup:/{cgroup.name}", "--mode", mechanism) as command,
    ):
        wait_until(held.all_paused, "it is held back")
        switch(controller, enabled=False)
        told = time.monotonic()
        while held.any_paused():
            assert time.monotonic() - told < 1.0, "still paused a second after disable"
            time.sleep(0.002)
        assert not any(held.any_paused() for _ in every(0.002, 2.0)), "it would be paused most of the time"
        # A part of the agent that starts afresh must not hold back either.
        before = part(command, "utilctl_agent.link")
        os.kill(before, signal.SIGKILL)
        wait_until(lambda: part(command, "utilctl_agent.link") not in (0, before), "it is started again")
        wait_until(lambda: controller.host("host-a").connected, "it is connected again")
        assert not any(held.any_paused() for _ in every(0.002, 2.0))
        switch(controller, enabled=True)
        wait_until(held.all_paused, "it is held back again")
        assert stop(command).code == 0


@pytest.mark.root
@root
def test_a_disabled_fleet_puts_weights_back_and_an_enabled_one_weighs_again(tmp_path: Path) -> None:
    refusal = weight_refusal()
    if refusal is not None:
        pytest.skip(refusal)
    with contextlib.ExitStack() as stack:
        running = stack.enter_context(RunningController(SqliteStore(tmp_path / "policy.db")))
        knobs: list[Path] = []
        for see, share in (("svc=one", 1), ("svc=three", 3)):
            running.control.SetShare(control_pb2.SetShareRequest(see=see, share=share, mode="weight"))
            cgroup = stack.enter_context(temporary_cgroup(weight_mount()))
            knobs.append(knob(cgroup))
            stack.enter_context(labelled(see, cgroup=cgroup))
        one, three = knobs
        found = one.read_text()
        command = stack.enter_context(agent(running, f"tree:{os.getpid()}"))
        wait_until(lambda: int(three.read_text()) > int(found) > int(one.read_text()), "weights follow the shares")
        switch(running, enabled=False)
        wait_until(lambda: one.read_text() == three.read_text() == found, "weights are put back")
        assert all(one.read_text() == three.read_text() == found for _ in every(0.05, 1.0))
        switch(running, enabled=True)
        wait_until(lambda: int(three.read_text()) > int(found) > int(one.read_text()), "weights follow again")
        assert stop(command).code == 0
        assert one.read_text() == three.read_text() == found


def switch(running: RunningController, *, enabled: bool) -> None:
    """Enable or disable the fleet."""
    assert running.control.SetEnabled(control_pb2.SetEnabledRequest(enabled=enabled)).changed


def every(step_s: float, duration_s: float) -> Iterator[None]:
    """Looks at what is going on, each ``step_s`` after the one before, for so long."""
    end = time.monotonic() + duration_s
    while time.monotonic() < end:
        yield
        time.sleep(step_s)


@pytest.mark.root
@root
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_agent_without_a_controller_ends_as_cleanly(number: signal.Signals) -> None:
    argv = [PYTHON, "-m", "utilctl_agent.main", "--host", "alone", "--controller", "127.0.0.1:1", "--cpus", "0"]
    argv += ["--scope", f"tree:{os.getpid()}"]  # another test may have an agent for the whole host
    with Command(argv) as command:
        wait_until(lambda: len(command.processes()) == 2, "loop and link are started")
        command.process.send_signal(number)
        assert command.wait().code == 0
        command.assert_nothing_left()


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ([], "'--host'"),
        (["--host", "not a name"], "'not a name' is not a host name"),
        (["--host", "a", "--cpus", "9999"], "CPUs [9999] are not available"),
        (["--host", "a", "--cpus", "x"], "is not a list of CPUs"),
        (["--host", "a", "--scope", "galaxy:7"], "scope 'galaxy:7' is malformed"),
        (["--host", "a", "--scope", "tree:4194304999"], "not a process id"),
        (["--host", "a", "--scope", "cgroup:/no/such/group"], "there is no cgroup /no/such/group"),
        (["--host", "a", "--controller", ","], "no controller is named"),
        (["--host", "a", "--quantum", "0.1ms"], "quantum of 0.1 ms is out of range"),
        (["--host", "a", "--mode", "force"], "'force'"),
    ],
)
def test_bad_options_are_one_line_and_start_nothing(options: list[str], complaint: str) -> None:
    with Command([PYTHON, "-m", "utilctl_agent.main", *options]) as command:
        outcome = command.wait()
        command.assert_nothing_left()
    assert (outcome.code, outcome.stdout) == (2, "")
    assert outcome.stderr.startswith("utilctl-agent: error: ")
    assert outcome.stderr.count("\n") == 1
    assert complaint in outcome.stderr
