"""The policy store in one SQLite file: no server, durable, safe for several threads and processes on one
machine.

The file must lie on a local disk (SQLite's write-ahead log needs shared memory). To put back a backup, stop every
controller and delete the files with ``-wal`` and ``-shm`` behind the name: they belong to the old file.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Final

from utilctl_common.errors import FailedError, UsageError
from utilctl_common.names import parse_see_name
from utilctl_common.quantities import NS_PER_S
from utilctl_controller.store import sqlite_rows
from utilctl_controller.store.port import (
    Change,
    HistoryEntry,
    PolicyEvent,
    Record,
    Reloaded,
    Seat,
    Snapshot,
    StoreUnavailableError,
    SwitchEvent,
    SwitchRecord,
    Unavailable,
)
from utilctl_controller.store.sqlite_file import (
    check_same_file,
    close_quietly,
    file_id,
    meaning_of,
    migrate,
    open_file,
    transaction,
)
from utilctl_controller.store.sqlite_seat import SqliteSeat
from utilctl_controller.store.sqlite_watch import watch_policies
from utilctl_controller.store.values import (
    NewerSchemaError,
    Problems,
    StoredValue,
    record_of,
    value_in,
)
from utilctl_controller.store.writes import KeyedWrites, KeyLost, KeysWritten, KeyWrite

DEFAULT_DEADLINE_NS: Final = 3 * NS_PER_S
"""How long a call waits for other threads and processes. Arbitrary: a write takes milliseconds."""


class SqliteStore(KeyedWrites):
    """PolicyStore in one file, which is created if it does not exist.

    A malformed value never stops a read or a watch: the SEE keeps its last good record, taken from its
    history, and ``problems`` says so. A malformed value with no good history is left out. The next write
    replaces it, except one that a newer controller wrote: that is refused as Unavailable.

    A file that was deleted or replaced while in use is neither read nor written until the program starts again.
    """

    def __init__(self, path: Path, *, deadline_ns: int = DEFAULT_DEADLINE_NS) -> None:
        """Open or create ``path``. Raises as ``sqlite_file.open_file`` does."""
        self._path = path.absolute()
        self._deadline_ns = deadline_ns
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._problems = Problems()
        self._connection: sqlite3.Connection | None = open_file(self._path, deadline_ns, create=True)
        self._file_id = file_id(self._path)
        with self._used(write=False) as connection:
            self._identity = sqlite_rows.identity(connection)
        self._seat = SqliteSeat(self._path, self.next_epoch)

    @property
    def problems(self) -> tuple[str, ...]:
        """One sentence for each stored value that cannot be read. Empty when all is well."""
        return self._problems.sentences()

    def snapshot(self) -> Snapshot:
        """See the port."""
        return self._identified_snapshot()[1]

    def history(self, see: str | None, limit: int) -> tuple[HistoryEntry, ...]:
        """See the port. A ``limit`` below 1 gives nothing. Raises UsageError if ``see`` is not a name."""
        name = None if see is None else parse_see_name(see)
        with self._used(write=False) as connection:
            return sqlite_rows.history(connection, name, limit, self._problems)

    def watch(self, after_revision: int, stop: threading.Event) -> Iterator[PolicyEvent | SwitchEvent | Reloaded]:
        """See the port. Ends also when the store is closed."""
        return watch_policies(
            self._path,
            self._identified_snapshot,
            self._problems,
            after_revision=after_revision,
            identity=self._identity,
            file_id=self._file_id,
            stop=stop,
            closed=self._closed,
        )

    def next_epoch(self) -> int:
        """See the port."""
        with self._used(write=True) as connection:
            migrate(connection)
            connection.execute("UPDATE utilctl_store SET epoch = epoch + 1")
            return sqlite_rows.epoch(connection)

    def claim_seat(self, holder: str, address: str, ttl_ns: int) -> Seat:
        """See the port. The seat is a lock, which the kernel takes back from who dies: ``ttl_ns`` says nothing here."""
        return self._seat.claim(holder, address)

    def leave_seat(self) -> None:
        """See the port."""
        self._seat.leave()

    def close(self) -> None:
        """See the port. Watches end."""
        self._closed.set()
        self._seat.leave()
        with self._lock:
            self._drop()

    def _identified_snapshot(self) -> tuple[str, Snapshot]:
        """The database's identity and every policy in it."""
        records: dict[str, Record] = {}
        switch: SwitchRecord | None = None
        with self._used(write=False) as connection:
            self._identity = sqlite_rows.identity(connection)
            revision = sqlite_rows.last_revision(connection)
            rows = sqlite_rows.all_sees(connection)
            for row in rows:
                record = sqlite_rows.record(connection, row, self._problems)
                if isinstance(record, SwitchRecord):
                    switch = record
                elif record is not None:
                    records[row.name] = record
        self._problems.keep_only({row.key for row in rows}, sqlite_rows.SEE_KEY_PREFIX)
        return self._identity, Snapshot(revision, MappingProxyType(records), switch)

    def _write(
        self, writes: Sequence[KeyWrite], change: Change, unchanged_since: int | None
    ) -> KeysWritten | KeyLost | Unavailable:
        """All of ``writes`` with their history entries in one transaction, if every version is the expected one."""
        stored: dict[str, Record | SwitchRecord | None] = {}
        key = ""
        try:
            with self._used(write=True) as connection:
                self._seat.check(sqlite_rows.epoch(connection))
                revision = sqlite_rows.last_revision(connection)
                if unchanged_since is not None and revision > unchanged_since:
                    return KeyLost("", None)
                found: list[tuple[int, StoredValue | None]] = []
                for write in writes:
                    key = write.key
                    row = sqlite_rows.see(connection, key)
                    if row is not None:
                        sqlite_rows.refuse_newer(row)
                    current = None if row is None else sqlite_rows.record(connection, row, self._problems)
                    if write.is_lost_to(current):
                        return KeyLost(key, current)
                    found.append((0 if row is None else row.version, value_in(current)))
                for write, (version, old) in zip(writes, found, strict=True):
                    key = write.key
                    revision = sqlite_rows.append_change(connection, key, version + 1, old, write.value, change)
                    if write.value is None:
                        sqlite_rows.delete_see(connection, key)
                        stored[key] = None
                    else:
                        sqlite_rows.replace_see(connection, key, write.value, version + 1, revision, change)
                        stored[key] = record_of(write.value, version + 1, revision, change)
        except NewerSchemaError as error:
            return Unavailable(f"nothing was written: the stored policy of {key} was {error}")
        except StoreUnavailableError as error:
            return Unavailable(str(error))
        for written in stored:
            self._problems.clear(sqlite_rows.SEE_KEY_PREFIX + written)
        return KeysWritten(stored, revision)

    @contextlib.contextmanager
    def _used(self, *, write: bool) -> Iterator[sqlite3.Connection]:
        """One transaction on the file. Raises StoreUnavailableError for all that can go wrong with it."""
        if not self._lock.acquire(timeout=self._deadline_ns / NS_PER_S):
            raise StoreUnavailableError(f"store {self._path}: other threads keep it busy", hint="try again")
        try:
            connection = self._open_connection()
            try:
                with transaction(connection, write=write):
                    yield connection
            except sqlite3.Error as error:
                self._drop()  # the next call starts afresh, so that a repaired file is usable at once
                raise meaning_of(error, self._path) from None
        finally:
            self._lock.release()

    def _open_connection(self) -> sqlite3.Connection:
        if self._closed.is_set():
            raise StoreUnavailableError(f"store {self._path} is closed")
        check_same_file(self._path, self._file_id)
        if self._connection is None:
            try:
                self._connection = open_file(self._path, self._deadline_ns, create=False)
            except (FailedError, UsageError) as error:  # it was turned into something else
                raise StoreUnavailableError(error.message, hint=error.hint) from None
        return self._connection

    def _drop(self) -> None:
        if self._connection is not None:
            close_quietly(self._connection)
            self._connection = None
