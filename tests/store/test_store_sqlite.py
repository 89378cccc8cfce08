"""What only the SQLite adapter promises: several processes, and files that are full, locked, damaged or replaced."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.store_harness import SHORT_DEADLINE_NS, Closing
from support.store_values import WAIT_S, Watching, change, done, policy, stored
from utilctl_common.errors import FailedError, UsageError
from utilctl_controller.store.port import StoreUnavailableError, Unavailable
from utilctl_controller.store.sqlite import SqliteStore
from utilctl_controller.store.values import STORE_SCHEMA_VERSION

WRITER = """
    import sys
    from pathlib import Path
    from utilctl_common.policy import SeePolicy
    from utilctl_controller.store.port import Change, Done, LostRace
    from utilctl_controller.store.sqlite import SqliteStore

    path, name, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    store, version = SqliteStore(path, deadline_ns=60_000_000_000), 0
    for number in range(count):
        while True:
            outcome = store.put(SeePolicy("svc=web", 1 + number), Change(name, f"{name}/{number}", 0), version)
            if isinstance(outcome, Done):
                version = outcome.record.version
                break
            assert isinstance(outcome, LostRace), outcome
            version = outcome.current.version if outcome.current else 0
        print(f"{name}/{number}", flush=True)
    store.close()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "policy.db"


@pytest.fixture
def store(path: Path, closing: Closing) -> SqliteStore:
    opened = SqliteStore(path, deadline_ns=SHORT_DEADLINE_NS)
    closing(opened)
    return opened


def python(script: str, *arguments: str) -> list[str]:
    return [sys.executable, "-c", textwrap.dedent(script), *arguments]


@contextlib.contextmanager
def running(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    """A process that is gone afterwards."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def assert_away(store: SqliteStore, what: str, *, reads: bool = True) -> None:
    """Writes are unavailable and reads raise, each with one line that names ``what``."""
    outcome = store.put(policy("svc=new"), change(), 0)
    assert isinstance(outcome, Unavailable)
    assert what in outcome.reason
    assert "\n" not in outcome.reason
    with pytest.raises(StoreUnavailableError, match=what):
        store.next_epoch()
    if reads:
        with pytest.raises(StoreUnavailableError, match=what):
            store.snapshot()
        with pytest.raises(StoreUnavailableError, match=what):
            store.history(None, 1)


# Several processes.


def test_processes_share_one_file_and_every_write_is_there_once(path: Path, store: SqliteStore) -> None:
    with Watching(store, 0) as watching, contextlib.ExitStack() as stack:
        writers = [stack.enter_context(running(python(WRITER, str(path), name, "25"))) for name in "abc"]
        printed = [line for writer in writers for line in writer.communicate(timeout=WAIT_S)[0].split()]
        assert [writer.returncode for writer in writers] == [0, 0, 0]
        history = store.history("svc=web", 1_000)
        assert len(printed) == 75
        assert sorted(entry.change.reason for entry in history) == sorted(printed)
        assert [watching.take_event().revision for _ in printed] == sorted(e.revision for e in history)
    assert store.snapshot().records["svc=web"].version == 75


def test_nothing_acknowledged_is_lost_when_a_writer_is_killed(path: Path, store: SqliteStore) -> None:
    with running(python(WRITER, str(path), "a", "1000000")) as writer:
        assert writer.stdout is not None
        printed = [writer.stdout.readline().strip() for _ in range(50)]
        writer.kill()
        printed += writer.stdout.read().split()
    reasons = [entry.change.reason for entry in store.history(None, 1_000_000)][::-1]
    assert reasons[: len(printed)] == printed
    assert len(reasons) in (len(printed), len(printed) + 1)  # one write may have ended unheard
    version = store.snapshot().records["svc=web"].version
    assert version == len(reasons)
    stored(store.put(policy(), change(), version))


def test_processes_that_create_one_file_at_once_agree_on_it(path: Path) -> None:
    with contextlib.ExitStack() as stack:
        writers = [stack.enter_context(running(python(WRITER, str(path), name, "1"))) for name in "abc"]
        for writer in writers:
            writer.communicate(timeout=WAIT_S)
        assert [writer.returncode for writer in writers] == [0, 0, 0]
    with contextlib.closing(SqliteStore(path)) as store:
        assert store.snapshot().records["svc=web"].version == 3


def test_a_file_locked_for_too_long_is_unavailable_for_writes_and_still_read(path: Path, store: SqliteStore) -> None:
    record = stored(store.put(policy(), change(), 0))
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert_away(store, "another process keeps it locked", reads=False)
        assert dict(store.snapshot().records) == {"svc=web": record}
    stored(store.put(policy(share=2), change(), 1))


# Durability.


def test_every_commit_reaches_the_disk_before_it_is_acknowledged(path: Path, store: SqliteStore) -> None:
    assert store._connection is not None
    assert store._connection.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL
    with contextlib.closing(sqlite3.connect(path)) as other:
        assert other.execute("PRAGMA journal_mode").fetchone() == ("wal",)


# Files that are none.


def test_a_path_that_cannot_hold_a_file_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is a directory"):
        SqliteStore(tmp_path)
    with pytest.raises(UsageError, match="directory that does not exist"):
        SqliteStore(tmp_path / "none" / "policy.db")


@pytest.mark.parametrize("name", ["with space?mode=memory#%41.db", "ünïcode.db", ":memory:"])
def test_any_file_name_serves(tmp_path: Path, closing: Closing, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = closing(SqliteStore(Path(name)))
    stored(store.put(policy(), change(), 0))
    assert (tmp_path / name).is_file()


def test_a_file_of_a_newer_controller_is_refused_and_left_alone(path: Path) -> None:
    SqliteStore(path).close()
    with contextlib.closing(sqlite3.connect(path)) as other, other:
        other.execute("UPDATE utilctl_store SET schema = ?", (STORE_SCHEMA_VERSION + 1,))
    before = path.read_bytes()
    with pytest.raises(FailedError, match="has schema 3, this program knows 2; upgrade the controller"):
        SqliteStore(path)
    assert path.read_bytes() == before


def test_a_file_of_before_is_taken_over_with_the_next_epoch_and_keeps_everything(path: Path, closing: Closing) -> None:
    with contextlib.closing(SqliteStore(path)) as store:
        epoch = store.next_epoch()
        written = stored(store.put(policy(), change(), 0))
    with contextlib.closing(sqlite3.connect(path)) as other, other:
        other.execute("UPDATE utilctl_store SET schema = 1")
        (text,) = other.execute("SELECT policy FROM see").fetchone()
    assert json.loads(text)["schema"] == 1, "a policy without a hold is written as it always was"
    migrated = closing(SqliteStore(path))
    assert migrated.next_epoch() == epoch + 1
    assert dict(migrated.snapshot().records) == {"svc=web": written}
    with contextlib.closing(sqlite3.connect(path)) as other, other:
        assert other.execute("SELECT schema FROM utilctl_store").fetchone() == (STORE_SCHEMA_VERSION,)


def test_a_database_of_another_program_is_refused_and_left_alone(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as other, other:
        other.execute("CREATE TABLE theirs (x)")
    before = path.read_bytes()
    with pytest.raises(FailedError, match="database of another program"):
        SqliteStore(path)
    assert path.read_bytes() == before


def test_a_file_that_is_no_database_is_refused_and_left_alone(path: Path) -> None:
    path.write_text("dear diary, " * 1_000)
    with pytest.raises(StoreUnavailableError, match="damaged or no database"):
        SqliteStore(path)
    assert path.read_text() == "dear diary, " * 1_000


def test_an_empty_file_becomes_a_store(path: Path, closing: Closing) -> None:
    path.touch()
    stored(closing(SqliteStore(path)).put(policy(), change(), 0))


# Files that go bad while in use.


def test_a_damaged_file_is_said_to_be_damaged_until_it_is_restored(path: Path, store: SqliteStore) -> None:
    for number in range(50):
        done(store.put(policy(f"svc=s{number}"), change("x" * 1_000), 0))
    good = _checkpointed(path)
    with Watching(store, 0) as watching:
        assert len(watching.take(50)) == 50
        _overwrite(path, good[:4096] + b"\xff" * (len(good) - 4096))
        assert_away(store, "it is damaged")
        _overwrite(path, good)
        assert len(store.snapshot().records) == 50
        latest = done(store.put(policy("svc=new"), change(), 0))
        assert watching.take_event().revision == latest.revision


def test_a_watch_starts_again_from_a_snapshot_when_the_file_went_back_in_time(path: Path, store: SqliteStore) -> None:
    before = stored(store.put(policy(share=1), change(), 0))
    backup = _checkpointed(path)
    latest = stored(store.put(policy(share=2), change(), 1))
    with Watching(store, latest.revision) as watching:
        stored(store.put(policy(share=3), change(), 2))
        watching.take_event()
        _overwrite(path, b"\xff" * len(_checkpointed(path)))
        assert_away(store, "damaged or no database")
        _overwrite(path, backup)
        again = stored(store.put(policy(share=4), change(), 1))
        reloaded = watching.take_reload().snapshot.records["svc=web"]
        if reloaded != again:  # taken before that write
            assert reloaded == before
            assert watching.take_event().record == again


def _checkpointed(path: Path) -> bytes:
    """The file's content, with nothing left in the write-ahead log."""
    with contextlib.closing(sqlite3.connect(path)) as other:
        assert other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0
    return path.read_bytes()


def _overwrite(path: Path, content: bytes) -> None:
    with path.open("r+b") as file:
        file.write(content)
        file.truncate()


def test_a_file_that_was_deleted_or_replaced_is_neither_read_nor_written(path: Path, store: SqliteStore) -> None:
    stored(store.put(policy(), change(), 0))
    other_path = path.with_name("other.db")
    with contextlib.closing(SqliteStore(other_path)) as other:
        record = stored(other.put(policy("svc=other"), change(), 0))
    with Watching(store, store.snapshot().revision) as watching:
        stored(store.put(policy(share=2), change(), 1))
        watching.take_event()
        path.unlink()
        assert_away(store, "the file is gone")
        other_path.replace(path)
        assert_away(store, "replaced while in use; stop every controller, delete policy.db-wal and policy.db-shm")
        assert not watching.ended
        assert watching.pending() == []
    store.close()
    for side_file in path.parent.glob("policy.db-*"):
        side_file.unlink()
    with contextlib.closing(SqliteStore(path)) as again:
        assert dict(again.snapshot().records) == {"svc=other": record}


def test_a_full_disk_refuses_writes_keeps_everything_and_recovers(path: Path) -> None:
    script = """
        import resource, sys
        from pathlib import Path
        from utilctl_common.policy import SeePolicy
        from utilctl_controller.store.port import Change, Done, Unavailable
        from utilctl_controller.store.sqlite import SqliteStore

        store, version, change = SqliteStore(Path(sys.argv[1])), 0, Change("ada", "x" * 20_000, 0)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, resource.RLIM_INFINITY))
        while isinstance(outcome := store.put(SeePolicy("svc=web", 1), change, version), Done):
            version += 1
        assert isinstance(outcome, Unavailable) and "disk" in outcome.reason, outcome
        print(outcome.reason)
        assert version > 5
        assert store.snapshot().records["svc=web"].version == version
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        assert isinstance(store.put(SeePolicy("svc=web", 2), change, version), Done)
        assert len(store.history(None, 1000)) == version + 1
        store.close()
    """
    result = subprocess.run(python(script, str(path)), capture_output=True, text=True, timeout=WAIT_S)
    assert result.returncode == 0, result.stderr
    assert len(result.stdout.splitlines()) == 1


def test_a_file_without_write_permission_is_read_and_refuses_writes() -> None:
    script = """
        import os, sys
        from pathlib import Path
        from utilctl_common.policy import SeePolicy
        from utilctl_controller.store.port import Change, StoreUnavailableError, Unavailable
        from utilctl_controller.store.sqlite import SqliteStore

        if os.geteuid() == 0:
            os.setuid(65534)  # nobody; root may write anything
        try:
            store = SqliteStore(Path(sys.argv[1]))
        except StoreUnavailableError as error:
            print(error)
            raise SystemExit(0)
        outcome = store.put(SeePolicy("svc=web", 2), Change("ada", "", 0), 1)
        assert isinstance(outcome, Unavailable), outcome
        assert store.snapshot().records["svc=web"].version == 1
        print(outcome.reason)
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with contextlib.closing(SqliteStore(folder / "policy.db")) as store:
            stored(store.put(policy(), change(), 0))
            for file in folder.iterdir():
                file.chmod(0o444)
            folder.chmod(0o555)
            command = python(script, str(folder / "policy.db"))
            result = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S)
            folder.chmod(0o755)
    assert result.returncode == 0, result.stderr
    (line,) = result.stdout.splitlines()
    assert "cannot be written" in line or "cannot be opened" in line
    assert "permission" in line or "writable" in line
