"""What an agent takes of memory on a node with pods: all its processes together, proportional set size.

A real agent with everything switched on that the chart can: pods followed over TLS by an API server double, metrics
served for Prometheus and sent by OTLP, traces, health. So many pods with a process each, every one a service.
"""

from __future__ import annotations

import array
import contextlib
import os
import subprocess
import tempfile
import time
import uuid
from functools import partial
from pathlib import Path
from typing import Any, Final

from bench.harness import Case
from bench.plots import bars
from support.agents import agent
from support.controller_server import RunningController
from support.etcd_server import free_port
from support.otlp_collector import OtlpCollector
from support.pod_api import PodServer, certificate
from support.processes import remove_cgroup, temporary_cgroup, wait_until
from utilctl_controller.store.sqlite import SqliteStore
from utilctl_proto.v1 import control_pb2

GOAL_MB: Final = 70.0
NODE: Final = "node-1"
CHART: Final = ("--kubernetes", "--metrics=127.0.0.1:{}", "--health=127.0.0.1:{}")
SETTLE_S: Final = 15.0
PODS: Final = (10, 100)
PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
PRESENT: Final = 1 << 63
FRAME: Final = (1 << 55) - 1
"""Of an entry of /proc/PID/pagemap, see the kernel's Documentation/admin-guide/mm/pagemap.rst."""


def cases(*, quick: bool) -> dict[str, Case]:
    """By number of pods, and one without any of it."""
    settle_s = 5.0 if quick else SETTLE_S
    found: dict[str, Case] = {"100 services, nothing switched on": partial(_case, 100, settle_s, (), otlp=False)}
    found["100 pods, as the chart runs it"] = partial(_case, 100, settle_s, CHART, otlp=False)
    found |= {f"{pods} pods, and OTLP": partial(_case, pods, settle_s, CHART, otlp=True) for pods in PODS}
    return found


def _case(pods: int, settle_s: float, switched_on: tuple[str, ...], *, otlp: bool) -> dict[str, Any]:
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="utilctl-bench-")))
        (folder / "api").mkdir()
        controller = stack.enter_context(RunningController(SqliteStore(folder / "policy.db")))
        tls = certificate(folder / "api")
        server = stack.enter_context(PodServer(folder / "api", tls=tls, token="token"))
        collector = stack.enter_context(OtlpCollector())
        base = stack.enter_context(temporary_cgroup())
        stack.callback((base / "cgroup.kill").write_text, "1")
        for number in range(pods):
            controller.set_share(f"svc=s{number}", 1)
            _pod(base, number, server, stack)
        options = [option.format(free_port()) for option in switched_on]
        environment = {"KUBECONFIG": str(server.kubeconfig), "NODE_NAME": NODE, "KUBERNETES_SERVICE_HOST": ""}
        environment |= collector.environment if otlp else {}
        with agent(controller, f"cgroup:/{base.name}", *options, environment=environment) as running:
            wait_until(lambda: _reported(controller) == pods, "all services are reported")
            time.sleep(settle_s)
            pids = {running.process.pid, *running.processes()}
            parts = {_part(pid): _pss_mb(pid) for pid in pids}
            alone_mb = _alone_mb(pids)
            running.process.terminate()
            running.wait()
    total = sum(parts.values())
    goal = GOAL_MB if switched_on else None
    return {"pods": pods, "total_mb": round(total, 1), "goal_mb": goal, "alone_mb": alone_mb, "parts_mb": parts}


def _pod(base: Path, number: int, server: PodServer, stack: contextlib.ExitStack) -> None:
    uid = str(uuid.uuid4())
    server.put(uid, f"p-{number}", {"svc": f"s{number}"}, node=NODE)
    path = base
    for part in ("kubepods", "burstable", f"pod{uid}", uuid.uuid4().hex * 2):
        path = path / part
        if not path.exists():
            path.mkdir()
            stack.callback(remove_cgroup, path)
    process = subprocess.Popen(["sleep", "600"], env={**os.environ, "UTILCTL_SEE": f"svc=s{number}"})
    (path / "cgroup.procs").write_text(str(process.pid))
    stack.callback(process.wait)
    stack.callback(process.kill)


def _reported(controller: RunningController) -> int:
    hosts = controller.control.ListHosts(control_pb2.ListHostsRequest()).hosts
    return sum(host.sees for host in hosts)


def _part(pid: int) -> str:
    words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
    names = [word.rpartition(".")[2] for word in words if word.startswith("utilctl_agent")]
    return names[0] if names else f"pid {pid}"


def _pss_mb(pid: int) -> float:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return round(next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) * 1024 / 1e6, 1)


def _alone_mb(pids: set[int]) -> float | None:
    """Memory in which any of these has a part, each page once: what they would take if nobody shared it with them.

    Of pages of libraries only those count that they have touched. None without the right to know (CAP_SYS_ADMIN).
    """
    frames: set[int] = set()
    for pid in pids:
        with Path(f"/proc/{pid}/pagemap").open("rb") as pagemap:
            for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
                begin, _, end = line.split()[0].partition("-")
                first, last = int(begin, 16) // PAGE_BYTES, int(end, 16) // PAGE_BYTES
                if "[vsyscall]" in line:
                    continue
                pagemap.seek(8 * first)
                entries = array.array("Q", pagemap.read(8 * (last - first)))
                frames.update(entry & FRAME for entry in entries if entry & PRESENT)
    frames.discard(0)  # all of them, for those who may not know
    return round(len(frames) * PAGE_BYTES / 1e6, 1) if frames else None


def plot(results: dict[str, Any], path: Path) -> None:
    """By part."""
    names = {part for row in results.values() for part in row["parts_mb"]}
    series = {part: {name: row["parts_mb"].get(part, 0.0) for name, row in results.items()} for part in sorted(names)}
    bars(path, series, title="Memory of an agent", ylabel="MB, proportional")
