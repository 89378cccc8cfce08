"""Fixtures of tests that pause real processes in each way that the kernel offers (support.pausing)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.processes import temporary_cgroup
from utilctl_agent.host.cgroup import freezer_refusal
from utilctl_agent.host.freezer_v1 import freezer_v1_refusal
from utilctl_agent.host.hierarchies import FREEZER_V1, v1_mount
from utilctl_agent.safety.journal import Journal


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    """An empty journal."""
    made = Journal.create(str(tmp_path / "journal"), slots=16)
    yield made
    made.close()


@pytest.fixture
def cgroup(request: pytest.FixtureRequest) -> Iterator[Path | None]:
    """A cgroup of the kind asked for; None for signals."""
    kind = request.param
    refusal = {"signal": lambda: None, "freezer": freezer_refusal, "freezer-v1": freezer_v1_refusal}[kind]()
    if refusal is not None:
        pytest.skip(refusal)
    if kind == "signal":
        yield None
        return
    with temporary_cgroup(v1_mount(FREEZER_V1) if kind == "freezer-v1" else None) as path:
        yield path
