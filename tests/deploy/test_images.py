"""The images in real containers, run with the very security context that the chart gives them."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from support.containers import BASE, NO_PODMAN, RUN, as_options, build, container, inspected, podman, possible
from support.etcd_server import free_port
from support.helm import NO_HELM, helm, only, render
from support.pod_api import PodServer
from support.processes import SPIN, wait_until
from utilctl_agent.discovery.cgroupfs import parse_cgroups
from utilctl_cli.client import ControllerClient
from utilctl_common.quantities import NS_PER_S

pytestmark = [
    pytest.mark.podman,
    pytest.mark.helm,
    pytest.mark.kernel,
    pytest.mark.root,
    pytest.mark.quiet,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not possible(), reason=NO_PODMAN),
    pytest.mark.skipif(helm() is None, reason=NO_HELM),
]

NODE = "node-1"
SHARES = {"web": 3, "etl": 2, "batch": 1}
RUN_S = 5.0


@pytest.fixture(scope="module")
def images() -> dict[str, str]:
    return {target: build(target) for target in ("agent", "controller")}


def substituted(arguments: list[str], environment: Mapping[str, str]) -> list[str]:
    """Arguments with $(NAME) as Kubernetes puts it in."""
    return [re.sub(r"\$\((\w+)\)", lambda name: environment[name[1]], argument) for argument in arguments]


def spec_of(kind: str, *settings: str) -> dict[str, Any]:
    spec = only(render(*settings), kind)["spec"]["template"]["spec"]
    assert isinstance(spec, dict)
    return spec


@contextlib.contextmanager
def controller_container(image: str, folder: Path) -> Iterator[str]:
    """The controller as the chart runs it, on a store of its own; its address."""
    spec = spec_of("Deployment", "store.kind=sqlite", "controller.replicas=1", "reportInterval=200ms")
    port = free_port()
    arguments = substituted(spec["containers"][0]["args"], {"POD_IP": "127.0.0.1"})
    arguments = [argument.replace(":7400", f":{port}").replace("0.0.0.0", "127.0.0.1") for argument in arguments]
    folders = {name: folder / name for name in ("tmp", "policy")}
    for path in folders.values():
        path.mkdir()
        path.chmod(0o777)
    folder.chmod(0o755)
    with container(image, arguments, ["--network", "host", *as_options(spec, folders)]) as identity:
        address = f"127.0.0.1:{port}"

        def serves() -> bool:
            assert inspected(identity)["State"]["Running"], podman("logs", identity)
            with contextlib.suppress(Exception):
                ControllerClient((address,), NS_PER_S).services()
                return True
            return False

        wait_until(serves, "the controller serves")
        yield address


@contextlib.contextmanager
def agent_container(image: str, address: str, server: PodServer, run_dir: Path) -> Iterator[str]:
    """The agent as the chart runs it; its container."""
    spec = spec_of("DaemonSet", "agent.extraArgs={--cpus=0}")
    health = free_port()
    environment = {"NODE_NAME": NODE, "NODE_IP": "127.0.0.1"}
    arguments = [
        f"--controller={address}" if argument.startswith("--controller=") else argument.replace(":7401", f":{health}")
        for argument in substituted(spec["containers"][0]["args"], environment)
    ]
    temporary = run_dir / "tmp"
    temporary.mkdir(exist_ok=True)
    options = as_options(spec, {"cgroup": Path("/sys/fs/cgroup"), "journal": run_dir, "tmp": temporary})
    options += ["--network", "host", "--env", f"NODE_NAME={NODE}", "--env", "KUBECONFIG=/etc/kubeconfig"]
    options += ["--volume", f"{server.kubeconfig}:/etc/kubeconfig:ro"]
    with container(image, arguments, options) as identity:
        yield identity


class Pods:
    """A container each that spins on one CPU, in cgroups named as a kubelet names them."""

    def __init__(self, server: PodServer, stack: contextlib.ExitStack) -> None:
        self.pids: dict[str, int] = {}
        for name in SHARES:
            uid = str(uuid.uuid4())
            server.put(uid, f"{name}-0", {"svc": name}, node=NODE)
            options = ["--network", "none", "--cpuset-cpus", "0", "--cgroup-parent", f"/kubepods/burstable/pod{uid}"]
            identity = stack.enter_context(container(BASE, ["sh", "-c", SPIN], options))
            self.pids[name] = int(inspected(identity)["State"]["Pid"])
        stack.callback(self._let_go)

    def _let_go(self) -> None:
        """A test that fails kills its agent with pauses in force, and what is frozen cannot be killed."""
        for pid in self.pids.values():
            with contextlib.suppress(OSError):
                for place in parse_cgroups(Path(f"/proc/{pid}/cgroup").read_text()):
                    if place.hierarchy == "freezer":
                        (Path("/sys/fs/cgroup/freezer") / place.path.lstrip("/") / "freezer.state").write_text("THAWED")
                os.kill(pid, signal.SIGCONT)

    def used_ns(self) -> dict[str, int]:
        return {name: int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) for name, pid in self.pids.items()}

    def fractions(self, seconds: float) -> dict[str, float]:
        before = self.used_ns()
        time.sleep(seconds)
        used = {name: after - before[name] for name, after in self.used_ns().items()}
        return {name: value / sum(used.values()) for name, value in used.items()}

    def run(self, seconds: float) -> set[str]:
        """Who gets any CPU at all in this time."""
        return {name for name, part in self.fractions(seconds).items() if part > 0.01}


def test_three_containers_share_a_cpu_as_they_are_labelled_and_killing_the_agent_leaves_nothing_paused(
    images: dict[str, str], tmp_path: Path
) -> None:
    with contextlib.ExitStack() as stack:
        (tmp_path / "controller").mkdir()
        (tmp_path / "api").mkdir()
        run_dir = tmp_path / "run"
        run_dir.mkdir(mode=0o700)
        address = stack.enter_context(controller_container(images["controller"], tmp_path / "controller"))
        for name, share in SHARES.items():
            command = ["set-share", f"svc={name}", str(share), "--controller", address]
            podman("run", "--rm", *RUN, "--network", "host", "--entrypoint", "utilctl", images["controller"], *command)
        server = stack.enter_context(PodServer(tmp_path / "api"))
        pods = Pods(server, stack)
        wanted = {name: share / sum(SHARES.values()) for name, share in SHARES.items()}

        def come_right() -> None:
            wait_until(
                lambda: all(abs(part - wanted[name]) < 0.03 for name, part in pods.fractions(RUN_S).items()),
                f"for some seconds the CPU is divided as {wanted}",
            )

        with agent_container(images["agent"], address, server, run_dir) as identity:
            come_right()
            podman("kill", "--signal", "KILL", identity)
        # Whatever was paused when all of it was killed: the next agent lets it go before anything else.
        with agent_container(images["agent"], address, server, run_dir) as identity:
            come_right()
            podman("stop", "--time", "10", identity)
            assert inspected(identity)["State"]["ExitCode"] == 0, podman("logs", identity)
            assert pods.run(2.0) == set(SHARES)
            assert pods.fractions(3.0) == pytest.approx(dict.fromkeys(SHARES, 1 / 3), abs=0.05), "nobody is held back"


def test_the_agents_image_has_what_its_commands_need_and_the_controllers_runs_as_nobody(
    images: dict[str, str],
) -> None:
    offline = (*RUN, "--network", "none", "--entrypoint", "utilctl")
    shown = podman("run", "--rm", *offline, images["agent"], "thaw", "--all")
    assert "paused" in shown or "resumed" in shown
    assert inspected_image(images["controller"])["User"] == "65532:65532"


def inspected_image(name: str) -> Mapping[str, Any]:
    import json

    (found,) = json.loads(podman("image", "inspect", name))
    assert isinstance(found, dict)
    return found
