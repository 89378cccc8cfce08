"""Several controllers on one store: one leads, the others send everybody there, and one takes over."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import cast

import grpc
import pytest

from support.commands import run
from support.controller_server import FAST, FakeAgent, RunningController, eventually
from support.etcd_server import NO_ETCD, EtcdServer, etcd_on_path, free_port
from support.tcp_proxy import TcpProxy
from utilctl_agent.link.session import ControllerSession
from utilctl_agent.link.targets import TargetSet
from utilctl_common.redirect import leader_of
from utilctl_controller.store.etcd import EtcdStore
from utilctl_controller.store.etcd_endpoints import parse_endpoints
from utilctl_controller.store.sqlite import SqliteStore
from utilctl_proto.v1 import agent_pb2, control_pb2, control_pb2_grpc

FAILOVER_S = 5.0
pytestmark = [
    pytest.mark.quiet,  # leases of a few seconds and bounds on them: beside other tests they measure those
    pytest.mark.skipif(not etcd_on_path(), reason=NO_ETCD),
]


@pytest.fixture
def etcd() -> Iterator[EtcdServer]:
    with EtcdServer() as server:
        yield server


@contextlib.contextmanager
def controller(port: int) -> Iterator[RunningController]:
    """A controller in this process on the etcd behind ``port``."""
    store = EtcdStore(parse_endpoints(f"127.0.0.1:{port}"))
    with RunningController(store) as running:
        yield running


@contextlib.contextmanager
def program(etcd: EtcdServer) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A controller program on ``etcd``, and its address; gone after the block whatever happened."""
    command = [sys.executable, "-m", "utilctl_controller.main", "--listen", f"127.0.0.1:{free_port()}"]
    command += ["--store", f"etcd:{etcd.address}", "--report-interval", "100ms", "--lease", "3s"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process, process.stdout.readline().split()[-1]
    finally:
        process.kill()
        process.communicate(timeout=60)


def refused(running: RunningController) -> tuple[grpc.StatusCode, str | None]:
    """How a follower answers, and whom it names."""
    with pytest.raises(grpc.RpcError) as caught:
        running.controller()
    error = cast("grpc.Call", caught.value)  # it is both; the published types cannot say so
    return error.code(), leader_of(error.trailing_metadata())


def leads(running: RunningController) -> bool:
    try:
        running.controller()
    except grpc.RpcError:
        return False
    return True


class LinkedAgent:
    """An agent's own session with the controllers, without a host behind it: says hello, takes targets."""

    def __init__(self, *controllers: str) -> None:
        self.sets: list[TargetSet] = []
        self.session = ControllerSession(
            controllers, self._hello, self.sets.append, lambda _interval_ns: None, lambda *_: False
        )

    def _hello(self) -> agent_pb2.ConnectRequest:
        newest = self.sets[-1] if self.sets else None
        hello = agent_pb2.Hello(host="h", capacity_cores=1, agent_version="0", instance_id="x", mechanism="signal")
        if newest is not None:
            hello.epoch, hello.generation = newest.epoch, newest.generation
        return agent_pb2.ConnectRequest(hello=hello)

    async def until_epoch_after(self, epoch: int) -> None:
        async with asyncio.timeout(60):
            while not self.sets or self.sets[-1].epoch <= epoch:  # noqa: ASYNC110 - the session has no event for it
                await asyncio.sleep(0.02)


def test_a_follower_names_the_leader_to_agents_and_to_the_command_line(etcd: EtcdServer) -> None:
    with controller(etcd.client_port) as leader, controller(etcd.client_port) as follower:
        assert leader.controller().epoch == 1
        assert refused(follower) == (grpc.StatusCode.UNAVAILABLE, leader.address)
        with FakeAgent(follower.address) as agent:
            agent.send(hello=agent_pb2.Hello(host="h", capacity_cores=1, instance_id="x"))
            code, words = agent.status()
            assert code is grpc.StatusCode.UNAVAILABLE
            assert leader.address in words
        shown = run("set-share", "svc=web", "3", "--controller", follower.address)
        assert shown.code == 0, shown.stderr
        assert leader.service("svc=web").record.policy.share == 3
    # and nobody at all:
    assert run("get", "services", "--controller", follower.address, "--timeout", "1s").code == 3


def test_a_leader_that_stops_hands_over_at_once(etcd: EtcdServer) -> None:
    with contextlib.ExitStack() as stack:
        leader = stack.enter_context(controller(etcd.client_port))
        with controller(etcd.client_port) as follower:
            leader.set_share("svc=web", 3)
            stopped = time.monotonic()
            stack.close()
            eventually(lambda: leads(follower), "the follower leads")
            assert time.monotonic() - stopped < FAST.seat_ttl_ns / 1e9, "it did not wait for the seat to fall free"
            assert follower.service("svc=web").record.policy.share == 3


def test_when_the_leader_is_killed_another_leads_within_seconds_and_agents_find_it(etcd: EtcdServer) -> None:
    async def scenario() -> None:
        with program(etcd) as (first, first_address), program(etcd) as (_, second_address):
            agent = LinkedAgent(second_address, first_address)
            running = asyncio.create_task(agent.session.run())
            try:
                await agent.until_epoch_after(0)
                epoch = agent.sets[-1].epoch
                first.send_signal(signal.SIGKILL)
                killed = time.monotonic()
                await agent.until_epoch_after(epoch)
                assert time.monotonic() - killed <= FAILOVER_S
                told = [(targets.epoch, targets.generation) for targets in agent.sets]
                assert told == sorted(told), "never an older one after a newer one"
            finally:
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)

    asyncio.run(scenario())


def test_a_write_that_the_stop_of_the_leader_cuts_short_is_told_as_unknown(etcd: EtcdServer) -> None:
    with program(etcd) as (leader, address), ThreadPoolExecutor(1) as pool:
        assert run("set-share", "svc=web", "3", "--controller", address).code == 0
        etcd.pause()
        try:
            writing = pool.submit(run, "set-share", "svc=web", "4", "--controller", address, "--timeout", "30s")
            time.sleep(1.0)  # until it is on its way; too early a stop would be told as such
            leader.send_signal(signal.SIGTERM)
            told = writing.result(60)
        finally:
            etcd.resume()
        assert told.code == 3
        assert "may or may not" in told.stderr


def test_a_command_given_while_nobody_leads_waits_for_the_next_leader(etcd: EtcdServer) -> None:
    with program(etcd) as (first, first_address), program(etcd) as (_, second_address):
        both = f"{first_address},{second_address}"
        assert run("set-share", "svc=web", "3", "--controller", both).code == 0
        first.send_signal(signal.SIGKILL)
        shown = run("set-share", "svc=web", "4", "--controller", both, "--timeout", "10s")
        assert shown.code == 0, shown.stderr
        assert "4" in run("get", "share", "svc=web", "--controller", second_address).stdout


def test_a_controller_that_starts_again_at_its_address_leads_again_at_once(etcd: EtcdServer) -> None:
    address = f"127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "utilctl_controller.main", "--listen", address, "--store", f"etcd:{etcd.address}"]
    epochs = []
    for _ in range(2):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            process.stdout.readline()
            with grpc.insecure_channel(address) as channel:
                stub = control_pb2_grpc.ControlServiceStub(channel)
                epochs.append(stub.ListServices(control_pb2.ListServicesRequest()).controller.epoch)
            process.kill()
    assert epochs == [1, 2]


def test_a_leader_that_is_cut_off_from_the_store_steps_down_once_it_hears_of_the_next(etcd: EtcdServer) -> None:
    with TcpProxy(etcd.client_port) as proxy, controller(proxy.port) as cut_off, controller(etcd.client_port) as other:
        cut_off.set_share("svc=web", 3)
        with cut_off.agent("host-a") as agent:
            eventually(lambda: agent.welcome is not None, "it is welcomed")
            proxy.refuse()
            eventually(lambda: leads(other), "the other one leads")
            assert leads(cut_off), "it goes on, for all it knows nobody else can lead"
            # It gives each call the store's whole deadline first, and the next leader may be faster than that.
            eventually(lambda: "unavailable" in cut_off.controller().degraded_reason, "it says what it knows")
            assert other.controller().epoch > cut_off.controller().epoch
            assert agent.ended.wait(60), "its agents are sent to look around"
            other.set_share("svc=web", 5)
            proxy.restore()
            eventually(lambda: not leads(cut_off), "it steps down")
            assert refused(cut_off) == (grpc.StatusCode.UNAVAILABLE, other.address)


def test_while_the_whole_store_is_away_the_leader_keeps_its_agents_and_leads_on_afterwards(etcd: EtcdServer) -> None:
    with controller(etcd.client_port) as leader:
        leader.set_share("svc=web", 3)
        with leader.agent("host-a") as agent:
            agent.reporting_until({"svc=web": 1.0}, lambda: bool(agent.sets), "a first set")
            etcd.kill()
            agent.reporting_until(
                {"svc=web": 1.0}, lambda: not leader.controller().store_available, "the outage is noticed"
            )
            etcd.start()
            agent.reporting_until(
                {"svc=web": 1.0},
                lambda: leader.controller().store_available and leads(leader),
                "the store is back, and it leads",
            )
            assert leader.set_share("svc=web", 4).changed


def test_a_slow_etcd_changes_no_leader_and_writes_are_done(etcd: EtcdServer) -> None:
    """0.3 s each way: a claim of the seat takes two answers, a write at least as many."""
    with TcpProxy(etcd.client_port) as proxy, controller(proxy.port) as leader, controller(proxy.port) as follower:
        leader.set_share("svc=web", 3)
        epoch = leader.controller().epoch
        proxy.slow_down(0.3)
        until = time.monotonic() + 2.5 * FAST.seat_ttl_ns / 1e9
        share = 3
        while time.monotonic() < until:
            share += 1
            assert leader.set_share("svc=web", share).changed
        assert leader.controller().epoch == epoch
        assert refused(follower) == (grpc.StatusCode.UNAVAILABLE, leader.address)
        assert leader.service("svc=web").record.policy.share == share


def test_an_etcd_too_slow_to_be_of_use_is_an_outage_until_it_is_faster(etcd: EtcdServer) -> None:
    """No answer comes within the second that one attempt has; what was asked for may be done all the same."""
    with TcpProxy(etcd.client_port) as proxy, controller(proxy.port) as one, controller(proxy.port) as two:
        one.set_share("svc=web", 3)
        epoch = one.controller().epoch
        proxy.slow_down(1.5)
        told = run("set-share", "svc=web", "4", "--controller", one.address, "--timeout", "20s")
        assert told.code == 3, told
        eventually(lambda: not one.controller().store_available, "the outage is told")
        time.sleep(FAST.seat_ttl_ns / 1e9)
        assert leads(one), "nobody else can lead either"
        proxy.slow_down(0)
        both = f"{one.address},{two.address}"
        shown = run("set-share", "svc=web", "5", "--controller", both, "--timeout", "30s")
        assert shown.code == 0, shown
        leading = next(running for running in (one, two) if leads(running))
        assert leading.controller().epoch >= epoch
        assert leading.service("svc=web").record.policy.share == 5
        eventually(lambda: leads(one) != leads(two), "one leads")


def test_two_controllers_on_one_file_do_not_both_lead(tmp_path: Path) -> None:
    path = tmp_path / "policy.db"
    with contextlib.ExitStack() as stack:
        leader = stack.enter_context(RunningController(SqliteStore(path)))
        with RunningController(SqliteStore(path)) as follower:
            assert leads(leader)
            assert refused(follower) == (grpc.StatusCode.UNAVAILABLE, leader.address)
            stack.close()
            eventually(lambda: leads(follower), "the follower leads")
