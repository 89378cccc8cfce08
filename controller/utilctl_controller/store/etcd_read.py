"""Reading policies, history and the database's identity from etcd: one attempt each, etcd's errors as they
come.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from utilctl_controller.store import etcd_values
from utilctl_controller.store.etcd_client import EtcdClient, KeyValue
from utilctl_controller.store.port import HistoryEntry, Record, Snapshot, SwitchRecord
from utilctl_controller.store.values import MalformedValueError, NewerSchemaError, Problems, is_key

_PAGE_KEYS: Final = 1_000
"""Keys a request when reading everything. Arbitrary: about half a megabyte of ordinary policies."""


@dataclass(frozen=True, slots=True)
class Current:
    """What a key holds now: its record (None: nothing good), its version and mod revision (0, 0: no key)."""

    record: Record | SwitchRecord | None
    key_version: int
    mod_revision: int


class EtcdReader:
    """Reads, shared by the store and its watches. Thread-safe. Every method may raise EtcdError."""

    def __init__(self, client: EtcdClient, keys: etcd_values.Keys, attempt_ns: int) -> None:
        """``attempt_ns`` is how long one request may take."""
        self.client = client
        self.keys = keys
        self.attempt_ns = attempt_ns
        self.problems = Problems()
        self.identity: str | None = None
        """The database's identity at the last look; None until a controller has taken an epoch in it."""

    def look(self) -> tuple[str | None, int]:
        """The database's identity and revision now."""
        kv, revision = self.client.get(self.keys.epoch, self.attempt_ns)
        self.identity = None if kv is None else etcd_values.identity_of(kv)
        return self.identity, revision

    def snapshot(self) -> Snapshot:
        """Every SEE at one revision, malformed ones by their last good record."""
        self.look()
        records: dict[str, Record] = {}
        switch: SwitchRecord | None = None
        seen: set[str] = set()
        revision = 0
        for kv, read_at in self._all_sees():
            revision = read_at
            if kv is None:
                continue
            seen.add(kv.key)
            record = self.record(kv)
            if isinstance(record, SwitchRecord):
                switch = record
            elif record is not None:
                records[record.policy.name] = record
        self.problems.keep_only(seen, self.keys.all_sees)
        return Snapshot(revision, MappingProxyType(records), switch)

    def _all_sees(self) -> Iterator[tuple[KeyValue | None, int]]:
        """Every key that holds an SEE or the switch, with the one revision at which all are read; None if no key."""
        from_key, revision = self.keys.all_sees, 0
        while True:
            page = self.client.get_prefix(
                self.keys.all_sees, self.attempt_ns, from_key=from_key, limit=_PAGE_KEYS, revision=revision
            )
            revision = revision or page.revision
            yield from ((kv, revision) for kv in page.kvs or (None,))
            if not page.more:
                return
            from_key = page.kvs[-1].key + "\0"

    def current(self, see: str) -> Current:
        """What the key of ``see`` holds. Raises NewerSchemaError if that must not be overwritten."""
        kv, _ = self.client.get(self.keys.see(see), self.attempt_ns)
        return Current(None, 0, 0) if kv is None else self._current(kv, see)

    def current_of_many(self, sees: frozenset[str]) -> tuple[dict[str, Current], int]:
        """As ``current`` for each of ``sees``, all at one revision, which is returned with them."""
        found = dict.fromkeys(sees, Current(None, 0, 0))
        revision = 0
        for kv, read_at in self._all_sees():
            revision = read_at
            if kv is not None and (see := self.keys.see_of(kv.key)) in sees:
                found[see] = self._current(kv, see)
        return found, revision

    def _current(self, kv: KeyValue, see: str) -> Current:
        try:
            etcd_values.decode_record(kv, see)
        except NewerSchemaError as error:
            raise NewerSchemaError(f"the stored policy of {see} was {error}") from None
        except MalformedValueError as error:
            self.problems.report(kv.key, str(error))
        return Current(self.record(kv), kv.version, kv.mod_revision)

    def record(self, kv: KeyValue) -> Record | SwitchRecord | None:
        """The record in an SEE's key, or if that is malformed the last good one.

        That one comes from the history and carries the key's version, so that a write can replace what is
        malformed. None if there is no good one either.
        """
        record = self.readable_record(kv)
        see = self.keys.see_of(kv.key)
        if record is not None or not is_key(see):
            return record
        for entry in self.history(self.keys.history_of(see), 1):
            if entry.fleet_disabled is not None:
                return SwitchRecord(entry.fleet_disabled, kv.version, entry.revision, entry.change)
            if entry.new is not None:
                return Record(entry.new, kv.version, entry.revision, entry.change)
        return None

    def readable_record(self, kv: KeyValue) -> Record | SwitchRecord | None:
        """The record in an SEE's key, or None, reported and logged, if it is malformed."""
        try:
            record = etcd_values.decode_record(kv, self.keys.see_of(kv.key))
        except MalformedValueError as error:
            self.problems.report(kv.key, str(error))
            return None
        self.problems.clear(kv.key)
        return record

    def history(self, prefix: str, limit: int) -> tuple[HistoryEntry, ...]:
        """The newest ``limit`` (>= 1) changes whose keys begin with ``prefix``, newest first."""
        asked = limit
        while True:
            page = self.client.get_prefix(prefix, self.attempt_ns, limit=asked, newest_first=True)
            entries = [entry for entry in map(self._entry, page.kvs) if entry is not None]
            if len(entries) >= limit or not page.more:
                return tuple(entries[:limit])
            asked *= 2  # some were malformed: look further back

    def _entry(self, kv: KeyValue) -> HistoryEntry | None:
        try:
            return etcd_values.decode_history(kv)
        except MalformedValueError as error:
            self.problems.report(kv.key, str(error))
            return None
