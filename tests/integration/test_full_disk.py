"""The controller on a disk that is really full: writes are refused, reads and decisions go on, nothing is half done."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from support.agents import PYTHON
from support.commands import Command, one_line, run
from support.etcd_server import free_port
from support.processes import wait_until
from support.small_disk import fill, small_disk

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to mount a disk"),
]


def test_a_controller_whose_disk_is_full_refuses_writes_in_one_line_and_goes_on(tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    with small_disk(tmp_path / "disk", 1024) as disk:
        argv = [PYTHON, "-m", "utilctl_controller.main", "--listen", address, "--store", f"sqlite:{disk}/policy.db"]
        with Command(argv) as controller:
            at = ("--controller", address)
            wait_until(lambda: run("get", "services", *at).code == 0, "the controller serves")
            assert run("set-share", "svc=web", "3", *at).code == 0
            filler = fill(disk)
            # SQLite may have some pages of its own left: a hundred changes are more than those hold.
            outcomes = (run("set-share", "svc=web", str(share), *at, "--reason", "x" * 1000) for share in range(4, 104))
            refused = next(outcome for outcome in outcomes if outcome.code != 0)
            assert refused.code == 3
            assert "the disk is full" in one_line(refused)
            before = json.loads(run("get", "services", *at, "-o", "json").stdout)["services"][0]
            assert run("history", "svc=web", *at).code == 0
            assert run("delete", "svc=web", *at, "--reason", "x" * 1000).code == 3
            after = json.loads(run("get", "services", *at, "-o", "json").stdout)["services"][0]
            assert (after["share"], after["version"]) == (before["share"], before["version"])
            filler.unlink()
            done = run("set-share", "svc=web", "1", *at)
            assert done.code == 0, done
            stored = json.loads(run("get", "services", *at, "-o", "json").stdout)["services"][0]
            entries = json.loads(run("history", "svc=web", *at, "-o", "json").stdout)["entries"]
            assert (stored["share"], stored["version"]) == (1, before["version"] + 1)
            assert len(entries) == stored["version"], "all that was done, and nothing that was refused"
            controller.process.send_signal(signal.SIGTERM)
            outcome = controller.wait()
            assert outcome.code == 0
            assert "Traceback" not in outcome.stderr


def test_a_controller_that_finds_the_disk_full_at_its_start_says_so_and_exits_with_3(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 64) as disk:
        fill(disk)
        argv = [PYTHON, "-m", "utilctl_controller.main", "--listen", "127.0.0.1:0", "--store", f"sqlite:{disk}/p.db"]
        with Command(argv) as controller:
            outcome = controller.wait()
        assert outcome.code == 3
        assert "the disk is full" in outcome.stderr
        assert outcome.stderr.count("\n") == 1
