"""The file of the SQLite adapter: opening it safely, its schema, and what its errors mean to people.

Tables: ``utilctl_store`` (one row: schema version, identity of this database, controller epoch), ``see`` (one
row an SEE, and one for the fleet's switch) and ``change_log`` (one row a change; its key is the store's revision
and never reused).
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from utilctl_common.errors import FailedError, UsageError
from utilctl_common.quantities import NS_PER_S
from utilctl_controller.store.port import StoreUnavailableError
from utilctl_controller.store.values import STORE_SCHEMA_VERSION

_TABLES: Final = (
    """CREATE TABLE utilctl_store (
        schema INTEGER NOT NULL, identity TEXT NOT NULL, epoch INTEGER NOT NULL)""",
    """CREATE TABLE see (
        name TEXT PRIMARY KEY, version INTEGER NOT NULL, revision INTEGER NOT NULL,
        policy TEXT NOT NULL, change TEXT NOT NULL)""",
    """CREATE TABLE change_log (
        revision INTEGER PRIMARY KEY AUTOINCREMENT, see TEXT NOT NULL, version INTEGER NOT NULL,
        old TEXT, new TEXT, change TEXT NOT NULL)""",
    "CREATE INDEX change_log_by_see ON change_log (see, revision)",
)

_WAL_RETRY_S: Final = 0.01
"""Pause between attempts to switch to WAL, which does not wait for other processes by itself. Arbitrary."""

_MEANINGS: Final = (
    ("SQLITE_FULL", "the disk is full", "free some space"),
    ("SQLITE_READONLY", "it cannot be written", "make the file and its directory writable"),
    ("SQLITE_BUSY", "another process keeps it locked", "end that process or try again"),
    ("SQLITE_LOCKED", "another process keeps it locked", "end that process or try again"),
    ("SQLITE_CORRUPT", "it is damaged", "restore it from a backup"),
    ("SQLITE_NOTADB", "it is damaged or no database", "restore it from a backup or name another file"),
    ("SQLITE_CANTOPEN", "it cannot be opened", "check the permissions of the file and its directory"),
    ("SQLITE_PERM", "it cannot be opened", "check the permissions of the file and its directory"),
    ("SQLITE_IOERR", "the disk reports an error", "check the disk and its free space"),
)


def meaning_of(error: sqlite3.Error, path: Path) -> StoreUnavailableError:
    """One sentence for people, and what to do next."""
    name = getattr(error, "sqlite_errorname", "")
    for prefix, what, hint in _MEANINGS:
        if name.startswith(prefix):
            return StoreUnavailableError(f"store {path}: {what} ({name})", hint=hint)
    text = " ".join(str(error).split())
    return StoreUnavailableError(f"store {path}: {text}", hint="restore it from a backup")


def check_same_file(path: Path, known: tuple[int, int]) -> None:
    """Raise StoreUnavailableError if ``path`` is gone or another file than ``known``.

    Writes to a file that was deleted would be lost. One that took its place must not be opened, because SQLite would
    apply the write-ahead log of the old one to it.
    """
    if file_id(path) != known:
        raise StoreUnavailableError(
            f"store {path}: the file was replaced while in use",
            hint=f"stop every controller, delete {path.name}-wal and {path.name}-shm, and start again",
        )


def file_id(path: Path) -> tuple[int, int]:
    """Device and inode. Raises StoreUnavailableError if there is no such file any more."""
    try:
        status = path.stat()
    except OSError as error:
        raise StoreUnavailableError(
            f"store {path}: the file is gone ({error.strerror})", hint="restore it from a backup"
        ) from None
    return status.st_dev, status.st_ino


def open_file(path: Path, busy_ns: int, *, create: bool) -> sqlite3.Connection:
    """A connection in WAL mode, fully synchronous, that waits up to ``busy_ns`` for other processes.

    Any thread may use it, one at a time. ``create``: make file and tables if there are none yet. Raises
    UsageError for a path that cannot hold a file, FailedError for a file of a newer program or of another
    one, StoreUnavailableError for everything that the file system or SQLite reports.
    """
    if path.is_dir() or not path.parent.is_dir():
        what = "is a directory" if path.is_dir() else "lies in a directory that does not exist"
        raise UsageError(f"store {path} {what}", hint="name a file in an existing directory")
    uri = f"{path.as_uri()}?mode={'rwc' if create else 'rw'}"
    try:
        connection = sqlite3.connect(
            uri, uri=True, timeout=busy_ns / NS_PER_S, isolation_level=None, check_same_thread=False
        )
    except sqlite3.Error as error:
        raise meaning_of(error, path) from None
    try:
        _prepare(connection, path, busy_ns, create=create)
    except BaseException as error:
        close_quietly(connection)
        if isinstance(error, sqlite3.Error):
            raise meaning_of(error, path) from None
        raise
    return connection


def close_quietly(connection: sqlite3.Connection) -> None:
    """Close; an open transaction is rolled back. A file too damaged even for that is left as it is."""
    with contextlib.suppress(sqlite3.Error):
        connection.close()


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection, *, write: bool) -> Iterator[None]:
    """One transaction: committed at the end, rolled back if anything is raised."""
    connection.execute("BEGIN IMMEDIATE" if write else "BEGIN DEFERRED")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            with contextlib.suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
        raise


def _prepare(connection: sqlite3.Connection, path: Path, busy_ns: int, *, create: bool) -> None:
    if not _check_schema(connection, path):
        if not create:
            raise StoreUnavailableError(f"store {path}: it holds no policies", hint="restore it from a backup")
        # In this order: a process that dies in between leaves an empty file, which the next one fills.
        _enter_wal_mode(connection, path, busy_ns)
        with transaction(connection, write=True):
            if not _check_schema(connection, path):
                for statement in _TABLES:
                    connection.execute(statement)
                connection.execute(
                    "INSERT INTO utilctl_store VALUES (?, ?, 0)", (STORE_SCHEMA_VERSION, uuid.uuid4().hex)
                )
    else:
        _enter_wal_mode(connection, path, busy_ns)
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA cell_size_check = ON")


def _check_schema(connection: sqlite3.Connection, path: Path) -> bool:
    """Whether the tables exist. Raises FailedError for those of a newer or of another program."""
    tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if "utilctl_store" not in tables:
        if tables:
            raise FailedError(f"store {path} is a database of another program", hint="name another file")
        return False
    row = connection.execute("SELECT schema FROM utilctl_store").fetchone()
    if row is None or not isinstance(row[0], int):
        raise StoreUnavailableError(f"store {path}: its schema row is damaged", hint="restore it from a backup")
    if row[0] > STORE_SCHEMA_VERSION:
        raise FailedError(
            f"store {path} has schema {row[0]}, this program knows {STORE_SCHEMA_VERSION}",
            hint="upgrade the controller",
        )
    return True


def migrate(connection: sqlite3.Connection) -> None:
    """Take over a file of an older schema, inside a writing transaction. Older controllers refuse it from then on.

    From 1 to 2 nothing is converted: what 2 added (holds, the fleet's switch) is only absent.
    """
    connection.execute("UPDATE utilctl_store SET schema = ?1 WHERE schema < ?1", (STORE_SCHEMA_VERSION,))


def _enter_wal_mode(connection: sqlite3.Connection, path: Path, busy_ns: int) -> None:
    deadline_ns = time.monotonic_ns() + busy_ns
    while True:
        try:
            mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
        except sqlite3.OperationalError as error:
            locked = getattr(error, "sqlite_errorname", "").startswith("SQLITE_BUSY")
            if not locked or time.monotonic_ns() >= deadline_ns:
                raise
            time.sleep(_WAL_RETRY_S)
            continue
        if mode != "wal":
            raise FailedError(
                f"store {path} lies on a file system without shared memory", hint="put it on a local disk"
            )
        return
