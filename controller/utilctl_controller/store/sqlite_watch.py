"""Following policy changes in a SQLite file by polling its change log, also across replaced or unusable
files.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from utilctl_common.errors import UtilctlError
from utilctl_common.quantities import NS_PER_MS, NS_PER_S
from utilctl_controller.store import sqlite_rows
from utilctl_controller.store.port import PolicyEvent, Reloaded, Snapshot, SwitchEvent
from utilctl_controller.store.sqlite_file import check_same_file, close_quietly, meaning_of, open_file
from utilctl_controller.store.values import Problems

_log = logging.getLogger(__name__)

_POLL_NS: Final = 50 * NS_PER_MS
"""How often the file is asked whether it changed; costs some 20 us. Arbitrary: below what people notice."""

_BUSY_NS: Final = 500 * NS_PER_MS
"""How long one poll waits for a file locked by another process (recovery after a crash). Arbitrary."""


def watch_policies(
    path: Path,
    snapshot: Callable[[], tuple[str, Snapshot]],
    problems: Problems,
    *,
    after_revision: int,
    identity: str,
    file_id: tuple[int, int],
    stop: threading.Event,
    closed: threading.Event,
) -> Iterator[PolicyEvent | SwitchEvent | Reloaded]:
    """Every change after ``after_revision``, each once and in order, until ``stop`` or ``closed`` is set.

    ``snapshot`` returns the database's identity with the snapshot; ``identity`` is that of the database in
    which ``after_revision`` was read, in the file ``file_id``. Never raises for what happens to the file.
    """
    tail = _Tail(path, file_id, identity, after_revision)
    waiting = False
    try:
        while not (stop.is_set() or closed.is_set()):
            try:
                if tail.must_reload():
                    identity, loaded = snapshot()
                    tail.restart(identity, loaded.revision)
                    yield Reloaded(loaded)
                events = tail.read(problems)
                if waiting:
                    _log.warning("the watch on %s goes on after revision %d", path, tail.position)
                    waiting = False
            except (UtilctlError, sqlite3.Error) as error:
                tail.close()
                if not waiting and not closed.is_set():
                    reason = meaning_of(error, path) if isinstance(error, sqlite3.Error) else error
                    _log.warning("the watch waits, last revision %d: %s", tail.position, reason)
                waiting, events = True, ()
            for event in events:
                if stop.is_set():
                    return
                yield event
            if not tail.more:
                stop.wait(_POLL_NS / NS_PER_S)
    finally:
        tail.close()


class _Tail:
    """The end of the change log, read through a connection of its own. Methods raise what SQLite raises."""

    def __init__(self, path: Path, file_id: tuple[int, int], identity: str, position: int) -> None:
        self._path = path
        self._file_id = file_id
        self._identity = identity
        self._connection: sqlite3.Connection | None = None
        self._data_version: int | None = None
        self._unread = True
        self.position = position
        self.more = False

    def must_reload(self) -> bool:
        """Whether the file, if anybody wrote to it, now holds another database or an older state of it."""
        check_same_file(self._path, self._file_id)
        if self._connection is None:
            self._connection = open_file(self._path, _BUSY_NS, create=False)
        data_version = self._connection.execute("PRAGMA data_version").fetchone()[0]
        if data_version == self._data_version:
            return False
        self._data_version, self._unread = data_version, True
        if sqlite_rows.identity(self._connection) != self._identity:
            return True
        return sqlite_rows.last_revision(self._connection) < self.position

    def restart(self, identity: str, position: int) -> None:
        """Go on from a snapshot."""
        self._identity, self.position = identity, position

    def read(self, problems: Problems) -> tuple[PolicyEvent | SwitchEvent, ...]:
        """New changes, or nothing at no cost if nobody wrote to the file."""
        assert self._connection is not None
        if not self._unread:
            return ()
        events, self.position, self.more = sqlite_rows.changes_after(self._connection, self.position, problems)
        self._unread = self.more
        return events

    def close(self) -> None:
        """Release the file; the next use opens it again. Idempotent."""
        self._data_version, self.more = None, False
        if self._connection is not None:
            close_quietly(self._connection)
            self._connection = None
