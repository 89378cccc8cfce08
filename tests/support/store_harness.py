"""Stores of both kinds behind one harness, so that every contract test runs on each of them."""

from __future__ import annotations

import contextlib
import sqlite3
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from support.etcd_server import EtcdServer, free_port
from utilctl_common.quantities import NS_PER_MS
from utilctl_controller.store.etcd import EtcdStore
from utilctl_controller.store.etcd_endpoints import parse_endpoints
from utilctl_controller.store.sqlite import SqliteStore

TestedStore = SqliteStore | EtcdStore
Closing = Callable[[TestedStore], TestedStore]
"""Registers a store to be closed after the test, and returns it."""

SHORT_DEADLINE_NS = 300 * NS_PER_MS
"""For stores that are away on purpose."""


@dataclass(frozen=True, slots=True)
class Harness:
    """One database of one kind. Every store that it opens is closed after the test."""

    kind: str
    open: Callable[[], TestedStore]
    """Another handle on the same database."""
    open_unreachable: Callable[[], TestedStore]
    """A store whose database is away."""
    spoil: Callable[[str, str], None]
    """Replace the stored value of an SEE by this text behind the store's back."""


def sqlite_harness(folder: Path, closing: Closing) -> Harness:
    """A file in ``folder``."""
    path = folder / "policy.db"

    def open_unreachable() -> TestedStore:
        gone = folder / f"{uuid.uuid4().hex}.db"
        store = closing(SqliteStore(gone, deadline_ns=SHORT_DEADLINE_NS))
        for file in folder.glob(f"{gone.name}*"):
            file.unlink()
        return store

    def spoil(see: str, text: str) -> None:
        with contextlib.closing(sqlite3.connect(path)) as connection, connection:
            connection.execute(
                "INSERT INTO see (name, version, revision, policy, change) VALUES (?1, 1, 0, ?2, '{}')"
                " ON CONFLICT (name) DO UPDATE SET policy = ?2",
                (see, text),
            )

    return Harness("sqlite", lambda: closing(SqliteStore(path)), open_unreachable, spoil)


def etcd_harness(server: EtcdServer, closing: Closing) -> Harness:
    """A prefix of its own on ``server``."""
    prefix = f"/utilctl-test/{uuid.uuid4().hex}/"

    def open_unreachable() -> TestedStore:
        nobody = parse_endpoints(f"127.0.0.1:{free_port()}")
        return closing(EtcdStore(nobody, prefix, deadline_ns=SHORT_DEADLINE_NS))

    def spoil(see: str, text: str) -> None:
        server.put(f"{prefix}see/{see}", f'{{"policy":{text}}}'.encode())

    def opened() -> TestedStore:
        return closing(EtcdStore(parse_endpoints(server.address), prefix))

    return Harness("etcd", opened, open_unreachable, spoil)
