"""Fixtures of tests that run the programs together."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.agents import capping_controller
from support.controller_server import RunningController


@pytest.fixture
def controller(tmp_path: Path) -> Iterator[RunningController]:
    """A controller that caps the one service."""
    with capping_controller(tmp_path / "policy.db") as running:
        yield running
