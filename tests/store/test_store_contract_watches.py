"""What every policy store promises to those who watch it: tried on each of them."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

from support.store_harness import Harness
from support.store_values import Watching, change, done, policy, stored
from utilctl_controller.store.port import LostRace, PolicyEvent


class TestWatch:
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
