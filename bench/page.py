"""The benchmark page's tables, made from the JSON files, so that page and figures cannot drift apart."""

from __future__ import annotations

from pathlib import Path


def write(folder: Path) -> None:
    """Placeholder until the tables are there."""
