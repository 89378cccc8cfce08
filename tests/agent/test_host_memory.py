"""Locked memory: all of it where that is permitted, else none."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from support.unprivileged import as_nobody, can_become_nobody

pytestmark = pytest.mark.kernel

CODE = """
import re, resource
from utilctl_agent.host.memory import lock_memory
locked = lock_memory()
more = bytearray(200_000_000)
with open("/proc/self/status") as status:
    print(locked, int(re.search(r"VmLck:\\s+(\\d+)", status.read())[1]) // 1024)
"""


def locked_mib(prefix: list[str]) -> tuple[bool, int]:
    """(whether memory was locked, how much of it in MiB once 200 MB were allocated after that)."""
    ran = subprocess.run(
        [*prefix, sys.executable, "-c", CODE], capture_output=True, text=True, timeout=60, cwd="/", check=False
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    locked, mib = ran.stdout.split()
    return locked == "True", int(mib)


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, which may lock any amount")
def test_what_is_allocated_later_is_locked_as_well_where_any_amount_is_permitted() -> None:
    locked, mib = locked_mib([])
    assert locked
    assert mib > 190


@pytest.mark.root
@pytest.mark.skipif(not can_become_nobody() or shutil.which("prlimit") is None, reason="needs root, setpriv, prlimit")
def test_above_the_limit_nothing_is_locked_and_the_process_can_grow() -> None:
    assert locked_mib(["prlimit", "--memlock=65536:65536", *as_nobody([])]) == (False, 0)
