"""``utilctl`` as a process whose traces can be looked for afterwards: processes, cgroups, journals, files."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from support.processes import WAIT_S, is_stopped, thaw
from utilctl_agent.discovery.cgroupfs import cgroup_mounts
from utilctl_agent.safety.journal import Journal
from utilctl_agent.safety.thaw import default_run_dir

UTILCTL: Final = (sys.executable, "-m", "utilctl_cli.main")
_MARK: Final = "UTILCTL_TEST_MARK"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a command ended."""

    code: int
    stdout: str
    stderr: str


class Command:
    """A running command. Use it in ``with``: whatever it started is gone afterwards, even if it should not be.

    Every process that it starts inherits a mark in its environment and can be found by that.
    """

    def __init__(
        self, argv: Sequence[str], *, environment: Mapping[str, str] | None = None, prefix: Sequence[str] = ()
    ) -> None:
        """Start ``argv``; ``prefix`` changes the user, see support.unprivileged."""
        self._token = uuid.uuid4().hex
        self._folder = tempfile.TemporaryDirectory(prefix="utilctl-test-")
        folder = Path(self._folder.name)
        self.temporary = folder / "tmp"
        self.temporary.mkdir()
        self.temporary.chmod(0o1777)
        self._journals_before = set(_journals())
        self._out, self._err = folder / "out", folder / "err"
        # Into files: a pipe held open by somebody left behind would keep the reader waiting.
        with self._out.open("w") as out, self._err.open("w") as err:
            self.process = subprocess.Popen(
                [*prefix, *argv],
                env={**os.environ, "TMPDIR": str(self.temporary), _MARK: self._token, **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                cwd="/",
            )
        self.pid = self.process.pid

    def __enter__(self) -> Command:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait()
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 9)
        for cgroup in self.cgroups():
            with contextlib.suppress(OSError):
                thaw(cgroup)
                if (cgroup / "cgroup.kill").exists():
                    (cgroup / "cgroup.kill").write_text("1")
            deadline = time.monotonic() + WAIT_S
            while cgroup.exists() and time.monotonic() < deadline:
                for folder in sorted([cgroup, *cgroup.rglob("*/")], reverse=True):
                    with contextlib.suppress(OSError):
                        folder.rmdir()
                time.sleep(0.005)
        self._folder.cleanup()

    def wait(self, timeout_s: float = 60.0) -> Outcome:
        """How it ended; waits for that."""
        code = self.process.wait(timeout_s)
        return Outcome(code, self._out.read_text(), self._err.read_text())

    def errors(self) -> str:
        """What it has written to standard error so far."""
        return self._err.read_text()

    def processes(self) -> list[int]:
        """Processes that it started, directly or not, wherever they were reparented to; itself not."""
        needle = f"{_MARK}={self._token}".encode()
        found: list[int] = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal() and int(entry.name) != self.pid:
                with contextlib.suppress(OSError):
                    if needle in (entry / "environ").read_bytes().split(b"\0"):
                        found.append(int(entry.name))
        return found

    def stopped(self) -> list[int]:
        """Those of its processes that are stopped."""
        return [pid for pid in self.processes() if is_stopped(pid)]

    def cgroups(self) -> list[Path]:
        """Cgroups that it made."""
        mounts = [mount.mount_point for mount in cgroup_mounts()]
        return sorted(path for mount in mounts for path in mount.glob(f"utilctl-*-{self.pid}*"))

    def assert_nothing_left(self) -> None:
        """It has ended, and nothing tells that it ever ran. Helpers get a moment to notice that it is gone."""
        assert self.process.poll() is not None
        deadline = time.monotonic() + 5.0
        left = self._left()
        while left and time.monotonic() < deadline:
            time.sleep(0.02)
            left = self._left()
        assert not left, f"left behind: {left}"

    def _left(self) -> list[str]:
        left = [f"process {pid} ({_command_line(pid)})" for pid in self.processes()]
        left += [f"cgroup {path}" for path in self.cgroups()]
        left += [f"file {path}" for path in self.temporary.iterdir()]
        left += [f"journal {path}" for path in _journals() if path not in self._journals_before and _is_orphan(path)]
        return left


def run(*arguments: str, environment: Mapping[str, str] | None = None, prefix: Sequence[str] = ()) -> Outcome:
    """Run ``utilctl ARGUMENTS`` to its end; fails if it leaves anything behind."""
    with Command([*UTILCTL, *arguments], environment=environment, prefix=prefix) as command:
        outcome = command.wait()
        command.assert_nothing_left()
    return outcome


def one_line(outcome: Outcome) -> str:
    """Standard error, which must be one line of utilctl's own."""
    assert outcome.stderr.startswith("utilctl: error: "), outcome.stderr
    assert outcome.stderr.count("\n") == 1, outcome.stderr
    return outcome.stderr.removeprefix("utilctl: error: ").rstrip("\n")


def keys(document: Mapping[str, Any]) -> set[str]:
    """The keys of a JSON object."""
    return set(document)


def _journals() -> list[Path]:
    folder = Path(default_run_dir())
    return sorted(folder.glob("*.journal")) if folder.is_dir() else []


def _is_orphan(path: Path) -> bool:
    try:
        journal = Journal.open(str(path))
    except OSError:
        return False
    try:
        return journal.lock()
    finally:
        journal.close()


def _command_line(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    return "gone"
