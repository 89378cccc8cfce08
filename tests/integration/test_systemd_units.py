"""The systemd units, carried out by hand as systemd would: the commands that they name, in its order, with the
capabilities that they leave. There is no systemd in a test environment; what it would do in between is done here.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import pytest

from support.agents import capping_controller, part, service
from support.commands import Command
from support.controller_server import RunningController
from support.guarded import Subject
from support.processes import WAIT_S, is_stopped, temporary_cgroup, wait_until

UNITS: Final = Path(__file__).parents[2] / "deploy" / "systemd"
INSTALLED: Final = "/opt/utilctl/bin/"
UNPACKED: Final = ".venv/systemd"
SYSTEMD_ANALYZE: Final = shutil.which("systemd-analyze") or shutil.which(
    "systemd-analyze", path=str(UNITS.parents[1] / UNPACKED)
)
PROGRAMS: Final = f"{Path(sys.executable).parent}/"

root = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("setpriv") is None, reason="needs root, for cgroups, and setpriv"
)


def settings_of(unit: str) -> dict[str, list[str]]:
    """All values of each setting of the section [Service]; an empty one forgets those before it."""
    found: dict[str, list[str]] = {}
    section = ""
    for line in (UNITS / unit).read_text().splitlines():
        if line.startswith("["):
            section = line.strip("[]")
        elif section == "Service" and "=" in line and not line.startswith(("#", ";")):
            key, _, value = line.partition("=")
            if value:
                found.setdefault(key, []).append(value)
            else:
                found[key] = []
    return found


def command_of(unit: str, key: str, environment: Mapping[str, str]) -> list[str]:
    """A command line as systemd makes it (systemd.service(5)): ``${X}`` is one word, ``$X`` any number of words."""
    settings = settings_of(unit)
    values = dict(pair.split("=", 1) for line in settings["Environment"] for pair in shlex.split(line))
    values = {**values, **environment}
    words: list[str] = []
    (command,) = settings[key]
    for word in shlex.split(command.replace(INSTALLED, PROGRAMS)):
        if word.startswith("$") and not word.startswith("${"):
            words += shlex.split(values.get(word[1:], ""))
            continue
        for name, value in values.items():
            word = word.replace(f"${{{name}}}", value)  # noqa: PLW2901 - step by step
        words.append(word)
    return words


def sandboxed(unit: str, argv: list[str]) -> list[str]:
    """With no more capabilities than the unit leaves."""
    (kept,) = settings_of(unit)["CapabilityBoundingSet"] or [""]
    capabilities = ",".join(f"+{name.removeprefix('CAP_').lower()}" for name in kept.split())
    return ["setpriv", f"--bounding-set=-all,{capabilities}", "--no-new-privs", *argv]


@pytest.mark.skipif(SYSTEMD_ANALYZE is None, reason=f"no systemd-analyze: run tools/setup_systemd.sh {UNPACKED}")
@pytest.mark.parametrize("unit", ["utilctl-agent.service", "utilctl-controller.service"])
def test_systemd_finds_nothing_wrong_with_the_units(tmp_path: Path, unit: str) -> None:
    # It also checks that the programs are there: so they are where they are here.
    (tmp_path / unit).write_text((UNITS / unit).read_text().replace(INSTALLED, PROGRAMS))
    ran = subprocess.run(
        [str(SYSTEMD_ANALYZE), "verify", "--man=no", str(tmp_path / unit)], capture_output=True, text=True, timeout=60
    )
    assert (ran.returncode, ran.stderr) == (0, "")


@pytest.mark.skipif(SYSTEMD_ANALYZE is None, reason=f"no systemd-analyze: run tools/setup_systemd.sh {UNPACKED}")
def test_systemd_finds_what_is_wrong_with_a_unit(tmp_path: Path) -> None:
    unit = "utilctl-agent.service"
    text = (UNITS / unit).read_text().replace(INSTALLED, PROGRAMS)
    (tmp_path / unit).write_text(text.replace("Restart=always", "Restart=allways"))
    ran = subprocess.run(
        [str(SYSTEMD_ANALYZE), "verify", "--man=no", str(tmp_path / unit)], capture_output=True, text=True, timeout=60
    )
    assert "allways" in ran.stderr


def test_the_agent_is_always_restarted_and_its_pauses_undone_however_it_ended() -> None:
    agent = settings_of("utilctl-agent.service")
    assert agent["Restart"] == ["always"]
    assert agent["ExecStopPost"] == [f"{INSTALLED}utilctl thaw --all"]
    assert agent["RuntimeDirectoryPreserve"] == ["yes"], "the journals outlive the service"
    assert agent["ProtectControlGroups"] == ["no"], "cgroups are written"
    assert "CPUQuota" not in agent


@pytest.mark.kernel
@pytest.mark.root
@root
def test_the_agents_unit_leaves_nothing_paused_when_all_its_processes_are_killed(tmp_path: Path) -> None:
    unit = "utilctl-agent.service"
    with (
        capping_controller(tmp_path / "policy.db") as controller,
        temporary_cgroup() as cgroup,
        service(cgroup) as held,
    ):
        environment = environment_for(controller, cgroup)
        start = sandboxed(unit, command_of(unit, "ExecStart", environment))
        with Command(start, environment=environment) as agent:
            wait_until(held.all_paused, "it is held back")
            loop = part(agent, "utilctl_agent.loop")
            assert os.sched_getscheduler(loop) & ~os.SCHED_RESET_ON_FORK == os.SCHED_FIFO, "CAP_SYS_NICE was left to it"
            assert "VmLck:\t       0" not in Path(f"/proc/{loop}/status").read_text(), "CAP_IPC_LOCK was left to it"
            kill_all_at_once(agent, held)
        assert held.all_paused(), "nobody was left to resume it"
        # However the main process ended, systemd now runs ExecStopPost=.
        stop_post = sandboxed(unit, command_of(unit, "ExecStopPost", environment))
        ran = subprocess.run(stop_post, capture_output=True, text=True, timeout=60)
        assert (ran.returncode, ran.stderr) == (0, "")
        assert not held.any_paused()
        # Restart=always.
        with Command(start, environment=environment) as agent:
            wait_until(held.all_paused, "it is held back again")
            agent.process.send_signal(signal.SIGTERM)  # KillMode=mixed: to the main process alone
            outcome = agent.wait()
            assert (outcome.code, "Traceback" in outcome.stderr) == (0, False), outcome
            assert not held.any_paused()
            agent.assert_nothing_left()
        again = subprocess.run(stop_post, capture_output=True, text=True, timeout=60)
        assert again.returncode == 0
        assert not held.any_paused()


def environment_for(controller: RunningController, cgroup: Path) -> dict[str, str]:
    """What /etc/default/utilctl-agent would say."""
    return {
        "UTILCTL_HOST": "host-a",
        "UTILCTL_CONTROLLER": controller.address,
        "UTILCTL_AGENT_OPTIONS": f"--scope cgroup:/{cgroup.name} --cpus 0",
    }


def kill_all_at_once(agent: Command, held: Subject) -> None:
    """Guard, loop and link are killed, at an instant at which the service is paused."""
    loop = part(agent, "utilctl_agent.loop")
    others = [agent.pid, part(agent, "utilctl_agent.link")]
    for pid in others:
        os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: all(map(is_stopped, others)), "guard and link stand still")

    def caught() -> bool:
        os.kill(loop, signal.SIGSTOP)
        wait_until(lambda: is_stopped(loop), "the loop stands still")
        if held.all_paused():
            return True
        os.kill(loop, signal.SIGCONT)  # it had just let it go
        return False

    wait_until(caught, "the loop is stopped while it holds the service back")
    for pid in (loop, *others):
        os.kill(pid, signal.SIGKILL)
    agent.process.wait(WAIT_S)
    wait_until(lambda: not agent.processes(), "all are gone")


@pytest.mark.kernel
@pytest.mark.root
@root
def test_the_controllers_unit_serves_without_any_capability_and_after_a_kill_again(tmp_path: Path) -> None:
    unit = "utilctl-controller.service"
    environment = {"UTILCTL_LISTEN": "127.0.0.1:0", "UTILCTL_STORE": f"sqlite:{tmp_path}/policy.db"}
    argv = ["setpriv", "--bounding-set=-all", "--no-new-privs", *command_of(unit, "ExecStart", environment)]
    for number in (signal.SIGKILL, signal.SIGTERM):
        with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout is not None
                assert process.stdout.readline().startswith("utilctl-controller listening on 127.0.0.1:")
                process.send_signal(number)
                status = process.wait(WAIT_S)
            finally:
                process.kill()
            assert status == (0 if number == signal.SIGTERM else -number)
