"""A controller on a SQLite file, for the tests of this folder."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.controller_server import RunningController
from utilctl_common.quantities import NS_PER_MS
from utilctl_controller.store.sqlite import SqliteStore


@pytest.fixture
def store_path(tmp_path: Path) -> Path:
    """Where the controller's store lies."""
    return tmp_path / "policy.db"


@pytest.fixture
def controller(store_path: Path, caplog: pytest.LogCaptureFixture) -> Iterator[RunningController]:
    """A running controller, stopped after the test. Nothing that a test does to it may surprise it."""
    with RunningController(SqliteStore(store_path, deadline_ns=300 * NS_PER_MS)) as running:
        yield running
    surprises = [record.getMessage() for record in caplog.get_records("call") if record.levelno >= logging.ERROR]
    assert not surprises
