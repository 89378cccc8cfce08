"""What only the etcd adapter promises: nothing lost or repeated while a real etcd dies, hangs or is replaced."""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from support.etcd_server import NO_ETCD, EtcdServer, etcd_on_path, free_port
from support.store_harness import SHORT_DEADLINE_NS, Closing
from support.store_values import WAIT_S, Watching, change, done, policy, stored
from support.tcp_proxy import TcpProxy
from utilctl_common.errors import FailedError, UsageError
from utilctl_common.matchers import matcher_from_mapping
from utilctl_common.quantities import NS_PER_S
from utilctl_controller.store import etcd_client
from utilctl_controller.store.etcd import EtcdStore
from utilctl_controller.store.etcd_endpoints import parse_endpoints
from utilctl_controller.store.port import (
    Committed,
    Done,
    LostRace,
    PolicyEvent,
    PolicyWrite,
    StoreUnavailableError,
    Unavailable,
)
from utilctl_controller.store.values import STORE_SCHEMA_VERSION

pytestmark = pytest.mark.etcd

Open = Callable[..., EtcdStore]


@pytest.fixture
def open_etcd(closing: Closing) -> Open:
    """Opens stores by ``HOST:PORT[,...]`` and closes them after the test."""

    def opened(address: str, deadline_ns: int = 20 * NS_PER_S, prefix: str = "/utilctl/v1/") -> EtcdStore:
        store = EtcdStore(parse_endpoints(address), prefix, deadline_ns=deadline_ns)
        closing(store)
        return store

    return opened


def wait_until(condition: Callable[[], bool]) -> None:
    deadline_ns = time.monotonic_ns() + int(WAIT_S * NS_PER_S)
    while not condition():
        assert time.monotonic_ns() < deadline_ns, "waited in vain"
        time.sleep(0.01)


# Death and resurrection.


def test_nothing_acknowledged_is_lost_or_repeated_when_etcd_is_killed_under_load(
    own_etcd_server: EtcdServer, open_etcd: Open
) -> None:
    server = own_etcd_server
    stores = [open_etcd(server.address, deadline_ns=2 * NS_PER_S) for _ in range(3)]
    start = stores[0].snapshot().revision
    acknowledged: dict[str, int] = {}
    unknown: set[str] = set()
    enough = threading.Event()

    def write(writer: int) -> None:
        store, see, number, version = stores[writer], f"svc=s{writer % 2}", 0, 0
        while not enough.is_set():
            number += 1
            reason = f"{writer}/{number}"
            outcome = store.put(policy(see, share=number), change(reason), version)
            match outcome:
                case Done(record, revision):
                    assert record is not None
                    version, acknowledged[reason] = record.version, revision
                case LostRace(current):
                    version = 0 if current is None else current.version
                case Unavailable():
                    unknown.add(reason)

    def wait_until_more_than(count: int) -> None:
        wait_until(lambda: len(acknowledged) > count)

    with Watching(stores[2], start) as watching, ThreadPoolExecutor(3) as pool:
        writers = [pool.submit(write, writer) for writer in range(3)]
        try:
            for _ in range(3):
                wait_until_more_than(len(acknowledged) + 30)
                server.kill()
                server.start()
            wait_until_more_than(len(acknowledged) + 30)
        finally:
            enough.set()
        for writer in writers:
            writer.result(WAIT_S)
        history = stores[0].history(None, 100_000)
        written = Counter(entry.change.reason for entry in history)
        assert set(written.values()) == {1}
        assert set(acknowledged) <= set(written) <= set(acknowledged) | unknown
        revisions = {entry.change.reason: entry.revision for entry in history}
        assert {reason: revisions[reason] for reason in acknowledged} == acknowledged

        told = [watching.take_event() for _ in history]
        assert [event.revision for event in told] == sorted(entry.revision for entry in history)
        assert watching.pending() == []


def test_a_frozen_etcd_makes_writes_unavailable_and_they_work_again_when_it_thaws(
    own_etcd_server: EtcdServer, open_etcd: Open
) -> None:
    patient, store = open_etcd(own_etcd_server.address), open_etcd(own_etcd_server.address, SHORT_DEADLINE_NS)
    first = stored(patient.put(policy(), change(), 0))
    with Watching(patient, first.revision) as watching:
        own_etcd_server.pause()
        try:
            assert isinstance(store.put(policy(share=2), change(), 1), Unavailable)
            with pytest.raises(StoreUnavailableError, match="did not answer"):
                store.snapshot()
        finally:
            own_etcd_server.resume()
        second = stored(patient.put(policy(share=3), change(), 1))
        assert watching.take_event().record == second


# The network.


@pytest.mark.parametrize("delete", [False, True])
def test_a_write_whose_answer_got_lost_is_found_again(etcd_server: EtcdServer, open_etcd: Open, delete: bool) -> None:
    prefix = f"/{secrets.token_hex(8)}/"
    direct = open_etcd(etcd_server.address, prefix=prefix)
    stored(direct.put(policy(share=1), change("first"), 0))
    with TcpProxy(etcd_server.client_port) as proxy, ThreadPoolExecutor(1) as pool:
        store = open_etcd(f"127.0.0.1:{proxy.port}", prefix=prefix)
        proxy.lose_answers_to(b"second")
        if delete:
            writing = pool.submit(store.delete, "svc=web", change("second"), 1)
        else:
            writing = pool.submit(store.put, policy(share=2), change("second"), 1)
        wait_until(lambda: len(direct.history(None, 10)) == 2)
        assert not writing.done()
        if not delete:  # somebody else goes on from it before the writer knows
            stored(direct.put(policy(share=3), change("third"), 2))
        proxy.restore()
        outcome = done(writing.result(WAIT_S))
        entries = {entry.change.reason: entry for entry in direct.history(None, 10)}
        assert outcome.revision == entries["second"].revision
        assert len(entries) == len(direct.history(None, 10))
        if not delete:
            assert stored(outcome).version == 2
            assert stored(outcome).revision == outcome.revision
            assert direct.snapshot().records["svc=web"].policy.share == 3


def test_a_write_whose_answers_all_get_lost_is_unavailable_and_happened_at_most_once(
    etcd_server: EtcdServer, open_etcd: Open
) -> None:
    prefix = f"/{secrets.token_hex(8)}/"
    direct = open_etcd(etcd_server.address, prefix=prefix)
    with TcpProxy(etcd_server.client_port) as proxy:
        store = open_etcd(f"127.0.0.1:{proxy.port}", NS_PER_S, prefix)
        proxy.lose_answers_to(b"unheard")
        outcome = store.put(policy(), change("unheard"), 0)
        assert isinstance(outcome, Unavailable)
        assert "did not confirm" in outcome.reason
        wait_until(lambda: len(direct.history(None, 10)) == 1)
        proxy.restore()
        assert store.snapshot().records["svc=web"].version == 1
        assert isinstance(store.put(policy(), change("again"), 0), LostRace)


def test_a_dead_member_in_the_list_of_endpoints_does_no_harm(etcd_server: EtcdServer, open_etcd: Open) -> None:
    prefix = f"/{secrets.token_hex(8)}/"
    for number, address in enumerate(
        (f"127.0.0.1:{free_port()},{etcd_server.address}", f"{etcd_server.address},localhost:{free_port()}")
    ):
        store = open_etcd(address, prefix=prefix)
        with Watching(store, store.snapshot().revision) as watching:
            for step in range(4):
                written = stored(store.put(policy(share=1 + step), change(), 4 * number + step))
                assert watching.take_event().record == written
        assert store.next_epoch() == number + 1
        assert len(store.history(None, 100)) == 4 * (number + 1)


def test_a_host_name_serves_as_endpoint(etcd_server: EtcdServer, open_etcd: Open) -> None:
    store = open_etcd(f"localhost:{etcd_server.client_port}", prefix=f"/{secrets.token_hex(8)}/")
    stored(store.put(policy(), change(), 0))


# The watch.


def test_a_watch_that_missed_a_compaction_starts_from_a_snapshot(own_etcd_server: EtcdServer, open_etcd: Open) -> None:
    direct = open_etcd(own_etcd_server.address)
    with TcpProxy(own_etcd_server.client_port) as proxy:
        store = open_etcd(f"127.0.0.1:{proxy.port}")
        start = store.snapshot().revision
        with Watching(store, start) as watching:
            first = stored(direct.put(policy(share=1), change(), 0))
            assert watching.take_event().record == first
            proxy.refuse()
            latest = first
            for version in range(1, 4):
                latest = stored(direct.put(policy(share=1 + version), change(), version))
            own_etcd_server.compact(latest.revision)
            proxy.restore()
            reloaded = watching.take_reload().snapshot
            assert dict(reloaded.records) == {"svc=web": latest}
            later = stored(direct.put(policy(share=9), change(), 4))
            assert watching.take(1) == [PolicyEvent("svc=web", later, later.revision)]
    with Watching(direct, start) as watching:
        assert watching.take_reload().snapshot.records["svc=web"] == later


def test_an_outage_without_compaction_needs_no_reload(etcd_server: EtcdServer, open_etcd: Open) -> None:
    prefix = f"/{secrets.token_hex(8)}/"
    direct = open_etcd(etcd_server.address, prefix=prefix)
    with TcpProxy(etcd_server.client_port) as proxy:
        store = open_etcd(f"127.0.0.1:{proxy.port}", prefix=prefix)
        with Watching(store, direct.snapshot().revision) as watching:
            expected = []
            for version in range(0, 6, 2):
                proxy.restore()
                expected.append(done(direct.put(policy(), change(), version)).revision)
                proxy.refuse()
                expected.append(done(direct.put(policy(), change(), version + 1)).revision)
            proxy.restore()
            assert [watching.take_event().revision for _ in expected] == expected


@pytest.mark.parametrize("with_epoch", [True, False])
def test_a_watch_notices_that_the_database_is_a_new_one(
    own_etcd_server: EtcdServer, open_etcd: Open, with_epoch: bool
) -> None:
    server = own_etcd_server
    store = open_etcd(server.address)
    if with_epoch:
        store.next_epoch()
    stored(store.put(policy("svc=old"), change(), 0))
    with TcpProxy(server.client_port) as proxy:
        watched = open_etcd(f"127.0.0.1:{proxy.port}")
        with Watching(watched, watched.snapshot().revision) as watching:
            stored(store.put(policy("svc=old"), change(), 1))
            watching.take_event()
            proxy.refuse()
            server.kill()
            server.wipe()
            server.start()
            new = stored(store.put(policy("svc=new"), change(), 0))
            if with_epoch:  # the new database overtakes the old one's revision
                store.next_epoch()
                for version in range(1, 5):
                    new = stored(store.put(policy("svc=new"), change(), version))
            proxy.restore()
            assert dict(watching.take_reload().snapshot.records) == {"svc=new": new}


def test_a_hand_edit_is_an_event_and_counts_as_a_write(etcd_server: EtcdServer, open_etcd: Open) -> None:
    prefix = f"/{secrets.token_hex(8)}/"
    store = open_etcd(etcd_server.address, prefix=prefix)
    record = stored(store.put(policy(share=1), change(), 0))
    key = f"{prefix}see/svc=web"
    value = json.loads(etcd_server.get(key) or b"")
    assert value["policy"] == policy(share=1).to_json()
    with Watching(store, record.revision) as watching:
        value["policy"]["share"] = 7
        etcd_server.put(key, json.dumps(value).encode())
        edited = watching.take_event().record
        assert edited is not None
        assert (edited.policy.share, edited.version) == (7, 2)
        assert store.put(policy(share=2), change(), 1) == LostRace(edited)
        stored(store.put(policy(share=2), change(), 2))


def test_keys_that_are_no_services_are_reported_and_left_alone(etcd_server: EtcdServer, open_etcd: Open) -> None:
    prefix = f"/{secrets.token_hex(8)}/"
    store = open_etcd(etcd_server.address, prefix=prefix)
    for key in ("see/", "see/no name", "see/svc=web/", "history/svc=web/x", "seeker"):
        etcd_server.put(prefix + key, b"garbage")
    etcd_server.put(f"{prefix}see/svc=xz", b"\xfd7zXZ\x00 but not really")
    assert dict(store.snapshot().records) == {}
    assert len(store.problems) == 4
    assert store.history(None, 10) == ()
    assert any("history/svc=web/x" in problem for problem in store.problems)
    stored(store.put(policy(), change(), 0))
    assert len(store.history(None, 1)) == 1
    assert len(store.history(None, 10)) == 1


# Refusals.


def test_a_malformed_epoch_is_never_reset(etcd_server: EtcdServer, open_etcd: Open) -> None:
    prefix = f"/{secrets.token_hex(8)}/"
    store = open_etcd(etcd_server.address, prefix=prefix)
    for garbage in (b"", b"{}", b'{"epoch":-1}', b'{"epoch":true}', b'{"epoch":"7"}'):
        etcd_server.put(f"{prefix}epoch", garbage)
        with pytest.raises(StoreUnavailableError, match=f"malformed epoch.*{prefix}epoch"):
            store.next_epoch()
        assert etcd_server.get(f"{prefix}epoch") == garbage
    etcd_server.put(f"{prefix}epoch", b'{"epoch":41}')
    assert store.next_epoch() == 42


def test_a_database_of_a_newer_controller_is_refused_and_left_alone(etcd_server: EtcdServer, open_etcd: Open) -> None:
    prefix = f"/{secrets.token_hex(8)}/"
    newer = json.dumps({"epoch": 7, "schema": STORE_SCHEMA_VERSION + 1}).encode()
    etcd_server.put(f"{prefix}epoch", newer)
    with pytest.raises(FailedError, match="has schema 3, this program knows 2; upgrade the controller"):
        open_etcd(etcd_server.address, prefix=prefix).next_epoch()
    assert etcd_server.get(f"{prefix}epoch") == newer


def test_a_database_of_before_is_taken_over_with_the_next_epoch(etcd_server: EtcdServer, open_etcd: Open) -> None:
    prefix = f"/{secrets.token_hex(8)}/"
    store = open_etcd(etcd_server.address, prefix=prefix)
    etcd_server.put(f"{prefix}epoch", b'{"epoch":41,"store":"x"}')
    written = stored(store.put(policy(), change(), 0))
    assert store.next_epoch() == 42
    assert json.loads(etcd_server.get(f"{prefix}epoch") or b"")["schema"] == STORE_SCHEMA_VERSION
    assert dict(store.snapshot().records) == {"svc=web": written}


@pytest.mark.parametrize("services", [3, 100])
def test_a_commit_whose_answer_got_lost_is_found_again(etcd_server: EtcdServer, open_etcd: Open, services: int) -> None:
    prefix = f"/{secrets.token_hex(8)}/"
    store = open_etcd(etcd_server.address, prefix=prefix)
    writes = [PolicyWrite(f"svc=s{number}", policy(f"svc=s{number}"), 0) for number in range(services)]
    write_if = store._client.write_if
    lost: list[etcd_client.TxnResult] = []

    def losing_the_first_answer(*args: Any, **options: Any) -> etcd_client.TxnResult:
        result = write_if(*args, **options)
        if not lost:
            lost.append(result)
            raise etcd_client.EtcdUnavailableError("the answer got lost")
        return result

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(store._client, "write_if", losing_the_first_answer)
        outcome = store.commit(writes, change(), None)
    assert isinstance(outcome, Committed), outcome
    assert outcome.revision == lost[0].revision
    assert len(store.history(None, 1_000)) == services


def test_a_commit_too_large_for_etcd_is_refused_whole(etcd_server: EtcdServer, open_etcd: Open) -> None:
    store = open_etcd(etcd_server.address, prefix=f"/{secrets.token_hex(8)}/")
    matchers = (matcher_from_mapping({"command": secrets.token_hex(500)}),)
    writes = [PolicyWrite(f"svc=s{n}", policy(f"svc=s{n}", matchers=matchers), 0) for n in range(1_000)]
    with pytest.raises(UsageError, match="change of 1000 services at once is too large for etcd"):
        store.commit(writes, change(), None)
    assert dict(store.snapshot().records) == {}


def test_a_policy_too_large_for_etcd_is_refused_with_what_to_do(etcd_server: EtcdServer, open_etcd: Open) -> None:
    store = open_etcd(etcd_server.address, prefix=f"/{secrets.token_hex(8)}/")
    for size_bytes in (1_600_000, 2_200_000):  # refused by etcd itself, and by its gRPC server
        huge = tuple(matcher_from_mapping({"cgroup": "/" + secrets.token_hex(500)}) for _ in range(size_bytes // 1_000))
        with pytest.raises(UsageError, match=r"too large for etcd; .*--max-request-bytes"):
            store.put(policy(matchers=huge), change(), 0)
    assert dict(store.snapshot().records) == {}


def test_an_etcd_without_space_refuses_writes_and_serves_reads(open_etcd: Open) -> None:
    if not etcd_on_path():
        pytest.skip(NO_ETCD)
    with EtcdServer("--quota-backend-bytes=200000") as server:
        store = open_etcd(server.address, deadline_ns=60 * NS_PER_S)
        outcome, version = store.put(policy(), change(), 0), 0
        while isinstance(outcome, Done):
            version += 1
            outcome = store.put(policy(), change("x" * 20_000), version)
        assert isinstance(outcome, Unavailable)
        assert "space exceeded" in outcome.reason
        assert store.snapshot().records["svc=web"].version == version


def test_another_etcd3_package_is_refused_with_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "kv_pb2.py").write_text("DESCRIPTOR = None\n")
    with pytest.raises(FailedError, match=r"pip install etcd3==0\.12\.0"):
        etcd_client._install_messages(tmp_path)


def test_a_bad_prefix_is_refused() -> None:
    for prefix in ("", "utilctl/", "/utilctl", "/ütil/", "/a\n/"):
        with pytest.raises(UsageError):
            EtcdStore(parse_endpoints("127.0.0.1:1"), prefix)
