"""Reading policies, history and the database's identity from etcd: one attempt each, etcd's errors as they
come.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Final

from utilctl_controller.store import etcd_values
from utilctl_controller.store.etcd_client import EtcdClient, KeyValue
from utilctl_controller.store.port import HistoryEntry, Record, Snapshot
from utilctl_controller.store.values import MalformedValueError, NewerSchemaError, Problems

_PAGE_KEYS: Final = 1_000
"""Keys a request when reading everything. Arbitrary: about half a megabyte of ordinary policies."""


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
        seen: set[str] = set()
        from_key, revision = self.keys.all_sees, 0
        while True:
            page = self.client.get_prefix(
                self.keys.all_sees, self.attempt_ns, from_key=from_key, limit=_PAGE_KEYS, revision=revision
            )
            revision = revision or page.revision
            for kv in page.kvs:
                seen.add(kv.key)
                record = self.record(kv)
                if record is not None:
                    records[record.policy.name] = record
            if not page.more:
                break
            from_key = page.kvs[-1].key + "\0"
        self.problems.keep_only(seen, self.keys.all_sees)
        return Snapshot(revision, MappingProxyType(records))

    def current(self, see: str) -> tuple[Record | None, int, int]:
        """The SEE's record, and its key's version and mod revision (0, 0: no key).

        Raises NewerSchemaError if the value is one that must not be overwritten.
        """
        kv, _ = self.client.get(self.keys.see(see), self.attempt_ns)
        if kv is None:
            return None, 0, 0
        try:
            etcd_values.decode_record(kv, see)
        except NewerSchemaError:
            raise
        except MalformedValueError as error:
            self.problems.report(kv.key, str(error))
        return self.record(kv), kv.version, kv.mod_revision

    def record(self, kv: KeyValue) -> Record | None:
        """The record in an SEE's key, or if that is malformed the last good one.

        That one comes from the history and carries the key's version, so that a write can replace what is
        malformed. None if there is no good one either.
        """
        record = self.readable_record(kv)
        see = self.keys.see_of(kv.key)
        if record is not None or not etcd_values.is_see_name(see):
            return record
        for entry in self.history(self.keys.history_of(see), 1):
            if entry.new is not None:
                return Record(entry.new, kv.version, entry.revision, entry.change)
        return None

    def readable_record(self, kv: KeyValue) -> Record | None:
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
