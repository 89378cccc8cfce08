"""Random sequences of writes on a SQLite store give what a dictionary and a list would give."""

from __future__ import annotations

import tempfile
import threading
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from utilctl_common.policy import SeePolicy
from utilctl_controller.store.port import (
    Change,
    Done,
    HistoryEntry,
    LostRace,
    PolicyEvent,
    Record,
    WriteOutcome,
)
from utilctl_controller.store.sqlite import SqliteStore

names = st.sampled_from(["svc=web", "svc=web/class=gold", "svc=etl"])
shares = st.floats(1e-3, 1e6)
changes = st.builds(Change, st.text(max_size=5), st.text(max_size=20), st.integers(0, 2**63))
version_errors = st.sampled_from([0, 0, 0, 0, 1, -1])


class StoreMachine(RuleBasedStateMachine):
    """The model: records by name, history newest last, events in order, and the epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "policy.db"
        self.store = SqliteStore(self.path)
        self.records: dict[str, Record] = {}
        self.history: list[HistoryEntry] = []
        self.events: list[PolicyEvent] = []
        self.epoch = 0

    def teardown(self) -> None:
        self.store.close()
        self.folder.cleanup()

    @rule(see=names, share=shares, change=changes, error=version_errors)
    def put(self, see: str, share: float, change: Change, error: int) -> None:
        new = SeePolicy(see, share)
        self._check_write(see, new, change, error, self.store.put(new, change, self._version(see) + error))

    @rule(see=names, change=changes, error=version_errors)
    def delete(self, see: str, change: Change, error: int) -> None:
        self._check_write(see, None, change, error, self.store.delete(see, change, self._version(see) + error))

    @rule()
    def take_an_epoch(self) -> None:
        self.epoch += 1
        assert self.store.next_epoch() == self.epoch

    @rule()
    def reopen(self) -> None:
        self.store.close()
        self.store = SqliteStore(self.path)

    @rule(see=st.none() | names, limit=st.integers(0, 8))
    def read_history(self, see: str | None, limit: int) -> None:
        expected = [entry for entry in reversed(self.history) if see in (None, entry.see)]
        assert list(self.store.history(see, limit)) == expected[:limit]

    @precondition(lambda self: self.events)
    @rule(data=st.data())
    def watch_from_any_revision(self, data: st.DataObject) -> None:
        start = data.draw(st.integers(0, len(self.events) - 1))
        after = self.events[start - 1].revision if start else 0
        stop = threading.Event()
        told: list[object] = []
        for event in self.store.watch(after, stop):
            told.append(event)
            if len(told) == len(self.events) - start:
                stop.set()
        assert told == self.events[start:]

    @invariant()
    def the_snapshot_is_the_model(self) -> None:
        snapshot = self.store.snapshot()
        assert dict(snapshot.records) == self.records
        assert snapshot.revision == (self.events[-1].revision if self.events else 0)
        assert self.store.problems == ()

    def _version(self, see: str) -> int:
        return self.records[see].version if see in self.records else 0

    def _check_write(self, see: str, new: SeePolicy | None, change: Change, error: int, outcome: WriteOutcome) -> None:
        old = self.records.get(see)
        if error or (old is None and new is None):
            assert outcome == LostRace(old)
            return
        assert isinstance(outcome, Done)
        assert outcome.revision > (self.events[-1].revision if self.events else 0)
        record = None if new is None else Record(new, self._version(see) + 1, outcome.revision, change)
        assert outcome.record == record
        if record is None:
            del self.records[see]
        else:
            self.records[see] = record
        self.history.append(HistoryEntry(see, change, None if old is None else old.policy, new, outcome.revision))
        self.events.append(PolicyEvent(see, record, outcome.revision))


TestStoreMachine = StoreMachine.TestCase
TestStoreMachine.settings = settings(
    max_examples=40,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],  # every write waits for the disk
)
