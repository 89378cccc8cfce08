"""Single conditions and whole matchers on one process. Pure.

``cgroup=PATH`` holds for the cgroup and everything below it, in any hierarchy. With a wildcard it is a glob
that must match the path of the process's cgroup or of one above: ``*`` and ``?`` stay within one component,
``**`` stands for any number of components. ``tree`` looks at descent and is therefore decided in
``matching``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Final

from utilctl_agent.discovery.facts import MARKER_VARIABLE, ProcessFacts, printable
from utilctl_common.matchers import Condition, Matcher
from utilctl_common.names import label_pairs
from utilctl_common.policy import SeePolicy

Test = Callable[[ProcessFacts], bool]

_WILDCARD: Final = re.compile(r"[*?\[]")

_UNIT_SUFFIXES: Final = (".service", ".scope", ".slice", ".socket", ".mount", ".swap")
"""Unit types that own a cgroup. A unit named without one of them is a service, as for systemctl."""


@dataclass(frozen=True, slots=True)
class CompiledMatcher:
    """One matcher made ready: ``tests`` are the conditions on the process alone, all of which must hold.

    ``tree_pids`` must all be the process or an ancestor, ``pids`` the process itself. ``weight`` is the
    number of conditions, by which the more specific of two SEEs is found.
    """

    source: str
    weight: int
    tests: tuple[Test, ...]
    tree_pids: tuple[int, ...]
    pids: tuple[int, ...]

    def holds_alone(self, facts: ProcessFacts) -> bool:
        """Whether every condition except ``tree`` and ``pid`` holds."""
        return all(test(facts) for test in self.tests)


@dataclass(frozen=True, slots=True)
class CompiledSee:
    """An SEE with its matchers made ready (OR)."""

    name: str
    matchers: tuple[CompiledMatcher, ...]


def compile_see(policy: SeePolicy) -> CompiledSee:
    """Make a policy's matchers ready; without any, the default ones of its name."""
    if policy.matchers:
        return CompiledSee(policy.name, tuple(_compile(matcher) for matcher in policy.matchers))
    return CompiledSee(policy.name, default_matchers(policy.name))


def default_matchers(name: str) -> tuple[CompiledMatcher, CompiledMatcher]:
    """What an SEE without matchers matches: processes marked with its name or a child's, and pods labelled
    so.

    Each counts as many conditions as the name has segments.
    """
    pairs = label_pairs(name)

    def marked(facts: ProcessFacts) -> bool:
        return _marks(facts.marker, name)

    def labelled(facts: ProcessFacts) -> bool:
        return all(pair in facts.labels for pair in pairs)

    by_marker = CompiledMatcher(f"env={MARKER_VARIABLE}={name}", len(pairs), (marked,), (), ())
    by_label = CompiledMatcher(
        ",".join(f"label={key}={value}" for key, value in pairs), len(pairs), (labelled,), (), ()
    )
    return by_marker, by_label


def _marks(marker: str | None, name: str) -> bool:
    return marker is not None and (marker == name or marker.startswith(name + "/"))


def _compile(matcher: Matcher) -> CompiledMatcher:
    return CompiledMatcher(
        source=str(matcher),
        weight=len(matcher.conditions),
        tests=tuple(compile_condition(c) for c in matcher.conditions if c.key not in ("tree", "pid")),
        tree_pids=tuple(int(c.value) for c in matcher.conditions if c.key == "tree"),
        pids=tuple(int(c.value) for c in matcher.conditions if c.key == "pid"),
    )


def compile_condition(condition: Condition) -> Test:
    """A test for any key but ``tree`` and ``pid``, which need the whole process table."""
    value = condition.value
    match condition.key:
        case "user":
            return lambda facts: value in (facts.user, str(facts.uid))
        case "command":
            return lambda facts: value in (facts.comm, facts.exe)
        case "cmdline":
            search = re.compile(value).search
            return lambda facts: search(facts.cmdline) is not None
        case "cgroup":
            matches = cgroup_pattern(value)
            return lambda facts: any(matches(path) for _, path in facts.cgroups)
        case "unit":
            unit = unit_name(value)
            return lambda facts: any(unit in path.split("/") for _, path in facts.cgroups)
        case "env":
            name, _, wanted = value.partition("=")
            return lambda facts: facts.variable(name) == wanted
        case "label":
            key, _, wanted_label = value.partition("=")
            return lambda facts: (key, wanted_label) in facts.labels
        case _:
            raise AssertionError(f"condition {condition.key} has no test of its own")


def unit_name(value: str) -> str:
    """The full name of a systemd unit; ``nginx`` means ``nginx.service``."""
    return value if value.endswith(_UNIT_SUFFIXES) else f"{value}.service"


def cgroup_pattern(value: str) -> Callable[[str], bool]:
    """A test on a cgroup path: prefix by whole components, or glob. A missing first slash is added."""
    pattern = "/" + value.strip("/")
    if not _WILDCARD.search(pattern):
        prefix = pattern.rstrip("/") + "/"
        return lambda path: (path + "/").startswith(prefix)
    parts = tuple(pattern[1:].split("/"))
    # A host has few cgroups and many processes in them, so answers repeat.
    return lru_cache(maxsize=4096)(lambda path: _glob(parts, tuple(filter(None, path.split("/")))))


def _glob(parts: tuple[str, ...], components: tuple[str, ...]) -> bool:
    if not parts:
        return True
    if parts[0] == "**":
        return any(_glob(parts[1:], components[skip:]) for skip in range(len(components) + 1))
    return bool(components) and fnmatchcase(components[0], parts[0]) and _glob(parts[1:], components[1:])


def wanted_variables(policies: Iterable[SeePolicy]) -> frozenset[str]:
    """The environment variables that these policies look at. No other is ever kept."""
    names = {MARKER_VARIABLE}
    for policy in policies:
        for matcher in policy.matchers:
            names.update(c.value.partition("=")[0] for c in matcher.conditions if c.key == "env")
    return frozenset(names)


def named_pids(policies: Iterable[SeePolicy]) -> frozenset[int]:
    """The bare pids that ``pid=`` and ``tree=`` conditions name."""
    return frozenset(
        int(condition.value)
        for policy in policies
        for matcher in policy.matchers
        for condition in matcher.conditions
        if condition.key in ("pid", "tree")
    )


def observed(condition: Condition, facts: ProcessFacts) -> str:
    """What the process has where ``condition`` looks, for people."""
    return printable(_observed(condition, facts))


def _observed(condition: Condition, facts: ProcessFacts) -> str:
    match condition.key:
        case "user":
            return f"{facts.user} (uid {facts.uid})"
        case "command":
            return " or ".join(dict.fromkeys(filter(None, (facts.comm, facts.exe))))
        case "cmdline":
            return facts.cmdline
        case "cgroup" | "unit":
            return " ".join(dict.fromkeys(path for _, path in facts.cgroups))
        case "env":
            if facts.environment is None:
                return "not readable (run as root or as the same user)"
            name = condition.value.partition("=")[0]
            value = facts.variable(name)
            return f"{name} not set" if value is None else f"{name}={value}"
        case "label":
            key = condition.value.partition("=")[0]
            value = dict(facts.labels).get(key)
            return f"{key} not set" if value is None else f"{key}={value}"
        case _:
            return f"pid {facts.pid}"
