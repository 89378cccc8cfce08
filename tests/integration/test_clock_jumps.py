"""The wall clock may jump as it likes: pauses, leases and reports go by clocks that do not."""

from __future__ import annotations

import ast
import contextlib
import mmap
import os
import shutil
import signal
import struct
import subprocess
import time
from pathlib import Path
from typing import Final

import pytest

from support.agents import CAP_CORES, PYTHON, SEE, agent, capping_controller, part, service
from support.commands import Command, run
from support.etcd_server import free_port
from support.guarded import Subject
from support.processes import temporary_cgroup, wait_until
from utilctl_cli.client import ControllerClient
from utilctl_common.errors import UtilctlError
from utilctl_common.quantities import NS_PER_MS, NS_PER_S

REPOSITORY: Final = Path(__file__).parents[2]
WALL_CLOCKS: Final = {"time.time", "time.time_ns", "datetime.now", "datetime.utcnow", "time.CLOCK_REALTIME"}
STAMPS: Final = {
    "agent/utilctl_agent/link/app.py": "when a decision was applied, for its trace",
    "cli/utilctl_cli/options.py": "since when the history is asked for",
    "cli/utilctl_cli/render.py": "how long ago something was, for people",
    "controller/utilctl_controller/control.py": "until when a hold lasts: an instant of the calendar",
    "controller/utilctl_controller/server.py": "when a decision was made, for its trace",
    "controller/utilctl_controller/writes.py": "when a policy was changed, for its history",
}
"""Where the wall clock is read, and what for: to say when something was. Only the end of a hold is decided by it."""

root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: cgroups are made")


def reads_wall_clock(source: str) -> bool:
    """Whether a module's code names a wall clock."""
    names = {ast.unparse(node) for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Attribute)}
    imported = {
        f"{node.module}.{alias.name}"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    return bool(WALL_CLOCKS & (names | imported)) or any(name.endswith(("datetime.now", "utcnow")) for name in names)


def test_the_wall_clock_is_read_to_say_when_something_was_and_nowhere_to_decide() -> None:
    folders = [REPOSITORY / name / f"utilctl_{name}" for name in ("agent", "cli", "common", "controller")]
    modules = [module for folder in folders for module in folder.rglob("*.py")]
    assert len(modules) > 100
    found = {str(module.relative_to(REPOSITORY)) for module in modules if reads_wall_clock(module.read_text())}
    assert found == set(STAMPS)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import time\nx = time.time()", True),
        ("import time\nx = time.time_ns", True),
        ("from time import time_ns", True),
        ("import datetime\nx = datetime.datetime.now()", True),
        ("import time\nx = time.clock_gettime(time.CLOCK_REALTIME)", True),
        ("import time\nx = time.monotonic_ns()", False),
    ],
)
def test_every_way_to_read_the_wall_clock_is_known(source: str, expected: bool) -> None:
    assert reads_wall_clock(source) is expected


@pytest.mark.kernel
@pytest.mark.root
@root
def test_leases_are_timed_by_a_clock_that_counts_suspend_and_pauses_by_one_that_does_not(tmp_path: Path) -> None:
    with (
        capping_controller(tmp_path / "policy.db") as controller,
        temporary_cgroup() as cgroup,
        service(cgroup) as held,
        agent(controller, f"cgroup:/{cgroup.name}") as running,
    ):
        wait_until(held.all_paused, "it is held back")
        link = timer_clocks(part(running, "utilctl_agent.link"))
        loop = timer_clocks(part(running, "utilctl_agent.loop"))
    assert time.CLOCK_BOOTTIME in link, "the lease"
    assert loop == {time.CLOCK_MONOTONIC}, "the guard's alarm: nobody who is paused waits longer for it in suspend"


def timer_clocks(pid: int) -> set[int]:
    """The clocks of its timers (timerfd), as the kernel tells them."""
    clocks: set[int] = set()
    for info in Path(f"/proc/{pid}/fdinfo").iterdir():
        with contextlib.suppress(OSError):
            clocks |= {int(line.split()[1]) for line in info.read_text().splitlines() if line.startswith("clockid:")}
    return clocks


@pytest.mark.kernel
@pytest.mark.root
@root
@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler, for a clock that can be moved")
def test_enforcement_goes_on_while_the_wall_clock_jumps_by_days(tmp_path: Path) -> None:
    library, position = tmp_path / "jumping_clock.so", tmp_path / "position"
    source = REPOSITORY / "tests" / "support" / "jumping_clock.c"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"], check=True, timeout=60)
    position.write_bytes(bytes(8))
    jumping = {"LD_PRELOAD": str(library), "JUMPING_CLOCK": str(position)}
    address = f"127.0.0.1:{free_port()}"
    store = ["--store", f"sqlite:{tmp_path}/policy.db", "--report-interval", "200ms", "--lease", "4s"]
    with contextlib.ExitStack() as stack:
        clock = stack.enter_context(open(position, "r+b"))  # noqa: PTH123 - for mmap
        days = stack.enter_context(mmap.mmap(clock.fileno(), 8))
        cgroup = stack.enter_context(temporary_cgroup())
        held = stack.enter_context(service(cgroup))
        serving = stack.enter_context(
            Command([PYTHON, "-m", "utilctl_controller.main", "--listen", address, *store], environment=jumping)
        )
        wait_until(lambda: serves(address), "the controller serves")
        assert run("set-share", SEE, "1", "--cap", str(CAP_CORES), "--controller", address).code == 0
        argv = [PYTHON, "-m", "utilctl_agent.main", "--host", "host-a", "--controller", address]
        argv += ["--scope", f"cgroup:/{cgroup.name}", "--cpus", "0"]
        running = stack.enter_context(Command(argv, environment=jumping))
        wait_until(held.all_paused, "it is held back")
        for jump_s in (86_400, -86_400, 10 * 86_400, -3600, 0):
            days[:] = struct.pack("@l", jump_s)
            longest_ns, pauses = watched(held, NS_PER_S)
            assert pauses > 1, f"it is not held back any more after a jump to {jump_s} s"
            assert longest_ns < 2 * NS_PER_S, f"paused for {longest_ns / NS_PER_MS:.0f} ms"
            (host,) = client(address).hosts()["hosts"]
            assert host["connected"], f"lost after a jump to {jump_s} s"
        # The shim works: the last change is stamped with a time that never was.
        days[:] = struct.pack("@l", 100 * 86_400)
        assert run("set-share", SEE, "2", "--controller", address).code == 0
        newest = client(address).history(SEE, 1)["entries"][0]
        assert newest["changed_unix_ns"] > time.time_ns() + 50 * 86_400 * NS_PER_S
        running.process.send_signal(signal.SIGTERM)
        outcome = running.wait()
        assert outcome.code == 0
        assert "expired" not in outcome.stderr
        assert "Traceback" not in outcome.stderr
        assert not held.any_paused()
        serving.process.send_signal(signal.SIGTERM)
        assert serving.wait().code == 0


def client(address: str) -> ControllerClient:
    """One for each question: its time is counted from when it is made."""
    return ControllerClient((address,), 5 * NS_PER_S)


def serves(address: str) -> bool:
    try:
        client(address).services()
    except UtilctlError:
        return False
    return True


def watched(held: Subject, watch_ns: int) -> tuple[int, int]:
    """(longest time that it is seen to be paused without a break, pauses seen), over ``watch_ns``."""
    longest_ns, pauses, since_ns, end_ns = 0, 0, None, time.monotonic_ns() + watch_ns
    while (now_ns := time.monotonic_ns()) < end_ns:
        if not held.any_paused():
            since_ns = None
        elif since_ns is None:
            since_ns, pauses = now_ns, pauses + 1
        else:
            longest_ns = max(longest_ns, now_ns - since_ns)
        time.sleep(0.001)
    return longest_ns, pauses
