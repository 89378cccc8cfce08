"""Matchers: which processes belong to an SEE.

A policy holds a list of matchers, of which any may hold (OR); a matcher is a list of conditions that must all hold
(AND). On the command line commas are AND and repeated options OR: ``--match user=www-data --match
'cgroup=/system.slice/nginx*,command=nginx'``. A comma inside a value is written ``\\,``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from utilctl_common.errors import UsageError

MATCHER_KEYS: Final = ("user", "cgroup", "command", "cmdline", "env", "label", "unit", "tree", "pid")
"""Keys of conditions, in no order of weight. ``cmdline`` is a regular expression, ``cgroup`` a prefix or glob."""


@dataclass(frozen=True, slots=True, order=True)
class Condition:
    """One test on a process: ``key`` is one of MATCHER_KEYS, ``value`` as the user wrote it."""

    key: str
    value: str


@dataclass(frozen=True, slots=True, order=True)
class Matcher:
    """Conditions that must all hold, sorted by key, each key once."""

    conditions: tuple[Condition, ...]

    def __str__(self) -> str:
        return ",".join(f"{c.key}={c.value.replace(',', chr(92) + ',')}" for c in self.conditions)

    def as_dict(self) -> dict[str, str]:
        """The form used in policy files and JSON: ``{"user": "www-data"}``."""
        return {c.key: c.value for c in self.conditions}


def _check(key: str, value: str) -> Condition:
    if key not in MATCHER_KEYS:
        raise UsageError(f"unknown matcher key {key!r}", hint=f"use one of {', '.join(MATCHER_KEYS)}")
    if not value:
        raise UsageError(f"matcher {key!r} has no value", hint=f"write {key}=VALUE")
    if any(ord(char) < 0x20 for char in value):
        raise UsageError(f"matcher {key!r} holds a control character", hint="remove it")
    if key in ("pid", "tree") and not re.fullmatch(r"0*[1-9][0-9]{0,9}", value):
        raise UsageError(f"matcher {key}={value} is not a process id", hint=f"write for example {key}=1234")
    if key == "cmdline":
        try:
            re.compile(value)
        except re.error as error:
            raise UsageError(f"matcher cmdline={value} is not a regular expression: {error}") from None
    if key in ("env", "label") and "=" not in value:
        raise UsageError(f"matcher {key}={value} lacks its value", hint=f"write {key}=NAME=VALUE")
    return Condition(key, value)


def matcher_from_mapping(mapping: Mapping[str, str]) -> Matcher:
    """Build a matcher from its JSON form. Raises UsageError for unknown keys, bad values or no condition."""
    if not mapping:
        raise UsageError("a matcher with no condition would match every process", hint="name at least one key")
    return Matcher(tuple(sorted(_check(key, value) for key, value in mapping.items())))


def parse_matcher(text: str) -> Matcher:
    """Parse the command-line form. Raises UsageError naming the faulty condition."""
    mapping: dict[str, str] = {}
    for part in re.split(r"(?<!\\),", text):
        key, equals, value = part.replace("\\,", ",").partition("=")
        if not equals:
            raise UsageError(f"matcher {part!r} has no value", hint="write KEY=VALUE, for example user=www-data")
        if key.strip() in mapping:
            raise UsageError(f"matcher key {key.strip()!r} stands twice in {text!r}", hint="repeat --match for an OR")
        mapping[key.strip()] = value
    return matcher_from_mapping(mapping)


def parse_matchers(texts: Iterable[str]) -> tuple[Matcher, ...]:
    """Parse several command-line matchers (OR), dropping repetitions, keeping their order."""
    return tuple(dict.fromkeys(parse_matcher(text) for text in texts))
