"""The leader of a real fleet is killed: another one leads within seconds, and the split of the CPUs never notices."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from support.etcd_server import NO_ETCD, EtcdServer, etcd_on_path
from support.fleet_machine import CLOSE, HOSTS, FleetMachine, fractions, possible, worked_example
from support.processes import WAIT_S, wait_until
from utilctl_common.errors import UnreachableError

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.root,
    pytest.mark.etcd,
    pytest.mark.quiet,  # noise fails nothing here, but everything takes longer to settle
    pytest.mark.skipif(not possible(), reason="needs root, for cgroups as hosts, and two CPUs"),
    pytest.mark.skipif(not etcd_on_path(), reason=NO_ETCD),
]

FAILOVER_S = 5.0
WINDOW_S = 0.5
WEB = ("host-a", "svc=web")


def _epoch(fleet: FleetMachine) -> int:
    return int(fleet.client().services()["controller"]["epoch"])


def _next_leads_after_s(fleet: FleetMachine, killed: float, epoch: int) -> float:
    while True:
        try:
            if _epoch(fleet) > epoch:
                return time.monotonic() - killed
        except UnreachableError:
            pass
        assert time.monotonic() < killed + WAIT_S, "nobody ever led again"
        time.sleep(0.05)


def test_while_the_leader_is_killed_and_another_one_takes_over_the_split_holds() -> None:
    """Without enforcement web had half of host-a, with static shares 0.6 of it; it is granted nearly all."""
    with EtcdServer() as etcd, worked_example(f"etcd:{etcd.address}", 2) as fleet:
        epoch, granted = _epoch(fleet), fractions(fleet.granted())
        assert granted[WEB] > 0.8
        fleet.kill_controller(0)
        killed = time.monotonic()
        windows = []
        with ThreadPoolExecutor(1) as pool:
            leading = pool.submit(_next_leads_after_s, fleet, killed, epoch)
            while not leading.done():
                windows.append(fractions(fleet.measured(WINDOW_S))[WEB])
            assert leading.result() <= FAILOVER_S

        def connected() -> bool:
            windows.append(fractions(fleet.measured(WINDOW_S))[WEB])
            hosts = fleet.client().hosts()["hosts"]
            return len(hosts) == len(HOSTS) and all(host["connected"] for host in hosts)

        wait_until(connected, "both agents have found the new leader")
        assert time.monotonic() - killed <= FAILOVER_S + 2 * WINDOW_S + 1.0
        # While it learns, and when it decides:
        windows += [fractions(fleet.measured(WINDOW_S))[WEB] for _ in range(6)]
        told = " ".join(f"{window:.2f}" for window in windows)
        assert min(windows) > granted[WEB] - 1.5 * CLOSE, told
        fleet.wait_for_worked_example()
        fleet.start_controller(0)
        assert (
            fleet.utilctl("set-share", "svc=etl", "1", "--reason", "through whoever is asked")["record"]["share"] == 1
        )
        fleet.stop_agents()
        assert fleet.frozen() == []
