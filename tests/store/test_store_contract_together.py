"""What every policy store promises of several writes at once, and of racing writers: tried on each of them."""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from support.store_harness import Harness, TestedStore
from support.store_values import Watching, change, done, policy, stored
from utilctl_controller.store.port import CommitLost, Committed, Done, LostRace, PolicyEvent, PolicyWrite


class TestCommit:
    def test_a_commit_creates_changes_and_deletes_together_each_with_its_history(self, store: TestedStore) -> None:
        for name in ("svc=a", "svc=b"):
            stored(store.put(policy(name), change("before"), 0))
        writes = [
            PolicyWrite("svc=a", policy("svc=a", 2), 1),
            PolicyWrite("svc=b", None, 1),
            PolicyWrite("svc=c", policy("svc=c", 3), 0),
        ]
        outcome = store.commit(writes, change("file"), None)
        assert isinstance(outcome, Committed), outcome
        records = store.snapshot().records
        assert outcome.records == {**records, "svc=b": None}
        assert {see: (record.policy.share, record.version) for see, record in records.items()} == {
            "svc=a": (2, 2),
            "svc=c": (3, 1),
        }
        assert store.snapshot().revision >= outcome.revision
        told = {entry.see: (entry.old, entry.new, entry.change.reason) for entry in store.history(None, 3)}
        assert told == {
            "svc=a": (policy("svc=a"), policy("svc=a", 2), "file"),
            "svc=b": (policy("svc=b"), None, "file"),
            "svc=c": (None, policy("svc=c", 3), "file"),
        }

    @pytest.mark.parametrize("late", [0, 1, 2])
    def test_a_commit_of_which_one_write_is_late_writes_nothing(self, store: TestedStore, late: int) -> None:
        for name in ("svc=a", "svc=b"):
            stored(store.put(policy(name), change(), 0))
        before, history = store.snapshot(), store.history(None, 10)
        writes = [
            PolicyWrite("svc=a", policy("svc=a", 2), 1),
            PolicyWrite("svc=b", None, 1),
            PolicyWrite("svc=c", policy("svc=c", 3), 0),
        ]
        writes[late] = replace(writes[late], expected_version=5)
        assert store.commit(writes, change(), None) == CommitLost(writes[late].see)
        assert store.snapshot().records == before.records
        assert store.history(None, 10) == history

    def test_a_commit_may_ask_that_nothing_at_all_was_changed(self, store: TestedStore) -> None:
        stored(store.put(policy("svc=a"), change(), 0))
        revision = store.snapshot().revision
        write = PolicyWrite("svc=b", policy("svc=b"), 0)
        assert isinstance(store.commit([write], change(), revision), Committed)
        later = [PolicyWrite("svc=b", policy("svc=b", 2), 1)]
        assert store.commit(later, change(), revision) == CommitLost("")
        done(store.delete("svc=a", change(), 1))
        assert store.commit(later, change(), store.history(None, 2)[1].revision) == CommitLost("")
        assert isinstance(store.commit(later, change(), 2**63 - 1), Committed)
        assert isinstance(store.commit([], change(), 2**63 - 1), Committed)
        assert store.commit([], change(), revision) == CommitLost("")

    def test_hundreds_of_services_are_committed_together_or_not_at_all(self, harness: Harness) -> None:
        store, other = harness.open(), harness.open()
        names = [f"svc=s{number:04}" for number in range(300)]
        with Watching(other, store.snapshot().revision) as watching:
            created = store.commit([PolicyWrite(name, policy(name), 0) for name in names], change(), None)
            assert isinstance(created, Committed), created
            told = [event.see for event in watching.take(300) if isinstance(event, PolicyEvent)]
            assert sorted(told) == names
        update = [PolicyWrite(name, policy(name, 2), 1) for name in names]
        late = [*update[:-1], replace(update[-1], expected_version=2)]
        assert store.commit(late, change(), None) == CommitLost(names[-1])
        assert {record.policy.share for record in store.snapshot().records.values()} == {1}
        assert isinstance(other.commit(update, change(), created.revision), Committed)
        assert {record.policy.share for record in store.snapshot().records.values()} == {2}
        assert isinstance(store.commit([PolicyWrite(name, None, 2) for name in names], change(), None), Committed)
        assert dict(other.snapshot().records) == {}
        assert len(other.history(None, 1_000)) == 900

    def test_of_racing_commits_each_is_seen_whole_or_not_at_all(self, harness: Harness) -> None:
        names = ["svc=a", "svc=b", "svc=c"]
        handles = [harness.open() for _ in range(4)]

        def write(handle: TestedStore, who: int) -> int:
            won = 0
            for _ in range(20):
                records = handle.snapshot().records
                share = who + 1.0
                writes = [
                    PolicyWrite(name, policy(name, share), records[name].version if name in records else 0)
                    for name in names
                ]
                won += isinstance(handle.commit(writes, change(str(who)), None), Committed)
            return won

        with ThreadPoolExecutor(4) as pool:
            wins = sum(pool.map(write, handles, range(4)))
        records = harness.open().snapshot().records
        assert {record.version for record in records.values()} == {wins}
        assert len({record.policy.share for record in records.values()}) == 1
        history = harness.open().history(None, 1_000)
        assert len(history) == 3 * wins
        assert all(
            len({entry.change.reason for entry in history[start : start + 3]}) == 1
            for start in range(0, len(history), 3)
        )


class TestRacingWriters:
    def test_every_acknowledged_write_of_racing_writers_is_in_the_history_once(self, harness: Harness) -> None:
        stores = [harness.open(), harness.open()]
        acknowledged: list[str] = []
        lost = Counter[str]()
        lock = threading.Lock()

        def write(writer: int) -> None:
            store = stores[writer % 2]
            for number in range(12):
                reason, version, outcome = f"{writer}/{number}", 0, None
                while not isinstance(outcome, Done):
                    outcome = store.put(policy(share=1 + number), change(reason), version)
                    if isinstance(outcome, LostRace):
                        assert outcome.current is not None
                        version = outcome.current.version
                        lost["races"] += 1
                    else:
                        assert isinstance(outcome, Done)
                with lock:
                    acknowledged.append(reason)

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(write, range(4)))
        history = stores[0].history("svc=web", 1_000)
        assert sorted(entry.change.reason for entry in history) == sorted(acknowledged)
        assert stores[1].snapshot().records["svc=web"].version == 48
        assert lost["races"] > 0
        for newer, older in pairwise(history):
            assert newer.revision > older.revision
            assert newer.old == older.new

    def test_racing_creators_of_one_service_have_one_winner(self, harness: Harness) -> None:
        stores = [harness.open() for _ in range(4)]
        barrier = threading.Barrier(4)

        def create(number: int) -> Any:
            barrier.wait(60)
            return stores[number].put(policy(share=1 + number), change(str(number)), 0)

        with ThreadPoolExecutor(4) as pool:
            outcomes = list(pool.map(create, range(4)))
        winners = [outcome for outcome in outcomes if isinstance(outcome, Done)]
        assert len(winners) == 1
        assert [o for o in outcomes if not isinstance(o, Done)] == [LostRace(winners[0].record)] * 3


class TestEpoch:
    def test_epochs_grow_over_reopening_and_between_handles(self, harness: Harness) -> None:
        epochs = []
        for _ in range(3):
            store, other = harness.open(), harness.open()
            epochs += [store.next_epoch(), other.next_epoch(), store.next_epoch()]
            store.close()
        assert epochs == list(range(1, 10))

    def test_racing_controllers_never_get_the_same_epoch(self, harness: Harness) -> None:
        stores = [harness.open() for _ in range(3)]
        with ThreadPoolExecutor(3) as pool:
            epochs = list(pool.map(lambda n: stores[n % 3].next_epoch(), range(15)))
        assert len(set(epochs)) == 15
