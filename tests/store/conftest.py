"""Fixtures of the store tests: fresh databases of both kinds."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.etcd_server import NO_ETCD, EtcdServer, etcd_on_path
from support.store_harness import Closing, Harness, TestedStore, etcd_harness, sqlite_harness


@pytest.fixture(scope="session")
def etcd_server() -> Iterator[EtcdServer]:
    """One etcd for all tests of a process that do not disturb it; they use different prefixes."""
    if not etcd_on_path():
        pytest.skip(NO_ETCD)
    with EtcdServer() as server:
        yield server


@pytest.fixture
def own_etcd_server() -> Iterator[EtcdServer]:
    """An etcd for a test that kills or compacts it."""
    if not etcd_on_path():
        pytest.skip(NO_ETCD)
    with EtcdServer() as server:
        yield server


@pytest.fixture
def closing() -> Iterator[Closing]:
    """Registers a store to be closed after the test."""
    with contextlib.ExitStack() as stack:

        def register(store: TestedStore) -> TestedStore:
            stack.callback(store.close)
            return store

        yield register


@pytest.fixture(params=["sqlite", pytest.param("etcd", marks=pytest.mark.etcd)])
def harness(request: pytest.FixtureRequest, tmp_path: Path, closing: Closing) -> Harness:
    """A fresh database of each kind."""
    if request.param == "sqlite":
        return sqlite_harness(tmp_path, closing)
    return etcd_harness(request.getfixturevalue("etcd_server"), closing)


@pytest.fixture
def store(harness: Harness) -> TestedStore:
    """A store on a fresh database."""
    return harness.open()
