"""Names of service execution environments (SEEs): a label path such as ``svc=web/class=gold``.

A segment is ``key=value``; a child's path begins with its parent's. Names become etcd keys, metric labels and
file-system names, so the alphabet is small and the length bounded.
"""

from __future__ import annotations

import re

from utilctl_common.errors import UsageError

MAX_NAME_LENGTH = 253
"""Longest name, in characters. Arbitrary; the limit Kubernetes uses for object names."""

_SEGMENT = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,62}=[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


def parse_see_name(text: str) -> str:
    """Return ``text`` if it is a valid SEE name.

    Raises UsageError, naming the offending segment, otherwise.
    """
    if len(text) > MAX_NAME_LENGTH:
        raise UsageError(f"service name of {len(text)} characters is too long", hint=f"use at most {MAX_NAME_LENGTH}")
    for segment in text.split("/"):
        if not _SEGMENT.fullmatch(segment):
            raise UsageError(
                f"{segment!r} is not a service name",
                hint="write KEY=VALUE, for example svc=web, and svc=web/class=gold for a child",
            )
    return text


def parent_of(name: str) -> str | None:
    """The parent's name, or None for a top-level SEE."""
    head, slash, _ = name.rpartition("/")
    return head if slash else None


def label_pairs(name: str) -> tuple[tuple[str, str], ...]:
    """The (key, value) pairs of a name, outermost first."""
    pairs: list[tuple[str, str]] = []
    for segment in name.split("/"):
        key, _, value = segment.partition("=")
        pairs.append((key, value))
    return tuple(pairs)
