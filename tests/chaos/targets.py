"""What is paused in the trials: groups of real processes on one CPU, started once and used in all trials."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from support.processes import WAIT_S, temporary_cgroup, wait_until
from utilctl_agent.host.cgroup import cgroup2_mount
from utilctl_agent.host.hierarchies import FREEZER_V1, v1_mount

Kind = Literal["v2", "v1", "signal"]

_SPIN: Final = "ulimit -t 1200; sleep 86400 & while :; do :; done"
"""A process that wants CPU all the time and a child of its own that wants none. 20 minutes of CPU time are far more
than one of dozens on one CPU gets in hours."""


@dataclass(frozen=True, slots=True)
class Target:
    """One group: how it can be paused, what it consists of, and the name of its service."""

    name: str
    kind: Kind
    cgroup: Path | None
    pids: tuple[int, ...]

    @property
    def see(self) -> str:
        """Its label, by which an agent finds it."""
        return f"svc={self.name}"


def possible_kinds() -> tuple[Kind, ...]:
    """What this host allows us."""
    if os.geteuid() != 0:
        return ("signal",)
    kinds: list[Kind] = ["signal"]
    if cgroup2_mount() is not None:
        kinds.insert(0, "v2")
    if v1_mount(FREEZER_V1) is not None:
        kinds.insert(1, "v1")
    return tuple(kinds)


@contextlib.contextmanager
def targets(counts: Mapping[Kind, int], cpu: int) -> Iterator[tuple[Target, ...]]:
    """So many groups of each kind, all on one CPU; gone afterwards, and also if this process is killed."""
    with contextlib.ExitStack() as stack:
        mounts: dict[Kind, Path | None] = {"v2": cgroup2_mount(), "v1": v1_mount(FREEZER_V1), "signal": None}
        made: list[Target] = []
        for kind, count in counts.items():
            for number in range(count):
                cgroup = None if kind == "signal" else stack.enter_context(temporary_cgroup(mounts[kind]))
                made.append(stack.enter_context(_target(f"chaos-{kind}-{number}", kind, cgroup, cpu)))
        yield tuple(made)


@contextlib.contextmanager
def _target(name: str, kind: Kind, cgroup: Path | None, cpu: int) -> Iterator[Target]:
    label = {} if kind == "v1" else {"UTILCTL_SEE": f"svc={name}"}  # agents do not use the freezer of version 1
    enter = f"echo $$ > {cgroup}/cgroup.procs; " if cgroup is not None else ""
    setpriv = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []
    process = subprocess.Popen(
        [*setpriv, shutil.which("sh") or "/bin/sh", "-c", enter + _SPIN],
        env={**os.environ, **label},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        cwd="/",
    )
    try:
        os.sched_setaffinity(process.pid, {cpu})
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        wait_until(lambda: _is_spinning(process) and bool(children.read_text().split()), f"{name} is started")
        yield Target(name, kind, cgroup, (process.pid, *map(int, children.read_text().split())))
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        if kind == "v1" and cgroup is not None:
            (cgroup / "freezer.state").write_text("THAWED")  # version 1 lets nobody die who is frozen
        process.wait(WAIT_S)


def _is_spinning(process: subprocess.Popen[bytes]) -> bool:
    assert process.poll() is None, "a target ended at once"
    return True


def cpu_ns(target: Target) -> int:
    """CPU time of its first process."""
    return time.clock_gettime_ns((~target.pids[0] << 3) | 2)


def let_everybody_run(all_targets: Sequence[Target]) -> None:
    """Undo by hand what a trial left behind, so that the next begins clean."""
    for target in all_targets:
        if target.kind == "v2":
            assert target.cgroup is not None
            (target.cgroup / "cgroup.freeze").write_text("0")
        elif target.kind == "v1":
            assert target.cgroup is not None
            (target.cgroup / "freezer.state").write_text("THAWED")
        else:
            for pid in target.pids:
                os.kill(pid, signal.SIGCONT)
