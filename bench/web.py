"""A7: three web sites with pools of processes under load (ALPS paper, section 5).

Three gunicorn servers of 16 processes each on one CPU, 5 ms of CPU a request, shares 1 : 2 : 3; the load generator
(wrk, closed loop) runs on the other CPU. The same servers stay up while the means of control take turns. Published,
with 50 processes and 325 clients a site, 100 ms quantum: 29, 30, 40 requests/s uncontrolled, 18, 35, 53 under ALPS;
latency and total throughput are left out there. Beside it: the same at half load, where nobody is saturated.
"""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from bench import recorder
from bench.alps_run import AlpsProcess, Principal
from bench.harness import (
    CPU_SHARES_PER_SHARE,
    WORKLOADS,
    Case,
    cpu_share_groups,
    end,
    environment,
    has_kernel_shares,
    new_mark,
    other_cpu,
    sweep,
    test_cpu,
    unified_groups,
)
from bench.metrics import spread, worst_deviation_pct
from bench.plots import bars
from bench.recorder import Recorder

SHARES: Final = (1.0, 2.0, 3.0)
WORKERS: Final = 16
CONNECTIONS: Final = 32
THINKING_CONNECTIONS: Final = 12
"""At half load: fewer than processes, because a connection that thinks keeps its (synchronous) server process."""
SITE_CPU_MS: Final = 5.0
REQUEST_CPU_MS: Final = 5.7
"""With gunicorn's own part; only used to choose the think times of the half load."""
SETTLE_S: Final = 2.0
RUN_S: Final = 20.0
QUICK_RUN_S: Final = 6.0
KERNEL_DEFAULT_SHARES: Final = 1024
PUBLISHED_UNCONTROLLED: Final = (29, 30, 40)
PUBLISHED_ALPS: Final = (18, 35, 53)


@dataclass(frozen=True, slots=True)
class Site:
    """One running server: its port, its cgroups, and its first process."""

    port: int
    unified: Path
    cpu: Path
    master: int


@dataclass(frozen=True, slots=True)
class Control:
    """A means of control: kernel shares, or ``utilctl alps`` with these options."""

    kernel: bool = False
    algorithm: str | None = None
    quantum_ms: float = 10.0
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Load:
    """Connections a site, mean time that each thinks before a request by site (0: none), and for how long."""

    connections: int
    think_ms: tuple[float, ...]
    run_s: float


def missing() -> str | None:
    """What this experiment lacks here, as one sentence; None if it can run."""
    if shutil.which("wrk") is None or not _gunicorn().exists():
        return "it needs wrk and gunicorn: run tools/setup_bench.sh .venv"
    if not has_kernel_shares():
        return "it needs root and the version 1 cpu controller for its baseline"
    return recorder.refusal()


def cases(*, quick: bool) -> dict[str, Case]:
    """All sites saturated, and all at half of what their shares are worth. Nothing if something is missing."""
    why = missing()
    if why is not None:
        print(f"  web is left out: {why}")
        return {}
    run_s, repeats = (QUICK_RUN_S, 1) if quick else (RUN_S, 3)
    rates = [0.5 * 1000 / REQUEST_CPU_MS * share / sum(SHARES) for share in SHARES]
    think_ms = [1000 * THINKING_CONNECTIONS / rate for rate in rates]
    return {
        "saturated": partial(_case, Load(CONNECTIONS, (0.0,) * len(SHARES), run_s), repeats),
        "half load": partial(_case, Load(THINKING_CONNECTIONS, tuple(think_ms), run_s), repeats),
    }


def controls() -> dict[str, Control]:
    """Those that exist here; modes of ``utilctl alps`` as its help names them."""
    text = subprocess.run(
        [sys.executable, "-m", "utilctl_cli.main", "alps", "--help"], capture_output=True, text=True, check=True
    ).stdout
    listed = re.search(r"--mode \[([a-z0-9|-]+)\]", text)
    modes = [mode for mode in ("auto", "freezer") if listed and mode in listed[1].split("|")]
    found = {"uncontrolled": Control(), "kernel cpu.shares": Control(kernel=True)}
    for mode in modes or [""]:
        options = ("--mode", mode) if mode else ()
        found[f"utilctl {mode}".strip()] = Control(algorithm="default", options=options)
    found["paper's algorithm, 100 ms"] = Control(algorithm="paper", quantum_ms=100.0)
    return found


def _case(load: Load, repeats: int) -> dict[str, Any]:
    collected: dict[str, list[dict[str, Any]]] = {}
    with _sites(len(SHARES)) as sites:
        for _ in range(repeats):
            for name, control in controls().items():
                collected.setdefault(name, []).append(_one(sites, control, load))
    return {
        "shares": SHARES,
        "connections": load.connections,
        "workers": WORKERS,
        "think_ms": [round(value) for value in load.think_ms],
        "controls": {name: _summary(runs) for name, runs in collected.items()},
    }


def _one(sites: Sequence[Site], control: Control, load: Load) -> dict[str, Any]:
    """One run of all three loads under one control."""
    run_s = load.run_s
    with Recorder(other_cpu()) as recorded, ExitStack() as stack:
        if control.kernel:
            for site, share in zip(sites, SHARES, strict=True):
                _set_shares(site, round(share * CPU_SHARES_PER_SHARE))
                stack.callback(_set_shares, site, KERNEL_DEFAULT_SHARES)
        alps: AlpsProcess | None = None
        if control.algorithm is not None:
            # The sites' cgroups in the hierarchy that has what the mode needs; auto gets the one with weights.
            weighed = control.options[-1:] in (("auto",), ("weight",))
            folders = [site.cpu if weighed else site.unified for site in sites]
            principals = [Principal(share, cgroup=folder) for share, folder in zip(SHARES, folders, strict=True)]
            alps = AlpsProcess(
                principals,
                control.algorithm,
                control.quantum_ms,
                duration_s=run_s + 2 * SETTLE_S,
                options=control.options,
            )
            stack.enter_context(alps)
            time.sleep(SETTLE_S)
        start_ns = time.monotonic_ns()
        clients = [
            stack.enter_context(_client(site, load.connections, think_ms, run_s))
            for site, think_ms in zip(sites, load.think_ms, strict=True)
        ]
        answers = [json.loads(client.communicate(timeout=run_s + 60)[0].splitlines()[-1]) for client in clients]
        window = [start_ns, start_ns + round(run_s * 1e9)]
        result = alps.wait(run_s + 60) if alps is not None else None
        masters = [site.master for site in sites]
        workers = [[int(pid) for pid in (site.unified / "cgroup.procs").read_text().split()] for site in sites]
    recording = recorded.recording()
    families = [recording.family([master, *pids]) for master, pids in zip(masters, workers, strict=True)]
    used = [recording.cpu_ns(family, window)[0] for family in families]
    return {
        "answers": answers,
        "cpu_fractions": [value / max(1, sum(used)) for value in used],
        "cpu_used_pct": 100 * sum(used) / (window[1] - window[0]),
        "cpu_deviation_pct": worst_deviation_pct(used, SHARES),
        "overhead_pct": result.json["overhead_pct"] if result is not None else None,
        "mechanism": result.json["mechanism"] if result is not None else None,
    }


def _summary(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Spread over repeats of every figure."""

    def over(figure: Callable[[dict[str, Any]], float]) -> dict[str, float]:
        return {name: round(value, 3) for name, value in spread([figure(run) for run in runs]).as_dict().items()}

    def rate(answer: dict[str, Any]) -> float:
        return float(answer["requests"]) * 1e6 / float(answer["duration_us"])

    sites = [
        {
            "requests_per_s": over(lambda run, i=index: rate(run["answers"][i])),  # type: ignore[misc]  # bound early
            "cpu_fraction": over(lambda run, i=index: run["cpu_fractions"][i]),  # type: ignore[misc]  # bound early
            **{
                f"{p}_ms": over(lambda run, i=index, p=p: run["answers"][i][f"{p}_us"] / 1000)  # type: ignore[misc]  # bound early
                for p in ("p50", "p95", "p99", "max")
            },
            "errors": sum(run["answers"][index]["errors"] for run in runs),
        }
        for index in range(len(SHARES))
    ]
    summary: dict[str, Any] = {
        "sites": sites,
        "total_requests_per_s": over(lambda run: sum(rate(answer) for answer in run["answers"])),
        "cpu_used_pct": over(lambda run: run["cpu_used_pct"]),
        "cpu_deviation_pct": over(lambda run: run["cpu_deviation_pct"]),
        "mechanism": runs[0]["mechanism"],
    }
    if runs[0]["overhead_pct"] is not None:
        summary["overhead_pct"] = over(lambda run: run["overhead_pct"])
    return summary


@contextmanager
def _sites(count: int) -> Iterator[list[Site]]:
    """Running servers on the CPU under test, each in cgroups of its own."""
    mark = new_mark()
    with ExitStack() as stack:
        unified = stack.enter_context(unified_groups(count))
        cpu = stack.enter_context(cpu_share_groups([None] * count))
        stack.callback(sweep, mark)
        sites: list[Site] = []
        for v2, v1 in zip(unified, cpu, strict=True):
            port = free_port()
            master = stack.enter_context(_server(port, v2, v1, mark))
            sites.append(Site(port, v2, v1, master.pid))
        for site in sites:
            _await(site.port)
        yield sites


@contextmanager
def _server(port: int, unified: Path, cpu: Path, mark: str) -> Iterator[subprocess.Popen[bytes]]:
    join = f"echo $$ > {unified}/cgroup.procs; echo $$ > {cpu}/cgroup.procs; exec taskset -c {test_cpu()}"
    arguments = (
        f"-w {WORKERS} -b 127.0.0.1:{port} --graceful-timeout 1 --timeout 120 --log-level error --no-control-socket"
    )
    command = f"{join} {_gunicorn()} {arguments} --chdir {WORKLOADS} website:application"
    variables = {**environment(mark), "SITE_CPU_MS": str(SITE_CPU_MS)}
    process = subprocess.Popen(["/bin/sh", "-c", command], env=variables, start_new_session=True)
    try:
        yield process
    finally:
        end(process)


@contextmanager
def _client(site: Site, connections: int, think_ms: float, run_s: float) -> Iterator[subprocess.Popen[str]]:
    argv = ["taskset", "-c", str(other_cpu()), "wrk", "-t", "1", "-c", str(connections), "-d", f"{run_s:g}s"]
    argv += ["--timeout", "60s", "-s", str(WORKLOADS / "load.lua"), f"http://127.0.0.1:{site.port}/", "--"]
    process = subprocess.Popen([*argv, f"{think_ms:g}"], stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        yield process
    finally:
        end(process)
        if process.stdout is not None:
            process.stdout.close()


def _set_shares(site: Site, value: int) -> None:
    (site.cpu / "cpu.shares").write_text(str(value))


def _gunicorn() -> Path:
    return Path(sys.executable).with_name("gunicorn")


def free_port() -> int:
    """A port on the loopback address that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _await(port: int) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
                connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
                if connection.recv(64).startswith(b"HTTP/1."):
                    return
        except OSError:
            time.sleep(0.1)
    raise RuntimeError("a web server did not start in time")


def plot(results: dict[str, Any], path: Path) -> None:
    """Tail latency by site and control when saturated."""
    controlled = results.get("saturated", {}).get("controls", {})
    series = {
        name: {
            f"share {share:g}\n{p}": figures["sites"][index][f"{p}_ms"]["median"]
            for index, share in enumerate(SHARES)
            for p in ("p50", "p99")
        }
        for name, figures in controlled.items()
    }
    bars(path, series, title="Latency of three saturated web sites, shares 1 : 2 : 3", ylabel="ms")
