"""What is attacked: a whole ``utilctl alps``, or an agent with its controller, both as real programs."""

from __future__ import annotations

import abc
import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final

import grpc

from chaos.faults import Fault, Outside, Role
from chaos.home import Home
from chaos.targets import Target
from support.etcd_server import EtcdServer, free_port
from support.processes import WAIT_S, wait_until
from support.tcp_proxy import TcpProxy
from utilctl_cli.client import ControllerClient
from utilctl_common.quantities import NS_PER_S
from utilctl_proto.v1 import control_pb2, control_pb2_grpc

MODULES: Final[Mapping[Role, str]] = {
    "loop": "utilctl_agent.loop",
    "companion": "utilctl_agent.link",
    "guard": "utilctl_agent.safety.guard",
}
QUANTUM: Final = "5ms"
"""Short, for many pauses: some 200 a second of two dozen groups."""


class Part:
    """One process of an agent, held by a pidfd."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.pidfd = os.pidfd_open(pid)

    def send(self, number: signal.Signals) -> None:
        """A signal, if it is still there."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, number)

    def ended(self) -> bool:
        """Whether it is gone."""
        poll = select.poll()
        poll.register(self.pidfd, select.POLLIN)
        return bool(poll.poll(0))

    def close(self) -> None:
        """Release the pidfd."""
        os.close(self.pidfd)


class Rig(abc.ABC):
    """One agent at a time, started again and again. Use it in ``with``."""

    name: str
    companion: str

    def __init__(self, targets: Sequence[Target], cpu: int, home: Home) -> None:
        self.targets = targets
        self.cpu = cpu
        self.home = home
        self.parts: dict[Role, Part] = {}
        self.started_ns = 0
        self.restarts = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._aside: tuple[subprocess.Popen[bytes], dict[Role, Part]] | None = None

    def __enter__(self) -> Rig:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.clear()

    @abc.abstractmethod
    def argv(self) -> list[str]:
        """The module to be run, and its arguments."""

    @abc.abstractmethod
    def roles(self, pid: int) -> dict[Role, int]:
        """Who is who, as far as they run, given the process that was started."""

    def start(self) -> None:
        """Start one afresh; ``find`` waits for its parts."""
        assert self._process is None
        self.restarts = 0
        self.started_ns = time.monotonic_ns()
        self._process = subprocess.Popen(
            [*self.home.prefix, sys.executable, "-m", *self.argv()],
            env=self.home.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            cwd="/",
        )

    def find(self) -> None:
        """Wait until all three run."""
        process = self._process
        assert process is not None
        roles: dict[Role, int] = {}

        def complete() -> bool:
            assert process.poll() is None, f"{self.name} ended with {process.returncode}"
            roles.clear()
            roles.update(self.roles(process.pid))
            return len(roles) == len(MODULES)

        wait_until(complete, "all three run")
        self._close_parts()
        self.parts = {role: Part(pid) for role, pid in roles.items()}

    @property
    def running(self) -> bool:
        """Whether one was started and not cleared away."""
        return self._process is not None

    def comes_back(self, fault: Fault) -> bool:
        """Whether, after that, the guard is there to start the others again, and soon."""
        return False

    def restarted(self) -> None:
        """The guard does so: ``find`` has the new parts."""
        self.restarts += 1
        self.started_ns = time.monotonic_ns()
        self._close_parts()

    def set_aside(self) -> None:
        """Leave what was killed or stopped as it is, and be ready to start the next one."""
        assert self._process is not None
        self._aside = (self._process, self.parts)
        self._process, self.parts = None, {}

    def bury(self) -> None:
        """Kill and reap what was set aside. Idempotent."""
        if self._aside is not None:
            process, parts = self._aside
            self._aside = None
            for part in parts.values():
                part.send(signal.SIGKILL)
            process.kill()
            process.wait(WAIT_S)
            for part in parts.values():
                wait_until(part.ended, "it is dead")
                part.close()

    def end(self) -> None:
        """Tell one that can act to end, and wait until it has. Idempotent."""
        if self._process is not None:
            for part in self.parts.values():
                part.send(signal.SIGCONT)
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(WAIT_S)
        self.clear()

    def clear(self) -> None:
        """Kill what is left of it. Idempotent."""
        self.bury()
        if "guard" in self.parts:
            self.parts["guard"].send(signal.SIGSTOP)  # it starts nobody from now on
        if self._process is not None:
            for role, pid in self.roles(self._process.pid).items():  # those that were started since
                if role not in self.parts or self.parts[role].pid != pid:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
        for part in self.parts.values():
            part.send(signal.SIGKILL)
        if self._process is not None:
            self._process.kill()
            self._process.wait(WAIT_S)
            self._process = None
        for part in self.parts.values():
            wait_until(part.ended, "it is dead")
        self._close_parts()

    def _close_parts(self) -> None:
        for part in self.parts.values():
            part.close()
        self.parts = {}


class AlpsRig(Rig):
    """``utilctl alps`` over all targets."""

    name = "utilctl alps"
    companion = "command"

    def argv(self) -> list[str]:
        """See Rig."""
        listed: list[str] = []
        for target in self.targets:
            if target.cgroup is not None:
                listed += ["--groups", f"1:cgroup:{target.cgroup}"]
            else:
                listed += ["--pids", f"1:{','.join(map(str, target.pids))}"]
        options = ["--mode", "freezer", "--quantum", QUANTUM, "--cpus", str(self.cpu), "--duration", "86400s"]
        return ["utilctl_cli.main", "alps", *listed, *options]

    def roles(self, pid: int) -> dict[Role, int]:
        """See Rig."""
        found: dict[Role, int] = {"companion": pid}
        guard = _child(pid, MODULES["guard"])
        if guard:
            found["guard"] = guard
            loop = _child(guard, MODULES["loop"])
            if loop:
                found["loop"] = loop
        return found


class AgentRig(Rig):
    """``utilctl-agent`` under a controller program, over a network that can be cut."""

    name = "agent"
    companion = "link"

    def __init__(self, targets: Sequence[Target], cpu: int, home: Home, etcd: EtcdServer | None) -> None:
        """etcd: where the policies are; None: in a SQLite file."""
        super().__init__([target for target in targets if target.kind != "v1"], cpu, home)
        self.etcd = etcd
        self._store = f"etcd:{etcd.address}" if etcd is not None else f"sqlite:{home.folder}/policy.db"
        self._address = f"127.0.0.1:{free_port()}"
        self._stack = contextlib.ExitStack()
        self._controller: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> AgentRig:
        try:
            self._stack.callback(self.kill_controller)
            self.start_controller()
            self.network = self._stack.enter_context(TcpProxy(int(self._address.rpartition(":")[2])))
            with grpc.insecure_channel(self._address) as channel:
                control = control_pb2_grpc.ControlServiceStub(channel)
                for target in self.targets:
                    request = control_pb2.SetShareRequest(see=target.see, share=1, changed_by="chaos")
                    control.SetShare(request, timeout=WAIT_S)
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._stack:
            self.clear()

    def start_controller(self) -> None:
        """Start the controller on the address that it had before; waits until it serves."""
        argv = ["utilctl_controller.main", "--listen", self._address, "--store", self._store]
        self._controller = subprocess.Popen(
            [sys.executable, "-m", *argv, "--report-interval", "200ms"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        wait_until(self._serves, "the controller serves")

    def _serves(self) -> bool:
        assert self._controller is not None
        assert self._controller.poll() is None, "the controller ended"
        try:
            ControllerClient((self._address,), NS_PER_S).services()
        except Exception:  # noqa: BLE001 - not yet
            return False
        return True

    def kill_controller(self) -> None:
        """End it as ``kill -9`` does. Idempotent."""
        if self._controller is not None:
            self._controller.kill()
            self._controller.wait(WAIT_S)
            self._controller = None

    def argv(self) -> list[str]:
        """See Rig."""
        argv = ["utilctl_agent.main", "--host", "chaos", "--controller", f"127.0.0.1:{self.network.port}"]
        scope = ["--scope", f"tree:{os.getpid()}", "--cpus", str(self.cpu), "--quantum", QUANTUM]
        return [*argv, *scope]

    def roles(self, pid: int) -> dict[Role, int]:
        """See Rig."""
        found: dict[Role, int] = {"guard": pid}
        for role in ("loop", "companion"):
            child = _child(pid, MODULES[role])
            if child:
                found[role] = child
        return found

    def restore(self, what: Outside) -> None:
        """End the failure of something outside."""
        if what == "network":
            self.network.restore()
        elif what == "controller":
            self.start_controller()
        else:
            assert self.etcd is not None
            self.etcd.start()

    def comes_back(self, fault: Fault) -> bool:
        """See Rig. A guard waits twice as long each time, and for a stopped link: then a fresh one is there sooner."""
        return self.restarts < 2 and fault.to("guard") is None and fault.to("companion") is not signal.SIGSTOP


def _child(pid: int, module: str) -> int:
    """The child that runs that module; 0 if there is none (yet)."""
    with contextlib.suppress(OSError):
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            if f"\0{module}\0".encode() in Path(f"/proc/{child}/cmdline").read_bytes():
                return int(child)
    return 0
