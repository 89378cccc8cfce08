"""Runs of ``utilctl alps`` as a user starts it, and what its cycle log and the independent recorder say of them."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from bench import recorder
from bench.harness import end, environment, kernel_shares, new_mark, other_cpu, sweep, test_cpu
from bench.metrics import mean_error_pct, rounded, sums, worst_deviation_pct
from bench.recorder import Recorder
from bench.recording import Recording

FIRST_CYCLE: Final = 1
"""The log states ends only, so the first cycle has no known beginning and is left out of all comparisons."""
POLL_S: Final = 0.5
"""How often a running ``utilctl alps`` is looked at; on the CPU that is not under test, where there is one."""
START_POLL_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class Principal:
    """A share and what gets it: a shell command, processes that run already, or a version 2 cgroup."""

    share: float
    command: str = ""
    pids: tuple[int, ...] = ()
    cgroup: Path | None = None


@dataclass(frozen=True, slots=True)
class AlpsResult:
    """One finished run: the JSON result, the cycle log, and which processes were whose."""

    json: dict[str, Any]
    shares: tuple[float, ...]
    ends_ns: list[int]
    logged_ns: list[tuple[int, ...]]
    roots: list[tuple[int, ...]]  # by principal, the processes it began with
    cli_pid: int

    def since(self, start_ns: int) -> AlpsResult:
        """Without what happened before ``start_ns``; the first cycle that ends after it only marks the beginning."""
        kept = [index for index, end_ns in enumerate(self.ends_ns) if end_ns >= start_ns]
        return replace(self, ends_ns=[self.ends_ns[i] for i in kept], logged_ns=[self.logged_ns[i] for i in kept])

    def recorded_ns(self, recording: Recording) -> list[tuple[int, ...]]:
        """What the recorder saw each principal consume between the ends of the logged cycles."""
        edges = self.ends_ns[FIRST_CYCLE - 1 :]
        columns = [recording.cpu_ns(recording.family(roots), edges) for roots in self.roots]
        return list(zip(*columns, strict=True))

    def overhead_recorded_pct(self, recording: Recording) -> float | None:
        """CPU time of utilctl's processes between the first and the last cycle end, percent of one CPU."""
        if len(self.ends_ns) < 2:
            return None
        workload = {pid for roots in self.roots for pid in roots}
        edges = [self.ends_ns[0], self.ends_ns[-1]]
        own_ns = recording.cpu_ns(recording.family([self.cli_pid], without=workload), edges)[0]
        return 100 * own_ns / (edges[1] - edges[0])

    def figures(self, recording: Recording | None) -> dict[str, float | None]:
        """Accuracy and overhead, by utilctl's own account and by the recorder's."""
        logged = self.logged_ns[FIRST_CYCLE:]
        figures = {
            "error_pct": self.json["rms_relative_error_pct"],
            "error_log_pct": mean_error_pct(logged, self.shares),
            "long_run_deviation_pct": worst_deviation_pct([p["cpu_s"] for p in self.json["principals"]], self.shares),
            "overhead_pct": self.json["overhead_pct"],
            "wakeups_per_s": self.json["wakeups_per_s"],
        }
        if recording is not None and len(self.ends_ns) > FIRST_CYCLE:
            recorded = self.recorded_ns(recording)
            error = mean_error_pct(recorded, self.shares)
            figures["error_recorded_pct"] = error
            figures["recorded_minus_log_pct"] = error - figures["error_log_pct"] if error is not None else None
            figures["long_run_deviation_recorded_pct"] = worst_deviation_pct(sums(recorded), self.shares)
            figures["overhead_recorded_pct"] = self.overhead_recorded_pct(recording)
        return {name: rounded(value) for name, value in figures.items()}


@dataclass(slots=True)
class AlpsProcess:
    """A running ``utilctl alps``. Leaving the context ends it, and whatever it should have ended."""

    principals: Sequence[Principal]
    algorithm: str
    quantum_ms: float
    cycles: int | None = None
    duration_s: float | None = None
    cpus: str = ""  # default: the CPU under test
    options: Sequence[str] = ()
    _mark: str = field(init=False, default_factory=new_mark)
    _folder: tempfile.TemporaryDirectory[str] = field(init=False)
    _process: subprocess.Popen[str] | None = field(init=False, default=None)
    _controlled: bool = field(init=False, default=False)
    _started: bool = field(init=False, default=False)

    def __enter__(self) -> AlpsProcess:
        self._folder = tempfile.TemporaryDirectory(prefix="utilctl-bench-")
        argv = [sys.executable, "-m", "utilctl_cli.main", "alps", "-o", "json", *self.options]
        argv += ["--algorithm", self.algorithm, "--quantum", f"{self.quantum_ms:g}ms"]
        argv += ["--cpus", self.cpus or str(test_cpu()), "--cycle-log", str(self._file("cycles.csv"))]
        if self.cycles is not None:
            argv += ["--cycles", str(self.cycles)]
        if self.duration_s is not None:
            argv += ["--duration", f"{self.duration_s:g}s"]
        for index, principal in enumerate(self.principals):
            if principal.cgroup is not None:
                argv += ["--groups", f"{principal.share:g}:cgroup:{principal.cgroup}"]
            elif principal.pids:
                argv += ["--pids", f"{principal.share:g}:{','.join(map(str, principal.pids))}"]
            else:
                mark = f"echo $$ > {self._file(f'p{index}.pid')}"
                argv += ["--run", f"{principal.share:g}:{mark}; {principal.command}"]
        # A session of its own: Ctrl-C reaches it through us, once, and never halfway into its clean-up.
        self._process = subprocess.Popen(
            argv,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(self._mark),
            start_new_session=True,
        )
        return self

    @property
    def pid(self) -> int:
        """Of the command line program."""
        assert self._process is not None
        return self._process.pid

    def wait(self, timeout_s: float) -> AlpsResult:
        """Until it is done. Raises RuntimeError if it fails or takes longer."""
        assert self._process is not None
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                output, errors = self._process.communicate(timeout=POLL_S if self._started else START_POLL_S)
                break
            except subprocess.TimeoutExpired:
                if time.monotonic() > deadline:
                    raise RuntimeError(f"utilctl alps did not end in {timeout_s:g} s") from None
                if self._started:
                    self._hasten()
                else:
                    self._started = all(self._roots(index) for index in range(len(self.principals)))
        if self._process.returncode != 0:
            raise RuntimeError(f"utilctl alps failed: {errors.strip()}")
        with self._file("cycles.csv").open(newline="") as file:
            rows = [[int(value) for value in row] for row in list(csv.reader(file))[1:]]
        return AlpsResult(
            json=json.loads(output),
            shares=tuple(principal.share for principal in self.principals),
            ends_ns=[row[1] for row in rows],
            logged_ns=[tuple(row[2:]) for row in rows],
            roots=[self._roots(index) for index in range(len(self.principals))],
            cli_pid=self.pid,
        )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        process = self._process
        if process is not None:
            end(process, signal.SIGINT)
            for stream in (process.stdout, process.stderr):
                if stream is not None:
                    stream.close()
        left = sweep(self._mark)
        self._folder.cleanup()
        if left and kind is None:
            raise RuntimeError(f"utilctl alps left {left} processes running; they were killed")

    def _hasten(self) -> None:
        """End the workloads ourselves once control is over.

        ``utilctl alps`` gives each of them time to end in peace, one after the other; beside hundreds of spinners on
        one CPU that takes minutes in which nothing is measured. Control is over when its only children are workloads.
        """
        assert self._process is not None
        workloads = {pid for index, principal in enumerate(self.principals) if principal.command
                     for pid in self._roots(index)}  # fmt: skip
        try:
            listed = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        except OSError:
            return
        children = {int(pid) for pid in listed}
        if children - workloads:
            self._controlled = True
        elif self._controlled:
            for pid in children:  # each leads a process group
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(pid, signal.SIGKILL)

    def _file(self, name: str) -> Path:
        return Path(self._folder.name, name)

    def _roots(self, index: int) -> tuple[int, ...]:
        principal = self.principals[index]
        if principal.cgroup is not None:
            try:
                return tuple(int(pid) for pid in (principal.cgroup / "cgroup.procs").read_text().split())
            except OSError:
                return ()
        if principal.pids:
            return principal.pids
        try:
            return (int(self._file(f"p{index}.pid").read_text()),)
        except (OSError, ValueError):
            return ()


def alps(
    principals: Sequence[Principal],
    *,
    algorithm: str,
    quantum_ms: float,
    cycles: int,
    cpus: str = "",
    timeout_s: float = 600.0,
) -> dict[str, float | None]:
    """One run under the recorder, reduced to its figures.

    ``algorithm`` is one of ``utilctl alps``, or ``kernel``: cgroups with kernel cpu.shares, measured over the same
    cycle lengths; only for commands.
    """
    if algorithm == "kernel":
        with kernel_shares([p.share for p in principals], command="") as prefixes:
            grouped = [Principal(p.share, prefix + p.command) for p, prefix in zip(principals, prefixes, strict=True)]
            return alps(grouped, algorithm="none", quantum_ms=quantum_ms, cycles=cycles, cpus=cpus, timeout_s=timeout_s)
    run = AlpsProcess(principals, algorithm, quantum_ms, cycles, cpus=cpus)
    if recorder.refusal() is not None:
        with run:
            return run.wait(timeout_s).figures(None)
    with Recorder(other_cpu()) as recorded, run:
        result = run.wait(timeout_s)
    return result.figures(recorded.recording())
