"""The group that fits a cgroup and what is asked for."""

from __future__ import annotations

from pathlib import Path

from utilctl_agent.host.cgroup import CgroupGroup
from utilctl_agent.host.freezer_v1 import FreezerV1Group
from utilctl_agent.host.port import Group, Ledger
from utilctl_agent.host.weights import WeightGroup


def open_cgroup(path: Path, ledger: Ledger, *, weight: bool) -> Group:
    """A cgroup to be weighed or paused. Raises GroupGoneError, or MechanismError if it cannot be controlled so."""
    if weight:
        return WeightGroup(path, ledger)
    if (path / "freezer.state").exists():
        return FreezerV1Group(path, ledger)
    return CgroupGroup(path, ledger)
