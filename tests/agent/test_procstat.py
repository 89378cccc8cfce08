"""What /proc says of processes: states from ``status``, which never waits for anybody, are those from ``stat``."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from functools import partial
from pathlib import Path

import pytest

from support.processes import wait_until
from utilctl_agent.host.procstat import STATUS_BYTES, parse_status, read_stat, read_state


def _is_in(pid: int, letter: bytes) -> bool:
    return read_state(pid) == (letter, 1)


def test_both_files_say_the_same_of_a_process_that_sleeps_is_stopped_and_has_ended() -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        try:
            for number, letter in ((0, b"S"), (signal.SIGSTOP, b"T"), (signal.SIGKILL, b"Z")):
                process.send_signal(number)
                wait_until(partial(_is_in, process.pid, letter), f"state {letter!r}")
                stat = read_stat(process.pid)
                assert stat is not None
                assert (stat[0], stat[2]) == (letter, 1)
        finally:
            process.kill()
    assert read_state(process.pid) is None


def test_threads_are_counted_and_have_states_of_their_own() -> None:
    done = threading.Event()
    others = [threading.Thread(target=done.wait) for _ in range(3)]
    for other in others:
        other.start()
    try:
        state = read_state(os.getpid())
        assert state is not None
        assert state[1] >= 4
        assert read_state(others[0].native_id or 0, os.getpid()) == (b"S", state[1])
    finally:
        done.set()
        for other in others:
            other.join()


@pytest.mark.parametrize("name", ["a) R (b", "x\nState:\tZ", "sp ace"])
def test_a_name_that_looks_like_something_else_is_only_a_name(tmp_path: Path, name: str) -> None:
    program = tmp_path / name
    program.symlink_to("/bin/sleep")
    with subprocess.Popen([program, "60"]) as process:
        try:
            wait_until(lambda: read_state(process.pid) == (b"S", 1), "it sleeps")
            assert Path(f"/proc/{process.pid}/comm").read_text().startswith(name[:15])
        finally:
            process.kill()


def test_a_status_that_is_cut_off_before_its_threads_has_one() -> None:
    whole = b"Name:\tx\nUmask:\t0022\nState:\tR (running)\nTgid:\t1\nGroups:\t" + b"1 " * STATUS_BYTES
    assert parse_status(whole[:STATUS_BYTES]) == (b"R", 1)
