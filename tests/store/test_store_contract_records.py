"""What every policy store promises of single records: tried on each of them."""

from __future__ import annotations

import json
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from support.store_harness import Harness, TestedStore
from support.store_values import Watching, change, done, policy, stored
from utilctl_common.errors import UsageError
from utilctl_common.matchers import matcher_from_mapping
from utilctl_common.policy import HeldShare, Hold
from utilctl_controller.store.port import HistoryEntry, LostRace, SwitchEvent, SwitchRecord

STRANGE_TEXT = "Zoë's 🚀 \u2028 'quoted' \"twice\" \\ \0 \x1b[0m \udc80 line\nbreak"


class TestReadingAndWriting:
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


class TestCompareAndSet:
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


class TestHoldAndSwitch:
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


class TestSnapshot:
    def test_a_snapshot_never_changes(self, store: TestedStore) -> None:
        record = stored(store.put(policy(share=1), change(), 0))
        snapshot = store.snapshot()
        stored(store.put(policy(share=2), change(), 1))
        stored(store.put(policy("svc=etl"), change(), 0))
        assert dict(snapshot.records) == {"svc=web": record}
        with pytest.raises(TypeError):
            snapshot.records["svc=web"] = record  # type: ignore[index]  # pyright: ignore[reportIndexIssue] - must fail


class TestHistory:
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
