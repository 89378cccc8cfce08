"""How a controller that does not lead says who does: in the metadata behind its refusal."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

LEADER_KEY: Final = "utilctl-leader"
"""Its value is the leader's address, or empty if none is known."""
MOST_HOPS: Final = 3
"""Redirections followed in a row. Arbitrary; more than one only happens while leaders change."""


def redirection(leader: str) -> tuple[tuple[str, str], ...]:
    """The metadata that says so."""
    return ((LEADER_KEY, leader),)


def leader_of(metadata: Iterable[Any] | None) -> str | None:
    """The leader's address in the metadata of a refusal, empty if none is known; None if it is no redirection."""
    for key, value in metadata or ():
        if key == LEADER_KEY:
            return value if isinstance(value, str) else ""
    return None
