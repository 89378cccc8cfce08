"""Real servers of transactions on the CPU under test, an open load from the other one, and who controls them.

A workload is one process that serves its transactions one after the other. It stands in a cgroup of version 1 (for
kernel shares, weights and quotas) and in one of version 2 (for pauses); groups of workloads are cgroups around those.
The same processes stay while the means of control take turns.
"""

from __future__ import annotations

import array
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from bench.alps_run import AlpsProcess, Principal
from bench.harness import (
    CPU_CONTROLLER,
    CPU_SHARES_PER_SHARE,
    WORKLOADS,
    cpu_share_groups,
    end,
    environment,
    new_mark,
    other_cpu,
    sweep,
    test_cpu,
    unified_root,
)
from bench.recorder import Recorder
from bench.recording import IDLE_PID, Recording
from bench.transaction_streams import Stream, schedule
from utilctl_agent import Sandbox
from utilctl_common.responsetime import Node

SETTLE_S: Final = 2.0
"""From the start of a means of control to the first transaction."""
LEAD_S: Final = 0.3
"""For the load generator to start."""
DRAIN_S: Final = 60.0
"""How long the last transactions may take after all have arrived."""
POLL_S: Final = 0.1
QUANTUM_MS: Final = 10.0
QUOTA_PERIOD_US: Final = 100_000
"""The kernel's default."""
LARGEST_KERNEL_SHARES: Final = 262_144
SMALLEST_KERNEL_SHARES: Final = 2
KERNEL_DEFAULT_SHARES: Final = 1024
BYTES: Final = 8


@dataclass(frozen=True, slots=True)
class Server:
    """One workload: its process, the FIFO that it reads, and the file with the instants at which it was done."""

    pid: int
    requests: Path
    ends: Path


@dataclass(frozen=True, slots=True)
class Servers:
    """All workloads in the order of the tree, and the cgroups of workloads and groups by name."""

    nodes: tuple[Node, ...]
    servers: tuple[Server, ...]
    cpu: Mapping[str, Path]
    unified: Mapping[str, Path]


@dataclass(slots=True)
class Said:
    """What a means of control says of itself when it is over."""

    overhead_pct: float | None = None
    mechanism: str | None = None


Control = Callable[[Servers, float], AbstractContextManager[Said]]
"""Controls the servers for a run of so many seconds and the time around it."""


@dataclass(frozen=True, slots=True)
class Served:
    """One run: when each transaction was done, by workload (ns after the start), and what the recorder saw."""

    ends_ns: list[list[int]]
    used: list[float]
    """CPU time by the recorder over what was asked for, by workload; until all was done."""
    others_pct: float
    """Of the CPU under test, used by anybody else: control, kernel, strangers."""
    late_us: list[int]
    """How late transactions were sent: median, 99th percentile, longest."""
    said: Said = field(default_factory=Said)


@contextmanager
def running(nodes: Sequence[Node]) -> Iterator[Servers]:
    """A server for each leaf of these trees; they and their cgroups go away afterwards."""
    mark, root = new_mark(), unified_root()
    if root is None:
        raise RuntimeError("cgroup version 2 is not mounted, or not writable here")
    with tempfile.TemporaryDirectory(prefix="utilctl-bench-") as folder, ExitStack() as stack:
        cpu, unified = (_groups(nodes, top, stack) for top in (CPU_CONTROLLER, root))
        stack.callback(sweep, mark)
        leaves = [leaf for node in nodes for leaf in node.leaves()]
        started = [
            stack.enter_context(_server(Path(folder, str(place)), unified[leaf.name], cpu[leaf.name], mark))
            for place, leaf in enumerate(leaves)
        ]
        deadline = time.monotonic() + DRAIN_S
        while not all(server.ends.exists() for server in started):
            if time.monotonic() > deadline:
                raise RuntimeError("a server of transactions did not start")
            time.sleep(POLL_S)
        yield Servers(tuple(nodes), tuple(started), cpu, unified)


def _groups(nodes: Sequence[Node], root: Path, stack: ExitStack) -> dict[str, Path]:
    """A cgroup for each node, those of children inside."""
    found: dict[str, Path] = {}
    for node, folder in zip(nodes, stack.enter_context(cpu_share_groups([None] * len(nodes), root)), strict=True):
        found[node.name] = folder
        if node.children:
            found |= _groups(node.children, folder, stack)
    return found


@contextmanager
def _server(stem: Path, unified: Path, cpu: Path, mark: str) -> Iterator[Server]:
    requests, ends = stem.with_suffix(".requests"), stem.with_suffix(".ends")
    os.mkfifo(requests)
    # Open for both directions: the server never sees the end when a load generator leaves.
    ours = os.open(requests, os.O_RDWR)
    join = f"echo $$ > {unified}/cgroup.procs; echo $$ > {cpu}/cgroup.procs; exec taskset -c {test_cpu()}"
    command = f"{join} {sys.executable} -S {WORKLOADS / 'server.py'} {requests} {ends}"
    process = subprocess.Popen(["/bin/sh", "-c", command], env=environment(mark), start_new_session=True)
    try:
        yield Server(process.pid, requests, ends)
    finally:
        end(process)
        os.close(ours)


def serve(servers: Servers, streams: Sequence[Stream], control: Control, run_s: float) -> Served:
    """Let the servers serve these transactions under this control. Raises RuntimeError if they do not get done."""
    before = [_done(server) for server in servers.servers]
    wanted = [count + len(stream.arrivals_ns) for count, stream in zip(before, streams, strict=True)]
    with Recorder(other_cpu()) as recorded, control(servers, run_s) as said:
        time.sleep(SETTLE_S)
        start_ns, late_us = _send(servers, streams)
        deadline = time.monotonic() + run_s + DRAIN_S
        while any(_done(server) < count for server, count in zip(servers.servers, wanted, strict=True)):
            if time.monotonic() > deadline:
                raise RuntimeError(f"transactions were not done {DRAIN_S:g} s after the last had arrived")
            time.sleep(POLL_S)
    ends_ns = [
        [instant - start_ns for instant in _ends(server)[count:]]
        for server, count in zip(servers.servers, before, strict=True)
    ]
    edges = [start_ns, start_ns + max(ends[-1] for ends in ends_ns)]
    recording = recorded.recording()
    used = [
        recording.cpu_ns({server.pid}, edges)[0] / sum(stream.services_ns)
        for server, stream in zip(servers.servers, streams, strict=True)
    ]
    pids = {server.pid for server in servers.servers}
    return Served(ends_ns, used, _others_pct(recording, pids, edges), late_us, said)


def _send(servers: Servers, streams: Sequence[Stream]) -> tuple[int, list[int]]:
    """Have all transactions sent; the instant that arrivals count from, and how late they were."""
    with tempfile.NamedTemporaryFile("w", prefix="utilctl-bench-") as file:
        file.writelines(f"{arrival_ns} {place} {service_ns}\n" for arrival_ns, place, service_ns in schedule(streams))
        file.flush()
        start_ns = time.monotonic_ns() + round(LEAD_S * 1e9)
        # Ahead of whoever else is on that CPU: a transaction that is sent late was not late in arriving.
        argv = [
            "chrt",
            "-f",
            "50",
            "taskset",
            "-c",
            str(other_cpu()),
            sys.executable,
            "-S",
            str(WORKLOADS / "arrivals.py"),
            file.name,
        ]
        argv += [str(start_ns), *(str(server.requests) for server in servers.servers)]
        process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, start_new_session=True)
        try:
            told, _ = process.communicate()
        finally:
            end(process)
    if process.returncode != 0:
        raise RuntimeError("the load generator failed; see above")
    return start_ns, [int(number) for number in told.split()]


def _done(server: Server) -> int:
    return server.ends.stat().st_size // BYTES


def _ends(server: Server) -> list[int]:
    instants = array.array("q")
    instants.frombytes(server.ends.read_bytes())
    return instants.tolist()


def _others_pct(recording: Recording, pids: set[int], edges_ns: Sequence[int]) -> float:
    everybody = {int(pid) for pid in recording.runs[test_cpu()].pid} - pids - {IDLE_PID}
    return 100 * recording.cpu_ns(everybody, edges_ns, [test_cpu()])[0] / (edges_ns[1] - edges_ns[0])


# -- means of control ---------------------------------------------------------------------------------------------


@contextmanager
def uncontrolled(servers: Servers, run_s: float) -> Iterator[Said]:
    """As the kernel does by itself: all processes alike."""
    yield Said()


@contextmanager
def kernel_shares(servers: Servers, run_s: float) -> Iterator[Said]:
    """The kernel's cpu.shares, in the tree as it is."""
    with ExitStack() as stack:
        _share(servers, servers.nodes, stack)
        yield Said()


def _share(servers: Servers, nodes: Sequence[Node], stack: ExitStack) -> None:
    scale = min(float(CPU_SHARES_PER_SHARE), LARGEST_KERNEL_SHARES / max(node.share for node in nodes))
    for node in nodes:
        file = servers.cpu[node.name] / "cpu.shares"
        file.write_text(str(max(SMALLEST_KERNEL_SHARES, round(scale * node.share))))
        stack.callback(file.write_text, str(KERNEL_DEFAULT_SHARES))
        if node.children:
            _share(servers, node.children, stack)


@contextmanager
def kernel_quota(servers: Servers, run_s: float) -> Iterator[Said]:
    """The kernel's quotas in place of caps."""
    with ExitStack() as stack:
        for node in servers.nodes:
            assert node.reserved_cores is not None
            file = servers.cpu[node.name] / "cpu.cfs_quota_us"
            file.write_text(str(round(node.reserved_cores * QUOTA_PERIOD_US)))
            stack.callback(file.write_text, "-1")
        yield Said()


@contextmanager
def sandbox(servers: Servers, run_s: float) -> Iterator[Said]:
    """``utilctl sandbox`` on each process."""
    with ExitStack() as stack:
        boxes = []
        for node, server in zip(servers.nodes, servers.servers, strict=True):
            assert node.reserved_cores is not None
            boxes.append(stack.enter_context(Sandbox(node.reserved_cores, pid=server.pid, cpus=[test_cpu()])))
        said = Said(mechanism="sandbox")
        yield said
        reports = [box.report() for box in boxes]
        said.overhead_pct = sum(100 * report.own_cpu_s / report.wall_s for report in reports)


def alps(mode: str) -> Control:
    """``utilctl alps`` in this mode on all workloads side by side, with their shares as they are written."""

    @contextmanager
    def control(servers: Servers, run_s: float) -> Iterator[Said]:
        leaves = [leaf for node in servers.nodes for leaf in node.leaves()]
        with _alps(mode, servers, leaves, run_s) as said:
            yield said

    return control


@contextmanager
def nested_alps(servers: Servers, run_s: float) -> Iterator[Said]:
    """One ``utilctl alps`` for each level: that of a group inside what the one around it leaves the group."""
    with ExitStack() as stack:
        said = stack.enter_context(_alps("freezer", servers, servers.nodes, run_s))
        for node in servers.nodes:
            if node.children:
                stack.enter_context(_alps("freezer", servers, node.children, run_s))
        yield said


@contextmanager
def _alps(mode: str, servers: Servers, nodes: Sequence[Node], run_s: float) -> Iterator[Said]:
    folders = servers.cpu if mode == "weight" else servers.unified
    principals = [Principal(node.share, cgroup=folders[node.name]) for node in nodes]
    lasts_s = SETTLE_S + LEAD_S + run_s
    run = AlpsProcess(principals, "default", QUANTUM_MS, duration_s=lasts_s, options=("--mode", mode))
    said = Said()
    with run:
        yield said
        found: dict[str, Any] = run.wait(DRAIN_S + lasts_s).json
        said.overhead_pct, said.mechanism = found["overhead_pct"], found["mechanism"]
