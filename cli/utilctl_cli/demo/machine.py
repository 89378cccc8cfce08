"""The demo's processes: one controller, two agents, the services' workloads; and their end, whatever happens."""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from utilctl_agent.host.cgroup import CgroupGroup, freezer_refusal
from utilctl_agent.host.port import Group
from utilctl_agent.host.processes import ProcessGroup
from utilctl_agent.host.procstat import identify
from utilctl_agent.host.spawning import uninterrupted
from utilctl_agent.host.workcgroup import WorkCgroup
from utilctl_agent.safety.journal import Journal
from utilctl_cli.demo.scenario import HOSTS, PLACEMENT, PROCESSES_EACH
from utilctl_common.errors import FailedError

START_TIMEOUT_S: Final = 20.0
REPORT_INTERVAL: Final = "500ms"
_PR_SET_PDEATHSIG: Final = 1
_SPIN: Final = "while True: pass"


class Machine:
    """Two hosts on this machine. Use as a context manager: leaving it ends everything that was started."""

    def __init__(self) -> None:
        cpus = sorted(os.sched_getaffinity(0))
        self.cpus = {HOSTS[0]: cpus[0], HOSTS[1]: cpus[1 % len(cpus)]}
        refusal = freezer_refusal()
        self.uses_cgroups = refusal is None
        self.mechanism = "freezing their cgroups" if refusal is None else f"signals ({refusal})"
        self.address = ""
        self._stack = contextlib.ExitStack()
        self._groups: dict[tuple[str, str], Group] = {}
        self._folder = Path()
        self._log: Path = Path()

    def __enter__(self) -> Machine:
        try:
            self._folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="utilctl-demo-")))
            self._log = self._folder / "log"
            self._start_controller()
            scopes = self._start_workloads()
            for host, scope in scopes.items():
                self._start_agent(host, scope)
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        # A second Ctrl-C must not cut the clean-up short; it is bounded by itself.
        previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            self._stack.close()
        finally:
            signal.signal(signal.SIGINT, previous)

    def cpu_ns(self) -> dict[str, int]:
        """CPU time that each service has consumed so far, read from the kernel and not from the agents."""
        totals = dict.fromkeys(PLACEMENT, 0)
        for (see, _), group in self._groups.items():
            totals[see] += group.read().cpu_ns
        return totals

    # -- start --------------------------------------------------------------------------------------------------

    def _spawn(
        self, argv: Sequence[str], *, stop: signal.Signals, stdout: int | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a program that ends with us, by ``stop``; its complaints go to the log."""
        libc = ctypes.CDLL(None, use_errno=True)
        log = self._stack.enter_context(self._log.open("ab"))
        with uninterrupted() as let_through:

            def enter() -> None:  # between fork and exec; this process has one thread
                let_through()
                libc.prctl(_PR_SET_PDEATHSIG, stop, 0, 0, 0)

            process = subprocess.Popen(
                list(argv),
                stdin=subprocess.DEVNULL,
                stdout=stdout if stdout is not None else log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for us; we end the others in order
                preexec_fn=enter,  # noqa: PLW1509 - one thread here
            )
            self._stack.callback(_end, process, stop)
        return process

    def _start_controller(self) -> None:
        store = f"sqlite:{self._folder / 'policy.db'}"
        arguments = ["--listen", "127.0.0.1:0", "--store", store, "--report-interval", REPORT_INTERVAL, "--lease", "5s"]
        controller = self._spawn(
            [sys.executable, "-m", "utilctl_controller.main", *arguments], stop=signal.SIGTERM, stdout=subprocess.PIPE
        )
        assert controller.stdout is not None
        self._stack.callback(controller.stdout.close)
        readable, _, _ = select.select([controller.stdout], [], [], START_TIMEOUT_S)
        line = controller.stdout.readline().decode() if readable else ""
        if " listening on " not in line:
            raise FailedError(f"the controller did not start: {self._last_words()}")
        self.address = line.rsplit(" ", 1)[1].strip()

    def _start_workloads(self) -> dict[str, str]:
        """Start every service where it belongs; returns each host's scope."""
        journal = Journal.create(str(self._folder / "measure"), slots=64)  # groups want one; we only ever read them
        self._stack.callback(journal.close)
        if self.uses_cgroups:
            work = WorkCgroup(f"utilctl-demo-{os.getpid()}")
            self._stack.callback(work.remove)
            for see, hosts in PLACEMENT.items():
                for host in hosts:
                    folder = work.child(f"{host}/{see.replace('=', '-')}")
                    for _ in range(PROCESSES_EACH):
                        self._spin(see, host, folder)
                    self._add_group(see, host, CgroupGroup(folder, journal))
            return {host: f"cgroup:/{work.path.name}/{host}" for host in HOSTS}
        scopes: dict[str, str] = {}
        for host in HOSTS:
            parent, children = self._tree(host)
            scopes[host] = f"tree:{parent}"
            for see, pids in children.items():
                found = [identity for pid in pids if (identity := identify(pid)) is not None]
                self._add_group(see, host, ProcessGroup(found, journal))
        return scopes

    def _add_group(self, see: str, host: str, group: Group) -> None:
        self._groups[see, host] = group
        self._stack.callback(group.close)

    def _spin(self, see: str, host: str, folder: Path) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        cpu = self.cpus[host]

        with uninterrupted() as let_through:

            def enter() -> None:  # between fork and exec; this process has one thread
                let_through()
                libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
                (folder / "cgroup.procs").write_text("0")
                os.sched_setaffinity(0, {cpu})

            process = subprocess.Popen(
                [sys.executable, "-S", "-c", _SPIN],
                env={**os.environ, "UTILCTL_SEE": see},
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                preexec_fn=enter,  # noqa: PLW1509 - one thread here
            )
            self._stack.callback(_end, process, signal.SIGKILL)

    def _tree(self, host: str) -> tuple[int, dict[str, list[int]]]:
        """One parent for all processes of a host; returns its pid and the pids by service."""
        libc = ctypes.CDLL(None, use_errno=True)
        cpu = self.cpus[host]
        sees = [see for see, hosts in PLACEMENT.items() if host in hosts for _ in range(PROCESSES_EACH)]

        with uninterrupted() as let_through:

            def enter() -> None:  # between fork and exec; this process has one thread
                let_through()
                libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
                os.sched_setaffinity(0, {cpu})

            parent = subprocess.Popen(
                [sys.executable, "-S", str(Path(__file__).with_name("nursery.py")), *sees],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                start_new_session=True,
                preexec_fn=enter,  # noqa: PLW1509 - one thread here
            )
            self._stack.callback(_end, parent, signal.SIGTERM)
        assert parent.stdout is not None
        self._stack.callback(parent.stdout.close)
        children: dict[str, list[int]] = {}
        for see in sees:
            line = parent.stdout.readline()
            if not line:
                raise FailedError("a workload did not start")
            children.setdefault(see, []).append(int(line))
        return parent.pid, children

    def _start_agent(self, host: str, scope: str) -> None:
        arguments = ["--host", host, "--controller", self.address, "--scope", scope, "--cpus", str(self.cpus[host])]
        if not self.uses_cgroups:
            arguments += ["--mode", "signal"]
        self._spawn([sys.executable, "-m", "utilctl_agent.main", *arguments], stop=signal.SIGTERM)

    def _last_words(self) -> str:
        lines = self._log.read_text(errors="replace").strip().splitlines() if self._log.exists() else []
        return lines[-1] if lines else "it said nothing"


def _end(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """End a process that we started: politely if ``number`` is polite, for certain in any case."""
    if process.poll() is None:
        process.send_signal(number)
        deadline = time.monotonic() + 3.0
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        if process.poll() is None:
            process.kill()
    process.wait()
