"""A real controller on an ephemeral loopback port in a thread of its own, and an agent that speaks its
protocol."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType

import grpc

from utilctl_common.quantities import NS_PER_MS, NS_PER_S
from utilctl_common.telemetry import Telemetry
from utilctl_controller.server import serving
from utilctl_controller.settings import ControllerSettings
from utilctl_controller.store.port import PolicyStore
from utilctl_proto.v1 import agent_pb2, agent_pb2_grpc, control_pb2, control_pb2_grpc

WAIT_S = 60.0
"""How long a test waits for what must come. Only a failing test waits that long."""

FAST = ControllerSettings(
    listen="127.0.0.1:0",
    report_interval_ns=50 * NS_PER_MS,
    lease_ns=3 * NS_PER_S,
    return_ns=0,
    probe_ns=50 * NS_PER_MS,
)
"""Settings under which a test need not wait."""


def eventually(condition: Callable[[], bool], what: str) -> None:
    """Wait until ``condition`` holds; fail with ``what`` if it never does."""
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, f"never happened: {what}"
        time.sleep(0.01)


class RunningController:
    """Use it in ``with``: the controller serves ``address`` until the block ends. Closes the store as
    well."""

    def __init__(
        self, store: PolicyStore, telemetry: Telemetry | None = None, settings: ControllerSettings = FAST
    ) -> None:
        self._store, self._telemetry, self._settings = store, telemetry, settings
        self._started: queue.Queue[str | BaseException] = queue.Queue()
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="controller", daemon=True)
        self.address = ""
        self.channel: grpc.Channel
        self.control: control_pb2_grpc.ControlServiceStub

    def __enter__(self) -> RunningController:
        self._thread.start()
        started = self._started.get(timeout=WAIT_S)
        if isinstance(started, BaseException):
            self._thread.join(WAIT_S)
            self._store.close()
            raise started
        self.address = started
        self.channel = grpc.insecure_channel(started)
        self.control = control_pb2_grpc.ControlServiceStub(self.channel)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.channel.close()
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(WAIT_S)
        self._store.close()
        assert not self._thread.is_alive()

    def _run(self) -> None:
        async def serve() -> None:
            async with serving(self._settings, self._store, self._telemetry) as address:
                self._started.put(address)
                await self._stop.wait()

        try:
            self._loop.run_until_complete(serve())
        except BaseException as error:  # noqa: BLE001 - handed on to the test
            self._started.put(error)
        finally:
            self._loop.close()

    def set_share(self, see: str, share: float) -> control_pb2.SetShareResponse:
        """The common request."""
        return self.control.SetShare(control_pb2.SetShareRequest(see=see, share=share, changed_by="ada"))

    def service(self, see: str) -> control_pb2.ServiceStatus:
        """One service as the controller sees it now."""
        return self.control.GetShare(control_pb2.GetShareRequest(see=see)).service

    def host(self, name: str) -> control_pb2.HostStatus:
        """One host as the controller sees it now."""
        hosts = self.control.ListHosts(control_pb2.ListHostsRequest()).hosts
        return next(entry for entry in hosts if entry.host == name)

    def controller(self) -> control_pb2.ControllerStatus:
        """The controller's own state."""
        return self.control.ListServices(control_pb2.ListServicesRequest()).controller

    def agent(self, host: str, cores: float = 1.0, *, instance: str = "first", epoch: int = 0) -> FakeAgent:
        """An agent that connects at once."""
        agent = FakeAgent(self.address)
        agent.send(
            hello=agent_pb2.Hello(
                host=host,
                capacity_cores=cores,
                agent_version="0.1.0",
                instance_id=instance,
                mechanism="signal",
                mechanism_reason="not root",
                epoch=epoch,
            )
        )
        return agent


class FakeAgent:
    """One stream, driven by the test. Use it in ``with``; ``welcome`` and ``sets`` fill as answers come."""

    def __init__(self, address: str) -> None:
        self._requests: queue.SimpleQueue[agent_pb2.ConnectRequest | None] = queue.SimpleQueue()
        self._channel = grpc.insecure_channel(address)
        stub = agent_pb2_grpc.AgentSessionServiceStub(self._channel)
        self._call = stub.Connect(iter(self._requests.get, None), timeout=2 * WAIT_S)
        self.welcome: agent_pb2.Welcome | None = None
        self.sets: list[agent_pb2.TargetSet] = []
        self.ended = threading.Event()
        self._sequence = 0
        self._thread = threading.Thread(target=self._listen, name="fake-agent", daemon=True)
        self._thread.start()

    def __enter__(self) -> FakeAgent:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._requests.put(None)
        self._call.cancel()
        self._channel.close()
        self._thread.join(WAIT_S)

    def _listen(self) -> None:
        try:
            for answer in self._answers():
                if answer.WhichOneof("body") == "welcome":
                    self.welcome = answer.welcome
                else:
                    self.sets.append(answer.targets)
        except grpc.RpcError:
            pass  # the test asks for the status
        finally:
            self.ended.set()

    def _answers(self) -> Iterator[agent_pb2.ConnectResponse]:
        return iter(self._call)

    def send(
        self,
        hello: agent_pb2.Hello | None = None,
        report: agent_pb2.Report | None = None,
        applied: agent_pb2.Applied | None = None,
        unchanged: agent_pb2.Unchanged | None = None,
    ) -> None:
        """Send one message; with no argument an empty one."""
        message = agent_pb2.ConnectRequest(hello=hello, report=report, applied=applied, unchanged=unchanged)
        self._requests.put(message)

    def say_unchanged(self, sequence: int | None = None) -> None:
        """Say that nothing has changed since the last report, or since that of ``sequence``."""
        self.send(unchanged=agent_pb2.Unchanged(sequence=self._sequence if sequence is None else sequence))

    def report(self, demand: Mapping[str, float], *, cores: float = 1.0, sequence: int | None = None) -> None:
        """Report that each SEE named has a process and wants, and uses, so much."""
        self._sequence = self._sequence + 1 if sequence is None else sequence
        self.send(
            report=agent_pb2.Report(
                sequence=self._sequence,
                interval_ns=50 * NS_PER_MS,
                capacity_cores=cores,
                sees=[
                    agent_pb2.SeeReport(
                        see=see,
                        consumed_total_ns=self._sequence * 1000,
                        consumption_cores=wanted / 2,
                        demand_cores=wanted,
                        processes=2,
                    )
                    for see, wanted in demand.items()
                ],
            )
        )

    def status(self) -> tuple[grpc.StatusCode, str]:
        """How the controller ended the stream; waits for that."""
        assert self.ended.wait(WAIT_S)
        return self._call.code(), self._call.details() or ""

    def newest(self) -> dict[str, agent_pb2.Target]:
        """The newest set by SEE; waits for a first."""
        eventually(lambda: bool(self.sets), "a first target set")
        return {target.policy.see: target for target in self.sets[-1].targets}

    def until(self, condition: Callable[[dict[str, agent_pb2.Target]], bool], what: str) -> None:
        """Wait for a set that fulfils ``condition``."""
        eventually(lambda: condition(self.newest()), what)

    def reporting_until(
        self, demand: Mapping[str, float], condition: Callable[[], bool], what: str, *, cores: float = 1.0
    ) -> None:
        """Report steadily until ``condition`` holds."""

        def step() -> bool:
            self.report(demand, cores=cores)
            time.sleep(0.02)
            return condition()

        eventually(step, what)


class Outage:
    """While in ``with``, the files of a SQLite store are away."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._moved: list[tuple[Path, Path]] = []

    def __enter__(self) -> None:
        for suffix in ("", "-wal", "-shm"):
            file = self._path.with_name(self._path.name + suffix)
            if file.exists():
                aside = file.with_name(f"away-{file.name}")
                file.rename(aside)
                self._moved.append((aside, file))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for aside, file in reversed(self._moved):
            aside.rename(file)
