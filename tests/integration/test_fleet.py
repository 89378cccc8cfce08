"""A whole fleet for real: controller program, agents in scopes, spinning services, the command line, failures."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from support.commands import run
from support.etcd_server import NO_ETCD, EtcdServer, etcd_on_path
from support.fleet_machine import (
    CLOSE,
    HOSTS,
    PLACEMENT,
    SHARES,
    FleetMachine,
    fractions,
    possible,
    worked_example,
)
from support.processes import WAIT_S, wait_until

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.root,
    pytest.mark.quiet,  # noise fails nothing here, but everything takes longer to settle
    pytest.mark.skipif(not possible(), reason="needs root, for cgroups as hosts, and two CPUs"),
]

LEASE_S = 3.0


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FleetMachine]:
    """The worked example on an embedded store, settled once; every test leaves it as it was."""
    folder = tmp_path_factory.mktemp("fleet")
    with worked_example(f"sqlite:{folder}/policy.db", lease=f"{LEASE_S:g}s") as machine:
        yield machine
        machine.stop_agents()
        assert machine.frozen() == []


def test_the_worked_example_comes_out_and_the_command_line_tells_it(fleet: FleetMachine) -> None:
    services = {service["see"]: service for service in fleet.utilctl("get", "services")["services"]}
    assert {see: service["share"] for see, service in services.items()} == SHARES
    for see, hosts in PLACEMENT.items():
        assert {entry["host"] for entry in services[see]["per_host"] if entry["processes"]} == set(hosts)
        assert all(entry["problem"] == "" for entry in services[see]["per_host"])
        assert services[see]["consumed_total_ns"] > 0
    hosts_document = fleet.utilctl("get", "hosts")["hosts"]
    assert [host["host"] for host in hosts_document] == list(HOSTS)
    for host in hosts_document:
        assert (host["connected"], host["capacity_cores"], host["mechanism"]) == (True, 1.0, "freezer")
        assert 0 <= host["unclaimed_cores"] <= 1.0
        assert host["applied_generation"] > 0
    explained = fleet.utilctl("explain", "svc=batch")
    assert explained["entitlement_cores"] == pytest.approx(fleet.entitled()["svc=batch"], abs=2 * CLOSE)
    assert explained["share"] == 2
    assert explained["sentence"]
    assert explained["decided_at"]
    assert len(explained["trace_id"]) == 32
    on_one_host = fleet.utilctl("explain", "svc=batch", "--host", "host-a")
    assert [entry["host"] for entry in on_one_host["per_host"]] == ["host-a"]


def test_a_service_that_is_deleted_is_let_go_and_may_come_back(fleet: FleetMachine) -> None:
    etl = ("host-b", "svc=etl")
    assert etl in _held_back_within(fleet, 1.0)
    fleet.utilctl("delete", "svc=etl", "--reason", "no longer needed")
    assert sorted(fleet.entitled()) == ["svc=batch", "svc=web"]
    history = fleet.utilctl("history", "svc=etl")["entries"]
    assert [(entry["new"] is None, entry["reason"]) for entry in history[:2]] == [
        (True, "no longer needed"),
        (False, "worked example"),
    ]
    assert run("get", "share", "svc=etl", "--controller", fleet.address).code == 1
    wait_until(lambda: etl not in _held_back_within(fleet, 0.4), "what is managed no more is never held back")
    fleet.utilctl("set-share", "svc=etl", "1", "--reason", "worked example")
    wait_until(lambda: etl in _held_back_within(fleet, 0.4), "it is held back again")


def test_disable_lets_everybody_go_within_a_second_until_enable(fleet: FleetMachine) -> None:
    assert _held_back_within(fleet, 1.0)
    told = fleet.utilctl("disable", "--reason", "incident 7")
    told_at = time.monotonic()
    assert (told["disabled"], told["changed"], told["hosts"]) == (True, True, len(HOSTS))
    while fleet.frozen():
        assert time.monotonic() - told_at < 1.0, f"still held back: {fleet.frozen()}"
        time.sleep(0.005)
    assert _held_back_within(fleet, 2.0) == set()
    split = fractions(fleet.measured(1.0))
    assert split["host-a", "svc=web"] == pytest.approx(0.5, abs=CLOSE), "the kernel shares alone"

    said = run("get", "services", "--controller", fleet.address)
    assert "shares are disabled on the whole fleet" in " ".join(said.stdout.split())
    assert "incident 7" in said.stdout
    explained = fleet.utilctl("explain", "svc=web")
    assert explained["binding_constraint"] == "disabled"
    # It outlasts a controller and its agents' leases.
    fleet.kill_controller()
    assert _held_back_within(fleet, LEASE_S + 1.0) == set()
    fleet.start_controller()
    wait_until(lambda: all(host["connected"] for host in _hosts(fleet)) and len(_hosts(fleet)) == 2, "both are back")
    assert _held_back_within(fleet, 2.0) == set()

    fleet.utilctl("enable", "--reason", "over")
    wait_until(lambda: bool(_held_back_within(fleet, 0.4)), "shares hold again")
    fleet.wait_for_worked_example()
    until_split(fleet)
    history = fleet.utilctl("history", "-n", "2")["entries"]
    assert [(entry["fleet_disabled"], entry["reason"]) for entry in history] == [(False, "over"), (True, "incident 7")]


def test_a_held_service_keeps_its_part_of_each_host_whatever_is_set(fleet: FleetMachine) -> None:
    before = fleet.measured(1.5)
    held = fleet.utilctl("hold", "svc=web", "--for", "1h", "--reason", "load test")
    try:
        assert [entry["host"] for entry in held["held"]] == list(HOSTS)
        fleet.utilctl("set-share", "svc=batch", "1000")
        time.sleep(2.0)
        now = fleet.measured(1.5)
        told = {"held": held["held"], "before": before, "now": now}
        assert fractions(now)["host-a", "svc=web"] == pytest.approx(
            fractions(before)["host-a", "svc=web"], abs=CLOSE
        ), told
        assert fleet.utilctl("explain", "svc=web")["binding_constraint"] == "hold"
        fleet.utilctl("release", "svc=web")
        wait_until(lambda: fractions(fleet.measured(0.5))["host-a", "svc=web"] < 0.6, "released, it gives way")
    finally:
        # The fleet is that of the other tests, too.
        fleet.utilctl("release", "svc=web")
        fleet.utilctl("set-share", "svc=batch", "2")
        fleet.wait_for_worked_example()


def _held_back_within(fleet: FleetMachine, seconds: float) -> set[tuple[str, str]]:
    """Who is seen held back at least once during the next ``seconds``."""
    seen: set[tuple[str, str]] = set()
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        seen.update(fleet.frozen())
        time.sleep(0.005)
    return seen


def test_agents_cut_off_keep_enforcing_then_fall_back_to_static_shares_and_come_back_by_themselves(
    fleet: FleetMachine,
) -> None:
    epoch = fleet.client().services()["controller"]["epoch"]
    granted = fleet.granted()
    fleet.kill_controller()
    cut_off = time.monotonic()
    # Within the lease the last targets hold: nearly all of host-a is web's. Without enforcement half of it were.
    assert_split(fleet.measured(LEASE_S / 2), granted)
    refused = run("get", "services", "--controller", fleet.address, "--timeout", "300ms")
    assert refused.code == 3
    # After it, static shares: web to batch as 3 to 2 on host-a, batch to etl as 2 to 1 on host-b.
    time.sleep(max(0.0, cut_off + LEASE_S + 0.8 - time.monotonic()))
    deadline = time.monotonic() + WAIT_S
    while True:
        split = fractions(fleet.measured(1.0))
        web, etl = split["host-a", "svc=web"], split["host-b", "svc=etl"]
        if abs(web - 0.6) < 0.06 and abs(etl - 1 / 3) < 0.06:
            break
        assert time.monotonic() < deadline, f"never came to static shares: web {web:.2f} of a, etl {etl:.2f} of b"

    fleet.start_controller()
    wait_until(lambda: all(host["connected"] for host in _hosts(fleet)) and len(_hosts(fleet)) == 2, "both are back")
    fleet.wait_for_worked_example()
    assert fleet.client().services()["controller"]["epoch"] > epoch


def assert_split(measured: dict[tuple[str, str], float], granted: dict[tuple[str, str], float]) -> None:
    """Every host's services share it as they were granted it."""
    for key, wanted in fractions(granted).items():
        assert fractions(measured)[key] == pytest.approx(wanted, abs=1.5 * CLOSE), key


def until_split(fleet: FleetMachine) -> None:
    """Wait for a second in which everybody gets what he is granted: not in every second is the machine there for us."""
    wait_until(lambda: _is_split(fleet), "every host's services share it as they are granted it")


def _is_split(fleet: FleetMachine) -> bool:
    measured, granted = fractions(fleet.measured(1.0)), fractions(fleet.granted())
    return all(abs(measured[key] - wanted) <= 1.5 * CLOSE for key, wanted in granted.items())


def _hosts(fleet: FleetMachine) -> list[dict[str, object]]:
    return [dict(host) for host in fleet.client().hosts()["hosts"]]


@pytest.mark.etcd
@pytest.mark.skipif(not etcd_on_path(), reason=NO_ETCD)
def test_while_etcd_is_away_agents_go_on_enforcing_and_writes_are_refused_and_nothing_is_lost() -> None:
    with EtcdServer() as etcd, worked_example(f"etcd:{etcd.address}") as fleet:
        version = fleet.utilctl("get", "share", "svc=etl")["version"]
        etcd.kill()
        refused = run("set-share", "svc=etl", "4", "--controller", fleet.address, "--timeout", "2s")
        assert refused.code == 3, refused
        assert refused.stderr.count("\n") == 1
        # Reads are served and the fleet split holds.
        assert fleet.utilctl("get", "share", "svc=etl")["share"] == 1
        until_split(fleet)
        wait_until(lambda: not fleet.client().services()["controller"]["store_available"], "the outage is told")
        assert "store" in fleet.client().services()["controller"]["degraded_reason"]
        assert [host["connected"] for host in _hosts(fleet)] == [True, True]
        until_split(fleet)

        etcd.start()
        wait_until(lambda: bool(fleet.client().services()["controller"]["store_available"]), "the store is back")
        kept = fleet.utilctl("get", "share", "svc=etl")
        assert (kept["share"], kept["version"]) == (1, version)
        written = fleet.utilctl("set-share", "svc=etl", "4")
        assert written["changed"]
        assert fleet.utilctl("get", "share", "svc=etl")["share"] == 4
        wait_until(lambda: fleet.entitled()["svc=etl"] > fleet.entitled()["svc=batch"], "the new share moves the fleet")
        fleet.stop_agents()
        assert fleet.frozen() == []
