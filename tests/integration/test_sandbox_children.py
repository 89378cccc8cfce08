"""``utilctl sandbox`` around programs whose children live for a few milliseconds, by every mechanism."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.commands import UTILCTL, Command
from support.processes import is_stopped, wait_until
from support.unprivileged import as_nobody, can_become_nobody, give_to_nobody
from utilctl_agent.host.cgroup import freezer_refusal
from utilctl_agent.host.quotas import quota_refusal

pytestmark = [pytest.mark.kernel, pytest.mark.quiet]

# Tells what it and its children have used, over how long: an account of its own beside the report.
SHORT_LIVED = """
import json, os, resource, time
began, used = time.monotonic(), 0
while time.monotonic() < began + 8:
    child = os.fork()
    if child == 0:
        start = time.process_time()
        while time.process_time() - start < 0.005: pass
        os._exit(0)
    os.waitpid(child, 0)
for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
    usage = resource.getrusage(who)
    used += usage.ru_utime + usage.ru_stime
print(json.dumps([used, time.monotonic() - began]))
"""
EXECUTING = 'while :; do "$0" -S -c "for i in range(30000): pass"; done'
SLEEPERS = "sh -c 'while :; do :; done' & sh -c 'while :; do :; done' & wait"


def possible(mode: str) -> None:
    refusal = quota_refusal() if mode == "quota" else freezer_refusal() if mode == "freezer" else None
    if refusal is not None:
        pytest.skip(refusal)


@pytest.fixture
def unprivileged(tmp_path: Path) -> dict[str, str]:
    """The environment of user nobody."""
    if not can_become_nobody():
        pytest.skip("needs root, to become somebody else")
    tmp_path.chmod(0o755)
    return {**os.environ, "XDG_RUNTIME_DIR": str(give_to_nobody(tmp_path / "run"))}


def ran(argv: list[str], environment: dict[str, str] | None = None) -> tuple[dict[str, Any], str]:
    done = subprocess.run(argv, capture_output=True, text=True, check=False, env=environment, timeout=60)
    return json.loads(done.stderr), done.stdout


def check_short_lived(report: dict[str, Any], told: str) -> None:
    used_s, wall_s = json.loads(told)
    assert used_s / wall_s == pytest.approx(0.25, abs=0.02)
    assert report["fraction"] == pytest.approx(0.25, abs=0.02)
    assert report["cpu_s"] == pytest.approx(used_s, abs=0.05)


@pytest.mark.parametrize("mode", ["quota", "freezer", "signal"])
def test_short_lived_children_are_capped_and_counted(mode: str) -> None:
    possible(mode)
    argv = [*UTILCTL, "sandbox", "--cap", "25%", "--mode", mode, "-o", "json", "--", sys.executable, "-S", "-c"]
    report, told = ran([*argv, SHORT_LIVED])
    assert report["mechanism"] == mode
    check_short_lived(report, told)


def test_without_root_short_lived_children_are_capped_and_counted_all_the_same(unprivileged: dict[str, str]) -> None:
    argv = [*UTILCTL, "sandbox", "--cap", "25%", "-o", "json", "--", sys.executable, "-S", "-c", SHORT_LIVED]
    report, told = ran(as_nobody(argv), unprivileged)
    assert report["mechanism"] == "signal"
    assert "no quota" in report["reason"]
    check_short_lived(report, told)


@pytest.mark.parametrize("mode", ["quota", "signal"])
def test_programs_executed_one_after_the_other_are_capped(mode: str) -> None:
    possible(mode)
    argv = [*UTILCTL, "sandbox", "--cap", "25%", "--mode", mode, "-o", "json", "--"]
    report, _ = ran([*argv, "timeout", "8", "sh", "-c", EXECUTING, sys.executable])
    assert report["fraction"] == pytest.approx(0.25, abs=0.02)


def test_a_process_that_was_taken_is_capped_with_its_short_lived_children() -> None:
    script = SHORT_LIVED.replace("+ 8", "+ 12")
    with subprocess.Popen([sys.executable, "-S", "-c", script], stdout=subprocess.DEVNULL) as process:
        argv = [*UTILCTL, "sandbox", "--cap", "25%", "--pid", str(process.pid), "--duration", "8s", "-o", "json"]
        report, _ = ran(argv)
    assert report["fraction"] == pytest.approx(0.25, abs=0.02)


@contextlib.contextmanager
def sandboxed(*arguments: str) -> Iterator[Command]:
    with Command([*UTILCTL, "sandbox", *arguments]) as box:
        yield box


@pytest.mark.parametrize("mode", ["quota", "freezer", "signal"])
def test_a_child_that_was_stopped_by_somebody_else_is_never_resumed_by_us(mode: str) -> None:
    possible(mode)
    with sandboxed("--cap", "20%", "--mode", mode, "--duration", "2s", "--", "sh", "-c", SLEEPERS) as box:
        found: list[int] = []

        def both_run() -> bool:
            found[:] = [
                pid
                for pid in box.processes()
                if Path(f"/proc/{pid}/cmdline").read_bytes() == b"sh\0-c\0while :; do :; done\0"
            ]
            return len(found) == 2

        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            wait_until(both_run, "the children run")
        stopped, other = found
        os.kill(stopped, signal.SIGSTOP)
        wait_until(lambda: is_stopped(stopped), "it is stopped")
        deadline = time.monotonic() + 3  # beyond the end of the capping
        while time.monotonic() < deadline:
            assert is_stopped(stopped)
            time.sleep(0.005)
        wait_until(lambda: not is_stopped(other), "the other one runs")
