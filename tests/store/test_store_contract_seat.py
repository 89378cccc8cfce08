"""The leader's seat: one holder at a time, epochs that grow with every change, and how it becomes free."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from support.etcd_server import EtcdServer
from support.processes import wait_until
from support.store_harness import Harness
from utilctl_common.quantities import NS_PER_S
from utilctl_controller.store.etcd import EtcdStore
from utilctl_controller.store.etcd_endpoints import parse_endpoints
from utilctl_controller.store.port import Seat, StoreUnavailableError

TTL_NS = 3 * NS_PER_S


class TestOnEveryStore:
    def test_the_first_to_claim_it_holds_it_and_the_others_are_told_who(self, harness: Harness) -> None:
        first, second = harness.open(), harness.open()
        seat = first.claim_seat("one", "a:1", TTL_NS)
        assert (seat.holder, seat.address) == ("one", "a:1")
        assert second.claim_seat("two", "b:1", TTL_NS) == seat

    def test_to_prolong_it_changes_nothing(self, harness: Harness) -> None:
        store = harness.open()
        seat = store.claim_seat("one", "a:1", TTL_NS)
        assert [store.claim_seat("one", "a:1", TTL_NS) for _ in range(3)] == [seat] * 3

    def test_once_left_it_is_taken_at_once_by_a_later_epoch(self, harness: Harness) -> None:
        first, second = harness.open(), harness.open()
        seat = first.claim_seat("one", "a:1", TTL_NS)
        second.claim_seat("two", "b:1", TTL_NS)
        first.leave_seat()
        taken = second.claim_seat("two", "b:1", TTL_NS)
        assert taken.holder == "two"
        assert taken.epoch > seat.epoch
        assert first.claim_seat("one", "a:1", TTL_NS) == taken

    def test_who_does_not_hold_it_can_leave_it_without_harm(self, harness: Harness) -> None:
        first, second = harness.open(), harness.open()
        seat = first.claim_seat("one", "a:1", TTL_NS)
        second.leave_seat()
        assert second.claim_seat("two", "b:1", TTL_NS) == seat

    def test_of_many_who_claim_it_at_once_one_gets_it(self, harness: Harness) -> None:
        stores = [harness.open() for _ in range(4)]
        barrier = threading.Barrier(4)

        def claim(number: int) -> list[Seat]:
            barrier.wait(60)
            seats = []
            for _ in range(5):
                try:
                    seats.append(stores[number].claim_seat(str(number), f"h{number}:1", TTL_NS))
                except StoreUnavailableError:
                    continue  # just being taken
            return seats

        with ThreadPoolExecutor(4) as pool:
            told = [seat for seats in pool.map(claim, range(4)) for seat in seats]
        assert len(set(told)) == 1

    def test_an_epoch_of_a_seat_is_nobody_elses(self, harness: Harness) -> None:
        store = harness.open()
        before = store.next_epoch()
        seat = store.claim_seat("one", "a:1", TTL_NS)
        assert before < seat.epoch < store.next_epoch()

    def test_a_store_that_is_away_says_so(self, harness: Harness) -> None:
        with pytest.raises(StoreUnavailableError):
            harness.open_unreachable().claim_seat("one", "a:1", TTL_NS)

    def test_closing_the_store_of_a_process_that_ends_frees_it_in_time(self, harness: Harness) -> None:
        first, second = harness.open(), harness.open()
        seat = first.claim_seat("one", "a:1", TTL_NS)
        first.close()
        wait_until(lambda: second.claim_seat("two", "b:1", TTL_NS).holder == "two", "the seat is free")
        assert second.claim_seat("two", "b:1", TTL_NS).epoch > seat.epoch


@pytest.mark.etcd
class TestOnEtcd:
    @staticmethod
    def store(server: EtcdServer, prefix: str) -> EtcdStore:
        return EtcdStore(parse_endpoints(server.address), prefix)

    def test_a_later_life_at_the_same_address_need_not_wait(self, etcd_server: EtcdServer) -> None:
        first = self.store(etcd_server, "/seat-same-address/")
        second = self.store(etcd_server, "/seat-same-address/")
        try:
            seat = first.claim_seat("before", "a:1", 60 * NS_PER_S)
            taken = second.claim_seat("now", "a:1", 60 * NS_PER_S)
            assert taken.holder == "now"
            assert taken.epoch > seat.epoch
        finally:
            first.close()
            second.close()

    def test_a_seat_whose_key_was_deleted_is_taken_by_a_later_epoch(self, etcd_server: EtcdServer) -> None:
        store = self.store(etcd_server, "/seat-deleted/")
        try:
            seat = store.claim_seat("one", "a:1", TTL_NS)
            store._client.write_if({}, {}, ["/seat-deleted/seat"], (), NS_PER_S)
            again = store.claim_seat("one", "a:1", TTL_NS)
            assert again == Seat("one", "a:1", seat.epoch + 1)
            assert store.claim_seat("one", "a:1", TTL_NS) == again
        finally:
            store.close()

    def test_a_seat_that_cannot_be_read_is_replaced(self, etcd_server: EtcdServer) -> None:
        etcd_server.put("/seat-spoilt/seat", b"?")
        store = self.store(etcd_server, "/seat-spoilt/")
        try:
            assert store.claim_seat("one", "a:1", TTL_NS).holder == "one"
        finally:
            store.close()
