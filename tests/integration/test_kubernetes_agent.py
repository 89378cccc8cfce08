"""A real agent among real cgroups that are named as a kubelet names them, and an API server that tells of the pods."""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.agents import agent
from support.controller_server import RunningController
from support.pod_api import PodServer
from support.processes import remove_cgroup, spinning, temporary_cgroup, wait_until
from utilctl_controller.store.sqlite import SqliteStore
from utilctl_proto.v1 import control_pb2

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.root,
    pytest.mark.quiet,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: cgroups are made"),
]

NODE = "node-1"
RUN_S = 3.0


class Node:
    """Cgroups of pods below one of the test's own, in which one process each spins on one CPU."""

    def __init__(self, base: Path, server: PodServer, stack: contextlib.ExitStack) -> None:
        self._base = base
        self._server = server
        self._stack = stack
        self.cgroups: dict[str, Path] = {}

    @property
    def scope(self) -> str:
        return f"cgroup:/{self._base.name}"

    def announce(self, name: str, labels: dict[str, str], *, static: bool = False) -> str:
        """Tell the API of a pod; returns the uid that its cgroup gets."""
        uid = str(uuid.uuid4())
        if not static:
            self._server.put(uid, name, labels, node=NODE)
            return uid
        by_kubelet = uuid.uuid4().hex
        self._server.put(uid, name, labels, node=NODE, **{"kubernetes.io/config.mirror": by_kubelet})
        return by_kubelet

    def run(self, name: str, uid: str, *, systemd: bool) -> None:
        """Start the pod's process in its container's cgroup."""
        container = uuid.uuid4().hex * 2
        parts = ["kubepods", "burstable", f"pod{uid}", container]
        if systemd:
            slices = ["kubepods.slice", "kubepods-besteffort.slice"]
            slice_ = f"kubepods-besteffort-pod{uid.replace('-', '_')}.slice"
            parts = [*slices, slice_, f"cri-containerd-{container}.scope"]
        path = self._base
        for part in parts:
            path = path / part
            if not path.exists():
                path.mkdir()
                self._stack.callback(remove_cgroup, path)
        self._stack.enter_context(spinning(1, cgroup=path, cpu=0))
        self.cgroups[name] = path

    def used_ns(self) -> dict[str, int]:
        return {name: 1000 * int((path / "cpu.stat").read_text().split()[1]) for name, path in self.cgroups.items()}

    def fractions(self, seconds: float) -> dict[str, float]:
        """Parts of the CPU over the next ``seconds``."""
        before = self.used_ns()
        time.sleep(seconds)
        after = self.used_ns()
        used = {name: after[name] - before.get(name, 0) for name in after}
        total = sum(used.values())
        return {name: value / total for name, value in used.items()}

    def held_back(self, name: str) -> bool:
        return "frozen 1" in (self.cgroups[name] / "cgroup.events").read_text()


@pytest.fixture
def node(tmp_path: Path) -> Iterator[tuple[Node, PodServer, RunningController, contextlib.ExitStack]]:
    with contextlib.ExitStack() as stack:
        controller = stack.enter_context(RunningController(SqliteStore(tmp_path / "policy.db")))
        for see, share in (("svc=web", 3), ("svc=etl", 1)):
            controller.set_share(see, share)
        folder = tmp_path / "api"
        folder.mkdir()
        server = stack.enter_context(PodServer(folder))
        base = stack.enter_context(temporary_cgroup())
        yield Node(base, server, stack), server, controller, stack


def options(server: PodServer) -> dict[str, str]:
    return {"KUBECONFIG": str(server.kubeconfig), "NODE_NAME": NODE, "KUBERNETES_SERVICE_HOST": ""}


def until_split(node: Node, wanted: dict[str, float], within: float = 0.08) -> None:
    """Wait until the CPU is divided so."""
    wait_until(
        lambda: all(abs(part - wanted[name]) < within for name, part in node.fractions(1.0).items()),
        f"the CPU is divided as {wanted}",
    )


def test_two_pods_share_a_cpu_three_to_one_by_their_labels_alone_also_through_an_outage_and_a_restart(
    node: tuple[Node, PodServer, RunningController, contextlib.ExitStack],
) -> None:
    pods, server, controller, stack = node
    pods.run("web", pods.announce("web-0", {"app": "web"}), systemd=True)
    pods.run("etl", pods.announce("etl-static", {"svc": "etl"}, static=True), systemd=False)
    argv = ["--kubernetes", "--label-map", "svc=app"]
    with agent(controller, pods.scope, *argv, environment=options(server)) as running:
        until_split(pods, {"web": 0.75, "etl": 0.25})
        assert pods.fractions(RUN_S)["web"] == pytest.approx(0.75, abs=0.03)
        server.stop()
        assert pods.fractions(RUN_S)["web"] == pytest.approx(0.75, abs=0.03), "an outage changes nothing"
        running.process.terminate()
        assert running.wait().code == 0
        running.assert_nothing_left()
    # The next agent knows the pods although nobody tells it of them.
    running = stack.enter_context(agent(controller, pods.scope, *argv, environment=options(server)))
    until_split(pods, {"web": 0.75, "etl": 0.25})
    running.process.terminate()
    assert running.wait().code == 0


def test_a_new_pod_is_controlled_within_a_second(
    node: tuple[Node, PodServer, RunningController, contextlib.ExitStack],
) -> None:
    pods, server, controller, _ = node
    pods.run("web", pods.announce("web-0", {"svc": "web"}), systemd=True)
    with agent(controller, pods.scope, "--kubernetes", environment=options(server)) as running:
        wait_until(lambda: server.watches > 0, "the agent watches")
        time.sleep(1.0)
        uid = pods.announce("etl-0", {"svc": "etl"})
        pods.run("etl", uid, systemd=False)
        time.sleep(1.0)
        assert pods.fractions(1.0)["etl"] == pytest.approx(0.25, abs=0.06), "uncontrolled, it would have a half"
        running.process.terminate()
        assert running.wait().code == 0
        running.assert_nothing_left()


def test_pods_that_name_a_service_without_a_share_are_told_of_until_it_has_one(
    node: tuple[Node, PodServer, RunningController, contextlib.ExitStack],
) -> None:
    pods, server, controller, _ = node
    for number in range(3):
        pods.announce(f"foo-{number}", {"svc": "foo"})
    ended = pods.announce("foo-job", {"svc": "foo"})
    server.end(ended, "Succeeded")
    pods.announce("web-0", {"svc": "web"})
    pods.announce("other", {"app": "foo"})

    def waiting() -> dict[str, int]:
        hosts = controller.control.ListHosts(control_pb2.ListHostsRequest()).hosts
        return {entry.see: entry.pods for host in hosts for entry in host.waiting}

    with agent(controller, pods.scope, "--kubernetes", environment=options(server)) as running:
        wait_until(lambda: waiting() == {"svc=foo": 3}, "three wait")
        answer = controller.control.ListServices(control_pb2.ListServicesRequest())
        (told,) = answer.waiting
        assert (told.see, told.pods, told.hosts) == ("svc=foo", 3, 1)
        assert [(one.host, one.pods) for one in told.per_host] == [("host-a", 3)]
        pods.announce("bar-0", {"svc": "bar"})
        wait_until(lambda: waiting() == {"svc=bar": 1, "svc=foo": 3}, "one more is told of")
        controller.set_share("svc=foo", 1)
        wait_until(lambda: waiting() == {"svc=bar": 1}, "a share ends it")
        controller.control.DeleteSee(control_pb2.DeleteSeeRequest(see="svc=foo", changed_by="ada"))
        wait_until(lambda: waiting() == {"svc=bar": 1, "svc=foo": 3}, "without it they wait again")
        running.process.terminate()
        assert running.wait().code == 0


def test_a_pod_without_a_label_of_a_service_is_let_be_and_one_that_gets_it_is_controlled(
    node: tuple[Node, PodServer, RunningController, contextlib.ExitStack],
) -> None:
    pods, server, controller, _ = node
    pods.run("web", pods.announce("web-0", {"svc": "web"}), systemd=True)
    uid = pods.announce("etl-0", {"app": "etl"})
    pods.run("etl", uid, systemd=False)
    with agent(controller, pods.scope, "--kubernetes", environment=options(server)) as running:
        wait_until(lambda: server.watches > 0, "the agent watches")
        deadline = time.monotonic() + 2.0
        while time.monotonic() < deadline:
            assert not pods.held_back("etl")
            time.sleep(0.005)
        server.put(uid, "etl-0", {"app": "etl", "svc": "etl"}, node=NODE)
        wait_until(lambda: pods.held_back("etl"), "labelled, it is controlled")
        running.process.terminate()
        assert running.wait().code == 0
