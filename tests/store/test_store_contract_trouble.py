"""What every policy store does with what it cannot read, and when it is away: tried on each of them."""

from __future__ import annotations

import json
import logging
import threading

import pytest

from support.store_harness import Harness
from support.store_values import Watching, change, policy, stored
from utilctl_common.policy import SCHEMA_VERSION
from utilctl_controller.store.port import PolicyWrite, StoreUnavailableError, Unavailable


class TestUnreadablePolicy:
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


class TestStoreThatIsAway:
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
