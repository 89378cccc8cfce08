"""Rows of the SQLite adapter: statements and the values in them. Called inside a transaction; sqlite3 errors
pass.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from utilctl_controller.store import values
from utilctl_controller.store.port import Change, HistoryEntry, PolicyEvent, Record, SwitchEvent, SwitchRecord
from utilctl_controller.store.values import MalformedValueError, NewerSchemaError, Problems, StoredValue

SEE_KEY_PREFIX: Final = "see/"
"""How a row of ``see`` is called in problems, the switch's too; one of ``change_log`` is ``change/REVISION``."""

_WATCH_ROWS: Final = 1_000
"""Changes read at once by a watch. Arbitrary; bounds its memory."""


@dataclass(frozen=True, slots=True)
class SeeRow:
    """A row of ``see`` as it is, not yet understood."""

    name: str
    version: int
    revision: int
    policy: Any
    change: Any

    @property
    def key(self) -> str:
        """Its name in problems."""
        return SEE_KEY_PREFIX + self.name


def identity(connection: sqlite3.Connection) -> str:
    """The identity given to the database when it was created."""
    return str(connection.execute("SELECT identity FROM utilctl_store").fetchone()[0])


def last_revision(connection: sqlite3.Connection) -> int:
    """The revision of the last change, 0 before the first."""
    return int(connection.execute("SELECT coalesce(max(revision), 0) FROM change_log").fetchone()[0])


def epoch(connection: sqlite3.Connection) -> int:
    """The newest controller epoch that was taken."""
    return int(connection.execute("SELECT epoch FROM utilctl_store").fetchone()[0])


def see(connection: sqlite3.Connection, name: str) -> SeeRow | None:
    """The row of one SEE."""
    row = connection.execute(f"{_SELECT_SEE} WHERE name = ?", (name,)).fetchone()
    return None if row is None else SeeRow(*row)


def all_sees(connection: sqlite3.Connection) -> tuple[SeeRow, ...]:
    """Every SEE's row, by name."""
    return tuple(SeeRow(*row) for row in connection.execute(f"{_SELECT_SEE} ORDER BY name"))


_SELECT_SEE: Final = "SELECT name, version, revision, policy, change FROM see"


def record(connection: sqlite3.Connection, row: SeeRow, problems: Problems) -> Record | SwitchRecord | None:
    """The record in a row, or if that is malformed (reported, logged) the last good one from the history.

    The latter carries the row's version, so that a write can replace what is malformed. None if there is
    none.
    """
    try:
        found = _decoded_record(row)
    except MalformedValueError as error:
        problems.report(row.key, str(error))
        for entry in history(connection, row.name, 1, problems):
            if entry.fleet_disabled is not None:
                return SwitchRecord(entry.fleet_disabled, row.version, entry.revision, entry.change)
            if entry.new is not None:
                return Record(entry.new, row.version, entry.revision, entry.change)
        return None
    problems.clear(row.key)
    return found


def refuse_newer(row: SeeRow) -> None:
    """Raise NewerSchemaError if the row was written by a newer controller and must not be overwritten."""
    try:
        _decoded_record(row)
    except NewerSchemaError:
        raise
    except MalformedValueError:
        return


def _decoded_record(row: SeeRow) -> Record | SwitchRecord:
    value = values.value_of(_decoded(row.policy), row.name)
    return values.record_of(value, row.version, row.revision, values.change_of(_decoded(row.change)))


def replace_see(
    connection: sqlite3.Connection, name: str, value: StoredValue, version: int, revision: int, change: Change
) -> None:
    """Write an SEE's row, or the switch's."""
    connection.execute(
        "INSERT OR REPLACE INTO see (name, version, revision, policy, change) VALUES (?, ?, ?, ?, ?)",
        (name, version, revision, _encoded(value), values.encode(values.change_to_json(change))),
    )


def delete_see(connection: sqlite3.Connection, name: str) -> None:
    """Remove an SEE's row."""
    connection.execute("DELETE FROM see WHERE name = ?", (name,))


def append_change(
    connection: sqlite3.Connection,
    see: str,
    version: int,
    old: StoredValue | None,
    new: StoredValue | None,
    change: Change,
) -> int:
    """Append to the change log and return the new revision. ``version`` is the SEE's after the change."""
    cursor = connection.execute(
        "INSERT INTO change_log (see, version, old, new, change) VALUES (?, ?, ?, ?, ?)",
        (see, version, _encoded(old), _encoded(new), values.encode(values.change_to_json(change))),
    )
    assert cursor.lastrowid is not None
    return cursor.lastrowid


def history(
    connection: sqlite3.Connection, name: str | None, limit: int, problems: Problems
) -> tuple[HistoryEntry, ...]:
    """The newest ``limit`` readable changes of one SEE, or of all (None), newest first."""
    where, parameters = ("", ()) if name is None else ("WHERE see = ?", (name,))
    columns = "revision, see, old, new, change"  # all text below is constant
    rows = connection.execute(
        f"SELECT {columns} FROM change_log {where} ORDER BY revision DESC",  # noqa: S608 - see above
        parameters,
    )
    entries: list[HistoryEntry] = []
    for revision, see_name, old, new, change in rows:
        if len(entries) >= limit:
            break
        try:
            entry = values.history_entry(
                see_name,
                values.change_of(_decoded(change)),
                values.optional_value_of(_decoded(old), see_name),
                values.optional_value_of(_decoded(new), see_name),
                revision,
            )
        except MalformedValueError as error:
            problems.report(f"change/{revision}", str(error))
        else:
            entries.append(entry)
    rows.close()
    return tuple(entries)


def changes_after(
    connection: sqlite3.Connection, revision: int, problems: Problems
) -> tuple[tuple[PolicyEvent | SwitchEvent, ...], int, bool]:
    """Changes after ``revision`` as events, the revision they reach, and whether there may be more.

    A malformed change, reported and logged, gives no event.
    """
    rows = connection.execute(
        "SELECT revision, see, version, new, change FROM change_log WHERE revision > ? ORDER BY revision LIMIT ?",
        (revision, _WATCH_ROWS),
    ).fetchall()
    events = tuple(_events(rows, problems))
    return events, (rows[-1][0] if rows else revision), len(rows) == _WATCH_ROWS


def _events(rows: list[tuple[Any, ...]], problems: Problems) -> Iterator[PolicyEvent | SwitchEvent]:
    for revision, see_name, version, new, change_text in rows:
        try:
            change = values.change_of(_decoded(change_text))
            value = values.optional_value_of(_decoded(new), see_name)
        except MalformedValueError as error:
            problems.report(f"change/{revision}", str(error))
            continue
        found = None if value is None else values.record_of(value, version, revision, change)
        if isinstance(found, SwitchRecord):
            yield SwitchEvent(found, revision)
        else:
            yield PolicyEvent(see_name, found, revision)


def _encoded(value: StoredValue | None) -> str | None:
    return None if value is None else values.encode(dict(value.to_json()))


def _decoded(text: object) -> Any:  # noqa: ANN401 - decoded JSON, checked by the caller
    if text is None:
        return None
    if not isinstance(text, str | bytes):
        raise MalformedValueError("not JSON")
    return values.decode(text)
