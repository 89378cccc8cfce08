"""A real etcd on ephemeral loopback ports in a temporary directory, which can be killed and started again."""

from __future__ import annotations

import base64
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Final

from utilctl_common.quantities import NS_PER_S

NO_ETCD: Final = "no etcd binary on PATH: install etcd-server to run these tests"
"""Why etcd tests are skipped."""

_START_TIMEOUT_NS: Final = 60 * NS_PER_S
"""How long a start may take before it counts as failed. Arbitrary; a start takes about half a second."""

_START_ATTEMPTS: Final = 5
"""Starts with fresh ports: somebody else may take a port between its choice and its use."""

_STARTER: Final = ThreadPoolExecutor(1, thread_name_prefix="etcd-starter")
"""Starts every server: the kernel sends the parent-death signal when the *thread* that started a process ends, and this
one stays as long as the program. Started by a thread of a test, a server would end with that thread."""


def etcd_on_path() -> bool:
    """Whether an etcd server can be started here."""
    return shutil.which("etcd") is not None


def free_port() -> int:
    """A TCP port on loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class EtcdServer:
    """One etcd member. Use it in ``with``: the process and its files are gone afterwards, whatever happened.

    The process also ends when this one does (where ``setpriv`` exists).
    """

    def __init__(self, *flags: str, name: str = "default", peers: Mapping[str, int] = MappingProxyType({})) -> None:
        """``flags`` are added to etcd's command line. peers: the peer ports of a cluster by its members' names, with
        this one's (none: it is alone).
        """
        self._flags = flags
        self._name = name
        self._peers = peers
        self._folder = Path(tempfile.mkdtemp(prefix="etcd-"))
        self._process: subprocess.Popen[bytes] | None = None
        self.client_port = 0
        self._peer_port = 0

    @property
    def address(self) -> str:
        """``HOST:PORT`` of the client port."""
        return f"127.0.0.1:{self.client_port}"

    def __enter__(self) -> EtcdServer:
        try:
            self._start_on_free_ports()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def start(self) -> None:
        """Start on the same ports and data as before and wait until it serves. Raises RuntimeError if it does not."""
        self.launch()
        self.await_health()

    def launch(self) -> None:
        """Start on the same ports and data as before."""
        assert self._process is None
        client, peer = f"http://{self.address}", f"http://127.0.0.1:{self._peer_port}"
        command = [
            *(["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else ()),
            "etcd",
            f"--data-dir={self._folder / 'data'}",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--name={self._name}",
            f"--initial-cluster={self._cluster() or f'{self._name}={peer}'}",
            "--logger=zap",
            "--log-level=error",
            *self._flags,
        ]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("ETCD_")}
        with (self._folder / "log").open("ab") as log:
            self._process = _STARTER.submit(
                subprocess.Popen, command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            ).result()

    def await_health(self) -> None:
        """Wait until it serves. Raises RuntimeError if it does not."""
        assert self._process is not None
        deadline_ns = time.monotonic_ns() + _START_TIMEOUT_NS
        while not self._is_healthy():
            if self._process.poll() is not None or time.monotonic_ns() > deadline_ns:
                self.kill()
                raise RuntimeError(f"etcd did not start: {self.log()[-500:]}")
            time.sleep(0.05)

    def _cluster(self) -> str:
        return ",".join(f"{name}=http://127.0.0.1:{port}" for name, port in self._peers.items())

    def kill(self) -> None:
        """End the process as ``kill -9`` does. Idempotent."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        """Freeze the process: connections stay open and nothing answers."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a frozen process go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def wipe(self) -> None:
        """Delete the data of a killed server: the next start is a new, empty database."""
        assert self._process is None
        shutil.rmtree(self._folder / "data", ignore_errors=True)

    def put(self, key: str, value: bytes) -> None:
        """Write a key as somebody with etcdctl would."""
        self._post("/v3/kv/put", {"key": _base64(key.encode()), "value": _base64(value)})

    def get(self, key: str) -> bytes | None:
        """Read a key as somebody with etcdctl would."""
        kvs = self._post("/v3/kv/range", {"key": _base64(key.encode())}).get("kvs")
        return base64.b64decode(kvs[0].get("value", "")) if kvs else None

    def compact(self, revision: int) -> None:
        """Forget what was before ``revision``, as etcd's housekeeping does."""
        self._post("/v3/kv/compaction", {"revision": str(revision), "physical": True})

    def log(self) -> str:
        """What the server wrote."""
        return (self._folder / "log").read_text(errors="replace")

    def take_ports(self, client_port: int, peer_port: int) -> None:
        """Which ports to use, for a member of a cluster."""
        self.client_port, self._peer_port = client_port, peer_port

    def _start_on_free_ports(self) -> None:
        for attempts_left in reversed(range(_START_ATTEMPTS)):
            self.client_port, self._peer_port = free_port(), free_port()
            try:
                return self.start()
            except RuntimeError:
                if not attempts_left:
                    raise
                self.wipe()
        return None

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self.client_port, timeout=30)
        try:
            connection.request("POST", path, json.dumps(body))
            response = connection.getresponse()
            text = response.read()
            if response.status != http.HTTPStatus.OK:
                raise RuntimeError(f"etcd refused {path}: {text!r}")
            return json.loads(text)
        finally:
            connection.close()

    def _is_healthy(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.client_port, timeout=1)
        try:
            connection.request("GET", "/health")
            return b'"true"' in connection.getresponse().read()
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()


class EtcdCluster:
    """Several members on loopback. Use it in ``with``; each member can be killed and started again."""

    def __init__(self, size: int = 3) -> None:
        peers = {f"m{number}": free_port() for number in range(size)}
        self.members = [EtcdServer(name=name, peers=peers) for name in peers]
        for member, port in zip(self.members, peers.values(), strict=True):
            member.take_ports(free_port(), port)

    def __enter__(self) -> EtcdCluster:
        try:
            for member in self.members:
                member.launch()
            for member in self.members:
                member.await_health()  # a member alone is not healthy
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for member in self.members:
            member.__exit__(kind, error, trace)


def _base64(raw: bytes) -> str:
    return base64.b64encode(raw).decode("ascii")
