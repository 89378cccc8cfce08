"""Programs behind a gate: none runs before it opens, all do then, and none is left behind one that never opens."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.processes import wait_until
from utilctl_agent.host.start_gate import StartGate

COUNT = 30


def start(gate: StartGate, command: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(gate.argv(command), stdin=gate.stdin)


@pytest.fixture
def processes() -> Iterator[list[subprocess.Popen[bytes]]]:
    started: list[subprocess.Popen[bytes]] = []
    yield started
    for process in started:
        process.kill()
        process.wait()


def test_nobody_begins_before_it_opens_and_everybody_does_then(
    tmp_path: Path, processes: list[subprocess.Popen[bytes]]
) -> None:
    with StartGate() as gate:
        processes += [start(gate, f"echo $$ > {tmp_path}/{index}") for index in range(COUNT)]
        wait_until(lambda: all(Path(f"/proc/{p.pid}/wchan").read_text() != "0" for p in processes), "all wait")
        assert list(tmp_path.iterdir()) == []
        gate.open()
        assert [process.wait(timeout=30) for process in processes] == [0] * COUNT
    assert [int((tmp_path / str(index)).read_text()) for index in range(COUNT)] == [p.pid for p in processes]


def test_what_the_command_reads_and_how_it_ends_is_its_own(processes: list[subprocess.Popen[bytes]]) -> None:
    with StartGate() as gate:
        processes.append(start(gate, 'test -z "$(cat)" && exit 7'))
        gate.open()
        gate.open()
        assert processes[0].wait(timeout=30) == 7


def test_leaving_the_context_opens_it(processes: list[subprocess.Popen[bytes]]) -> None:
    with StartGate() as gate:
        processes.append(start(gate, "exit 3"))
    assert processes[0].wait(timeout=30) == 3


def test_programs_before_a_gate_whose_keeper_is_killed_end(tmp_path: Path) -> None:
    keeper = subprocess.Popen(
        [sys.executable, "-c", _KEEPER, str(tmp_path / "ran")], stdout=subprocess.PIPE, start_new_session=True
    )
    try:
        assert keeper.stdout is not None
        pidfd = os.pidfd_open(int(keeper.stdout.readline()))
        keeper.kill()
        keeper.wait()
        ended, _, _ = select.select([pidfd], [], [], 30)
        os.close(pidfd)
        keeper.stdout.close()
    finally:
        keeper.kill()
        keeper.wait()
    assert ended
    assert not (tmp_path / "ran").exists()


_KEEPER = """
import subprocess, sys, time
from utilctl_agent.host.start_gate import StartGate
gate = StartGate()
print(subprocess.Popen(gate.argv(f"echo > {sys.argv[1]}; exec sleep 60"), stdin=gate.stdin).pid, flush=True)
time.sleep(60)
"""
