"""What every policy store promises, tried on each of them."""

from __future__ import annotations

import json
import logging
import threading
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from support.store_harness import Harness, TestedStore
from support.store_values import Watching, change, done, policy, stored
from utilctl_common.errors import UsageError
from utilctl_common.matchers import matcher_from_mapping
from utilctl_common.policy import SCHEMA_VERSION, HeldShare, Hold
from utilctl_controller.store.port import (
    CommitLost,
    Committed,
    Done,
    HistoryEntry,
    LostRace,
    PolicyEvent,
    PolicyWrite,
    StoreUnavailableError,
    SwitchEvent,
    SwitchRecord,
    Unavailable,
)

STRANGE_TEXT = "Zoë's 🚀 \u2028 'quoted' \"twice\" \\ \0 \x1b[0m \udc80 line\nbreak"


class TestPolicyStore:
    # Reading and writing.

    def test_an_empty_store_has_no_policies_and_no_history(self, store: TestedStore) -> None:
        assert dict(store.snapshot().records) == {}
        assert store.history(None, 10) == ()
        assert store.problems == ()

    def test_create_update_and_delete_are_seen_by_the_next_snapshot(self, store: TestedStore) -> None:
        created = stored(store.put(policy(share=1), change("create"), 0))
        assert (created.version, created.policy.share, created.change) == (1, 1, change("create"))
        assert dict(store.snapshot().records) == {"svc=web": created}

        updated = stored(store.put(policy(share=2), change("update"), 1))
        assert (updated.version, updated.policy.share) == (2, 2)
        assert updated.revision > created.revision
        snapshot = store.snapshot()
        assert dict(snapshot.records) == {"svc=web": updated}
        assert snapshot.revision >= updated.revision

        deleted = done(store.delete("svc=web", change("delete"), 2))
        assert deleted.record is None
        assert deleted.revision > updated.revision
        assert dict(store.snapshot().records) == {}

    def test_every_field_of_a_policy_comes_back(self, harness: Harness) -> None:
        matchers = (
            matcher_from_mapping({"user": "www-data", "cmdline": r"^nginx: \w+, \"x\""}),
            matcher_from_mapping({"cgroup": "/ä/*"}),
        )
        full = policy("svc=web/class=gold", 0.125, matchers)
        full = type(full)(full.name, full.share, 0.5, 2.5, "freezer", full.matchers)
        written = stored(harness.open().put(full, change(), 0))
        assert written.policy == full
        assert harness.open().snapshot().records[full.name] == written

    def test_a_child_is_another_service_than_its_parent(self, store: TestedStore) -> None:
        for name in ("svc=web", "svc=web/class=gold", "svc=web2"):
            stored(store.put(policy(name), change(name), 0))
        done(store.delete("svc=web", change(), 1))
        assert set(store.snapshot().records) == {"svc=web/class=gold", "svc=web2"}
        assert [entry.see for entry in store.history("svc=web", 10)] == ["svc=web"] * 2
        assert [entry.change.reason for entry in store.history("svc=web/class=gold", 10)] == ["svc=web/class=gold"]

    @pytest.mark.parametrize("text", [STRANGE_TEXT, "", "x" * 100_000])
    def test_any_text_of_a_reason_comes_back(self, harness: Harness, text: str) -> None:
        who = change(reason=text, who=text[:50], at_unix_ns=-1)
        written = stored(harness.open().put(policy(), who, 0))
        assert written.change == who
        other = harness.open()
        assert other.snapshot().records["svc=web"].change == who
        assert other.history("svc=web", 1)[0].change == who

    def test_a_matcher_list_of_a_megabyte_comes_back(self, harness: Harness) -> None:
        matchers = [matcher_from_mapping({"cgroup": f"/pods/{uuid.uuid4()}/*"}) for _ in range(17_000)]
        big, bigger = policy(matchers=tuple(matchers[1:])), policy(matchers=tuple(matchers))
        assert len(json.dumps(big.to_json())) > 1_000_000
        store = harness.open()
        with Watching(harness.open(), store.snapshot().revision) as watching:
            stored(store.put(big, change(), 0))
            written = stored(store.put(bigger, change(), 1))
            assert [event.record for event in (watching.take_event(), watching.take_event())][1] == written
        assert harness.open().snapshot().records["svc=web"].policy == bigger
        assert [(entry.old, entry.new) for entry in store.history("svc=web", 2)] == [(big, bigger), (None, big)]

    def test_a_thousand_and_more_services_are_read_whole(self, store: TestedStore) -> None:
        names = [f"svc=s{number:04}" for number in range(1_100)]
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda name: done(store.put(policy(name), change(), 0)), names))
        assert sorted(store.snapshot().records) == names

    # Compare and set.

    @pytest.mark.parametrize("expected_version", [0, 1, 3, -1, 2**70])
    def test_a_write_with_a_wrong_version_changes_nothing(self, store: TestedStore, expected_version: int) -> None:
        stored(store.put(policy(share=1), change(), 0))
        current = stored(store.put(policy(share=2), change(), 1))
        before = store.history(None, 10)
        assert store.put(policy(share=9), change(), expected_version) == LostRace(current)
        assert store.delete("svc=web", change(), expected_version) == LostRace(current)
        assert dict(store.snapshot().records) == {"svc=web": current}
        assert store.history(None, 10) == before

    @pytest.mark.parametrize("expected_version", [1, -1])
    def test_an_update_of_what_does_not_exist_creates_nothing(self, store: TestedStore, expected_version: int) -> None:
        assert store.put(policy(), change(), expected_version) == LostRace(None)
        assert dict(store.snapshot().records) == {}

    @pytest.mark.parametrize("expected_version", [0, 1])
    def test_a_delete_of_what_does_not_exist_leaves_no_trace(self, store: TestedStore, expected_version: int) -> None:
        assert store.delete("svc=web", change(), expected_version) == LostRace(None)
        assert store.history(None, 10) == ()

    def test_versions_start_again_after_a_delete_and_history_stays(self, store: TestedStore) -> None:
        stored(store.put(policy(share=1), change("a"), 0))
        done(store.delete("svc=web", change("b"), 1))
        assert stored(store.put(policy(share=2), change("c"), 0)).version == 1
        assert [entry.change.reason for entry in store.history("svc=web", 10)] == ["c", "b", "a"]

    def test_a_name_that_is_none_is_refused(self, store: TestedStore) -> None:
        for name in ("", "web", "svc=web/", "svc=../x", "svc=\udc80"):
            with pytest.raises(UsageError):
                store.delete(name, change(), 1)
            with pytest.raises(UsageError):
                store.history(name, 1)

    # Commits of several.

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

    # Holds, and the fleet's switch.

    def test_a_hold_comes_back_with_its_policy(self, harness: Harness) -> None:
        hold = Hold(2_000_000_000_000_000_000, {"a": HeldShare(0.5, 0.25, None), "ä-ツ": HeldShare(1.0, 1.0, 2.0)})
        held = replace(policy(), hold=hold)
        stored(harness.open().put(policy(), change(), 0))
        assert stored(harness.open().put(held, change("hold"), 1)).policy == held
        assert harness.open().snapshot().records["svc=web"].policy == held
        newest = harness.open().history("svc=web", 1)[0]
        assert (newest.old, newest.new) == (policy(), held)

    def test_the_switch_is_kept_told_and_in_the_history_of_the_fleet(self, harness: Harness) -> None:
        store, other = harness.open(), harness.open()
        assert store.snapshot().switch is None
        stored(store.put(policy(), change(), 0))
        with Watching(other, store.snapshot().revision) as watching:
            off = store.put_switch(True, change("incident"), 0)
            assert isinstance(off, SwitchRecord)
            assert (off.disabled, off.version, off.change.reason) == (True, 1, "incident")
            assert store.put_switch(False, change(), 0) == LostRace(None)
            on = other.put_switch(False, change("over"), 1)
            assert isinstance(on, SwitchRecord)
            assert watching.take(2) == [SwitchEvent(off, off.revision), SwitchEvent(on, on.revision)]
        snapshot = harness.open().snapshot()
        assert (snapshot.switch, set(snapshot.records)) == (on, {"svc=web"})
        history = other.history(None, 10)
        assert [(entry.see, entry.fleet_disabled, entry.change.reason) for entry in history] == [
            ("", False, "over"),
            ("", True, "incident"),
            ("svc=web", None, "test"),
        ]
        assert [entry.see for entry in other.history("svc=web", 10)] == ["svc=web"]

    # Threads.

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

    # Snapshots.

    def test_a_snapshot_never_changes(self, store: TestedStore) -> None:
        record = stored(store.put(policy(share=1), change(), 0))
        snapshot = store.snapshot()
        stored(store.put(policy(share=2), change(), 1))
        stored(store.put(policy("svc=etl"), change(), 0))
        assert dict(snapshot.records) == {"svc=web": record}
        with pytest.raises(TypeError):
            snapshot.records["svc=web"] = record  # type: ignore[index]  # pyright: ignore[reportIndexIssue] - must fail

    # History.

    def test_history_tells_old_and_new_newest_first(self, store: TestedStore) -> None:
        first = done(store.put(policy(share=1), change("a"), 0))
        second = done(store.put(policy(share=2), change("b"), 1))
        third = done(store.delete("svc=web", change("c"), 2))
        assert store.history("svc=web", 10) == (
            HistoryEntry("svc=web", change("c"), policy(share=2), None, third.revision),
            HistoryEntry("svc=web", change("b"), policy(share=1), policy(share=2), second.revision),
            HistoryEntry("svc=web", change("a"), None, policy(share=1), first.revision),
        )

    def test_history_is_filtered_by_service_and_cut_at_the_limit(self, store: TestedStore) -> None:
        for number in range(3):
            for see in ("svc=web", "svc=etl"):
                stored(store.put(policy(see), change(f"{see} {number}"), number))
        newest = ["svc=etl 2", "svc=web 2", "svc=etl 1", "svc=web 1", "svc=etl 0", "svc=web 0"]
        assert [entry.change.reason for entry in store.history(None, 100)] == newest
        assert [entry.change.reason for entry in store.history(None, 2**80)] == newest
        assert [entry.change.reason for entry in store.history(None, 3)] == newest[:3]
        assert [entry.change.reason for entry in store.history("svc=web", 2)] == ["svc=web 2", "svc=web 1"]
        assert store.history("svc=none", 5) == ()
        assert store.history(None, 0) == store.history(None, -1) == ()

    # Watching.

    def test_a_watch_tells_what_came_after_its_revision_in_order(self, harness: Harness) -> None:
        store = harness.open()
        stored(store.put(policy(share=1), change(), 0))
        start = store.snapshot().revision
        expected = [
            PolicyEvent("svc=web", record := stored(store.put(policy(share=2), change(), 1)), record.revision),
            PolicyEvent("svc=a/b=c", record := stored(store.put(policy("svc=a/b=c"), change(), 0)), record.revision),
        ]
        with Watching(harness.open(), start) as watching:
            assert watching.take(2) == expected
            deleted = done(store.delete("svc=web", change(), 2))
            assert watching.take(1) == [PolicyEvent("svc=web", None, deleted.revision)]
            again = stored(store.put(policy(share=5), change(), 0))
            assert watching.take(1) == [PolicyEvent("svc=web", again, again.revision)]

    def test_a_watch_taken_up_again_from_any_revision_loses_and_repeats_nothing(self, harness: Harness) -> None:
        store = harness.open()
        start = store.snapshot().revision
        revisions = [done(store.put(policy(share=1 + n), change(), n)).revision for n in range(8)]
        for done_already, after in enumerate([start, *revisions[:-1]]):
            with Watching(store, after) as watching:
                told = [watching.take_event().revision for _ in revisions[done_already:]]
                assert told == revisions[done_already:]

    def test_several_watches_see_every_write_of_racing_writers_once_and_in_order(self, harness: Harness) -> None:
        store, other = harness.open(), harness.open()
        start = store.snapshot().revision
        with Watching(store, start) as here, Watching(other, start) as there:

            def write(number: int) -> int:
                return done((store, other)[number % 2].put(policy(f"svc=s{number}"), change(), 0)).revision

            with ThreadPoolExecutor(4) as pool:
                revisions = sorted(pool.map(write, range(40)))
            for watching in (here, there):
                assert [watching.take_event().revision for _ in revisions] == revisions
                assert watching.pending() == []

    def test_a_lost_race_and_an_epoch_are_no_events(self, harness: Harness) -> None:
        store = harness.open()
        with Watching(store, store.snapshot().revision) as watching:
            store.next_epoch()
            assert isinstance(store.put(policy(), change(), 7), LostRace)
            written = stored(store.put(policy(), change(), 0))
            assert watching.take_event().record == written

    def test_a_watch_from_a_revision_of_another_database_starts_from_a_snapshot(self, harness: Harness) -> None:
        store = harness.open()
        record = stored(store.put(policy(), change(), 0))
        with Watching(store, store.snapshot().revision + 1_000_000) as watching:
            assert dict(watching.take_reload().snapshot.records) == {"svc=web": record}
            later = stored(store.put(policy(share=2), change(), 1))
            assert watching.take_event() == PolicyEvent("svc=web", later, later.revision)

    def test_a_watch_ends_when_it_is_stopped_or_its_store_closed(self, harness: Harness) -> None:
        stop = threading.Event()
        stop.set()
        assert list(harness.open().watch(0, stop)) == []
        store = harness.open()
        with Watching(store, store.snapshot().revision) as watching:
            done(store.put(policy(), change(), 0))
            watching.take_event()
            store.close()
            watching.wait_until_ended()

    # Epoch.

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

    # What cannot be read.

    @pytest.mark.parametrize(
        "garbage",
        ["", "not json", "[]", "{}", '{"schema":1,"name":"svc=web"}', '"\ud83d"', "[" * 100_000, "9" * 5_000,
         json.dumps({**policy("svc=other").to_json()}), json.dumps({**policy().to_json(), "share": -1})],
    )  # fmt: skip
    def test_a_malformed_policy_keeps_its_last_good_record_and_can_be_replaced(
        self, harness: Harness, caplog: pytest.LogCaptureFixture, garbage: str
    ) -> None:
        store = harness.open()
        good = stored(store.put(policy(share=3), change("good"), 0))
        other = stored(store.put(policy("svc=etl"), change(), 0))
        start = store.snapshot().revision
        with Watching(store, start) as watching, caplog.at_level(logging.WARNING):
            harness.spoil("svc=web", garbage.replace("\ud83d", "\\ud83d"))
            for reader in (store, store, harness.open()):
                snapshot = reader.snapshot()
                assert snapshot.records["svc=etl"] == other
                kept = snapshot.records["svc=web"]
                assert (kept.policy, kept.change) == (good.policy, good.change)
                assert len(reader.problems) == 1
                assert "svc=web" in reader.problems[0]
            assert len([line for line in caplog.messages if "svc=web" in line]) == 2  # once a store
            replaced = stored(store.put(policy(share=4), change(), kept.version))
            assert watching.take_event().record == replaced
        assert store.problems == ()
        assert store.snapshot().records["svc=web"] == replaced
        assert store.history("svc=web", 1)[0].old == good.policy

    def test_a_malformed_policy_without_history_is_left_out_and_can_be_created(self, harness: Harness) -> None:
        store = harness.open()
        harness.spoil("svc=web", '"garbage"')
        assert dict(store.snapshot().records) == {}
        assert len(store.problems) == 1
        created = stored(store.put(policy(), change(), 0))
        assert dict(store.snapshot().records) == {"svc=web": created}
        assert stored(store.put(policy(share=2), change(), created.version)).version == created.version + 1

    def test_the_policy_of_a_newer_controller_is_never_overwritten(self, harness: Harness) -> None:
        store = harness.open()
        good = stored(store.put(policy(share=3), change(), 0))
        harness.spoil("svc=web", json.dumps({**policy().to_json(), "schema": SCHEMA_VERSION + 1, "new": "field"}))
        kept = store.snapshot().records["svc=web"]
        assert kept.policy == good.policy
        for outcome in (
            store.put(policy(share=4), change(), kept.version),
            store.delete("svc=web", change(), kept.version),
            store.commit(
                [PolicyWrite("svc=a", policy("svc=a"), 0), PolicyWrite("svc=web", policy(), kept.version)],
                change(),
                None,
            ),
        ):
            assert isinstance(outcome, Unavailable)
            assert "nothing was written" in outcome.reason
            assert "newer controller" in outcome.reason
        assert len(store.history(None, 10)) == 1

    # A store that is away.

    def test_a_store_that_is_away_says_so_in_one_line(self, harness: Harness) -> None:
        away = harness.open_unreachable()
        for read in (away.snapshot, lambda: away.history(None, 1), away.next_epoch):
            with pytest.raises(StoreUnavailableError) as raised:
                read()
            assert len(str(raised.value).splitlines()) == 1
            assert raised.value.hint
        for outcome in (away.put(policy(), change(), 0), away.delete("svc=web", change(), 1)):
            assert isinstance(outcome, Unavailable)
            assert len(outcome.reason.splitlines()) == 1

    def test_a_watch_on_a_store_that_is_away_waits(self, harness: Harness) -> None:
        with Watching(harness.open_unreachable(), 0) as watching:
            assert not watching.ended

    def test_a_closed_store_is_away_and_closes_again(self, harness: Harness) -> None:
        store = harness.open()
        stored(store.put(policy(), change(), 0))
        store.close()
        store.close()
        with pytest.raises(StoreUnavailableError, match="closed"):
            store.snapshot()
        assert isinstance(store.put(policy(), change(), 1), Unavailable)
        assert list(store.watch(0, threading.Event())) == []
        assert len(harness.open().snapshot().records) == 1
