"""Who does not hold the leader's seat writes nothing, however the loss of the seat and the write meet."""

from __future__ import annotations

import contextlib
import secrets
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from support.etcd_server import EtcdServer
from support.processes import wait_until
from support.store_harness import Harness, TestedStore
from support.store_values import WAIT_S, change, done, policy, stored
from support.tcp_proxy import TcpProxy
from utilctl_common.errors import NotLeadingError
from utilctl_common.quantities import NS_PER_S
from utilctl_controller.store.etcd import EtcdStore
from utilctl_controller.store.etcd_endpoints import parse_endpoints
from utilctl_controller.store.port import Done, LostRace, PolicyWrite, StoreUnavailableError
from utilctl_controller.store.sqlite import SqliteStore

TTL_NS = 60 * NS_PER_S

WRITES: dict[str, Callable[[TestedStore], object]] = {
    "put": lambda store: store.put(policy(share=9), change("late"), 1),
    "delete": lambda store: store.delete("svc=web", change("late"), 1),
    "commit": lambda store: store.commit([PolicyWrite("svc=web", policy(share=9), 1)], change("late"), None),
    "large commit": lambda store: store.commit(
        [PolicyWrite(f"svc=s{number}", policy(f"svc=s{number}"), 0) for number in range(100)], change("late"), None
    ),
    "switch": lambda store: store.put_switch(True, change("late"), 0),
}


class TestOnEveryStore:
    @pytest.mark.parametrize("write", WRITES)
    def test_a_deposed_leader_writes_nothing_and_the_next_one_does(self, harness: Harness, write: str) -> None:
        deposed, leader = harness.open(), harness.open()
        deposed.claim_seat("one", "a:1", TTL_NS)
        stored(deposed.put(policy(), change(), 0))
        deposed.leave_seat()
        leader.claim_seat("two", "b:1", TTL_NS)
        before = leader.snapshot()
        with pytest.raises(NotLeadingError):
            WRITES[write](deposed)
        after = leader.snapshot()
        assert (after.records, after.switch) == (before.records, before.switch)
        assert [entry.change.reason for entry in leader.history(None, 10)] == ["test"]
        WRITES[write](leader)
        assert leader.history(None, 1)[0].change.reason == "late"

    def test_who_only_ever_followed_writes_nothing(self, harness: Harness) -> None:
        leader, follower = harness.open(), harness.open()
        leader.claim_seat("one", "a:1", TTL_NS)
        follower.claim_seat("two", "b:1", TTL_NS)
        with pytest.raises(NotLeadingError):
            follower.put(policy(), change(), 0)
        assert leader.snapshot().records == {}

    def test_who_lost_the_seat_and_has_it_again_writes_again(self, harness: Harness) -> None:
        first, second = harness.open(), harness.open()
        first.claim_seat("one", "a:1", TTL_NS)
        first.leave_seat()
        second.claim_seat("two", "b:1", TTL_NS)
        second.leave_seat()
        first.claim_seat("one", "a:1", TTL_NS)
        stored(first.put(policy(), change(), 0))

    def test_a_lost_race_is_still_told_as_one(self, harness: Harness) -> None:
        leader = harness.open()
        leader.claim_seat("one", "a:1", TTL_NS)
        stored(leader.put(policy(), change(), 0))
        assert isinstance(leader.put(policy(share=2), change(), 0), LostRace)

    def test_while_the_seat_goes_round_every_write_is_of_who_held_it_then(self, harness: Harness) -> None:
        """Two take the seat from each other as fast as they can, and write whether they have it or not."""
        ended = threading.Event()
        stores = {name: harness.open() for name in ("one", "two")}
        observer = harness.open()
        stored(observer.put(policy(), change("0"), 0))

        def serve(name: str) -> list[tuple[int, int]]:
            """Revisions at which it wrote, each with the epoch that it believed to have."""
            store, wrote = stores[name], []
            while not ended.is_set():
                try:
                    seat = store.claim_seat(name, f"{name}:1", TTL_NS)
                except StoreUnavailableError:
                    continue  # the other is just taking it
                for _ in range(3):
                    try:
                        version = observer.snapshot().records["svc=web"].version
                        outcome = store.put(policy(share=version + 1), change(str(seat.epoch), name), version)
                    except NotLeadingError:
                        continue
                    if isinstance(outcome, Done):
                        assert seat.holder == name
                        wrote.append((outcome.revision, seat.epoch))
                store.leave_seat()
            return wrote

        with ThreadPoolExecutor(2) as pool:
            serving = [pool.submit(serve, name) for name in stores]
            try:
                wait_until(lambda: len(observer.history(None, 40)) == 40, "forty writes")
            finally:
                ended.set()
            wrote = sorted(entry for served in serving for entry in served.result(WAIT_S))
        epochs = [epoch for _, epoch in wrote]
        assert epochs == sorted(epochs), "nobody wrote after a write of a later leader"


@pytest.mark.etcd
class TestOnEtcd:
    @pytest.fixture
    def prefix(self) -> str:
        return f"/{secrets.token_hex(8)}/"

    @staticmethod
    def store(port: int, prefix: str) -> EtcdStore:
        return EtcdStore(parse_endpoints(f"127.0.0.1:{port}"), prefix)

    def test_the_refusal_names_the_leader(self, etcd_server: EtcdServer, prefix: str) -> None:
        deposed, leader = (self.store(etcd_server.client_port, prefix) for _ in range(2))
        try:
            deposed.claim_seat("one", "a:1", TTL_NS)
            deposed.leave_seat()
            with pytest.raises(NotLeadingError) as nobody:
                deposed.put(policy(), change(), 0)
            assert nobody.value.leader == ""
            leader.claim_seat("two", "b:1", TTL_NS)
            with pytest.raises(NotLeadingError) as somebody:
                deposed.put(policy(), change(), 0)
            assert somebody.value.leader == "b:1"
        finally:
            deposed.close()
            leader.close()

    def test_a_write_that_was_done_before_the_seat_was_lost_is_told_as_done(
        self, etcd_server: EtcdServer, prefix: str
    ) -> None:
        """Its first answer gets lost, and by the time of the second attempt another one leads."""
        direct = self.store(etcd_server.client_port, prefix)
        with TcpProxy(etcd_server.client_port) as proxy, ThreadPoolExecutor(1) as pool:
            store = self.store(proxy.port, prefix)
            try:
                store.claim_seat("one", "a:1", TTL_NS)
                proxy.lose_answers_to(b"marked")
                writing = pool.submit(store.put, policy(), change("marked"), 0)
                wait_until(lambda: len(direct.history(None, 10)) == 1, "the write is done")
                assert not writing.done()
                etcd_server.put(f"{prefix}seat", b'{"holder":"two","address":"b:1","epoch":99}')
                proxy.restore()
                assert done(writing.result(WAIT_S)).revision == direct.history(None, 1)[0].revision
                with pytest.raises(NotLeadingError):
                    store.put(policy(share=2), change("late"), 1)
            finally:
                store.close()
                direct.close()

    def test_two_that_were_given_the_same_address_do_not_take_the_seat_from_each_other_for_ever(
        self, etcd_server: EtcdServer, prefix: str
    ) -> None:
        first, second = (self.store(etcd_server.client_port, prefix) for _ in range(2))
        try:
            first.claim_seat("one", "a:1", TTL_NS)
            taken = second.claim_seat("two", "a:1", TTL_NS)
            assert taken.holder == "two", "who has just started may be the same controller again"
            for _ in range(3):
                assert first.claim_seat("one", "a:1", TTL_NS) == taken
                assert second.claim_seat("two", "a:1", TTL_NS) == taken
        finally:
            first.close()
            second.close()


def test_a_sqlite_leader_whose_lock_was_deleted_finds_out_by_its_next_write(tmp_path: Path) -> None:
    path = tmp_path / "policy.db"
    with contextlib.closing(SqliteStore(path)) as first, contextlib.closing(SqliteStore(path)) as second:
        seat = first.claim_seat("one", "a:1", TTL_NS)
        (tmp_path / "policy.db-seat").unlink()
        taken = second.claim_seat("two", "b:1", TTL_NS)
        assert taken.epoch > seat.epoch
        with pytest.raises(NotLeadingError):
            first.put(policy(), change(), 0)
        assert first.claim_seat("one", "a:1", TTL_NS) == taken
        stored(second.put(policy(), change(), 0))
