"""Policy files: the services of a fleet as people write them for ``utilctl apply`` and ``utilctl diff``.

The file::

    services:
      - name: svc=web
        share: 3
        floor: 0.5               # cores; left out: 0
        cap: 8                   # cores; left out: none
        mode: auto
        match: [{user: www-data}, {cgroup: "/x*", command: nginx}]
        children:
          - {name: class=gold, share: 2}
      - name: svc=batch          # no share: it only groups its children, and what is stored for it stays
        children:
          - {name: svc=batch/job=etl, share: 1}

A child is called by the rest of its path or by all of it. An entry is the whole policy: what it leaves out has its
default.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from utilctl_common.errors import UsageError
from utilctl_common.matchers import Matcher, matcher_from_mapping
from utilctl_common.names import parent_of, parse_see_name
from utilctl_common.policy import SeePolicy, check_mode
from utilctl_common.quantities import check_cores, check_share
from utilctl_common.yaml_input import load_yaml

MAX_POLICY_FILE_BYTES: Final = 2 * 1024 * 1024
"""Largest policy file. Arbitrary; 10,000 services with a matcher each are about 1 MB, and take some seconds to read."""

_LINE_SEPARATORS: Final = "\x85\u2028\u2029"
"""YAML folds these, so text that holds one is written with escapes."""

Location = tuple[str | int, ...]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class PolicyEntry(_Strict):
    """One service, or a node that only groups its children (no share). Numbers are judged by ``PolicyFile``."""

    name: str
    share: float | None = None
    floor: float = 0.0
    cap: float | None = None
    mode: str = "auto"
    match: tuple[dict[str, str | int], ...] = Field(default=(), strict=False)
    children: tuple[PolicyEntry, ...] = Field(default=(), strict=False)


class PolicyFile(_Strict):
    """The whole file."""

    services: tuple[PolicyEntry, ...] = Field(strict=False)

    @classmethod
    def model_validate(cls, obj: Any, **options: Any) -> Self:  # noqa: ANN401 - as in pydantic
        """As pydantic's, and names the very item that is no policy, or that does not fit the others."""
        file = super().model_validate(obj, **options)
        try:
            file.content()
        except _MisplacedError as error:
            detail = InitErrorDetails(
                type=PydanticCustomError("policy", "{what}", {"what": str(error)}), loc=error.where, input=obj
            )
            raise ValidationError.from_exception_data(cls.__name__, [detail]) from None
        return file

    def content(self) -> PolicyFileContent:
        """What the file asks for."""
        placed: dict[str, tuple[Location, PolicyEntry]] = {}
        for where, name, entry in _named(self.services, (), ("services",)):
            if name in placed:
                raise _MisplacedError((*where, "name"), f"{name} is listed twice; list it once")
            placed[name] = (where, entry)
        parents = {parent_of(name) for name in placed}
        policies: list[SeePolicy] = []
        groups: list[str] = []
        for name, (where, entry) in placed.items():
            parent = parent_of(name)
            if parent is not None and parent not in placed:
                hint = f"list {parent} too, without a share if it only groups"
                raise _MisplacedError((*where, "name"), f"the parent of {name} is not in the file; {hint}")
            if entry.share is None:
                _check_group(where, name, entry, has_children=name in parents)
                groups.append(name)
            else:
                policies.append(_policy(where, name, entry, entry.share))
        return PolicyFileContent(tuple(sorted(policies, key=lambda policy: policy.name)), tuple(sorted(groups)))


@dataclass(frozen=True, slots=True)
class PolicyFileContent:
    """Policies by name, and the names of nodes that only group. Neither depends on the order in the file."""

    policies: tuple[SeePolicy, ...]
    groups: tuple[str, ...]


class _MisplacedError(Exception):
    """What is wrong at one place of the file."""

    def __init__(self, where: Location, what: str) -> None:
        super().__init__(what)
        self.where = where


def load_policies(path: Path) -> PolicyFileContent:
    """Read a policy file (``-``: standard input). Raises UsageError, one line with file, line and field."""
    return load_yaml(path, PolicyFile, max_bytes=MAX_POLICY_FILE_BYTES).content()


def dump_policies(policies: Iterable[SeePolicy]) -> str:
    """The policy file that asks for exactly ``policies``. Holds are left out: they are no policy, and end."""
    by_name = {policy.name: policy for policy in policies}
    nodes: set[str] = set()
    for name in by_name:
        node: str | None = name
        while node is not None and node not in nodes:
            nodes.add(node)
            node = parent_of(node)
    children: dict[str | None, list[str]] = {}
    for name in sorted(nodes):
        children.setdefault(parent_of(name), []).append(name)

    def entry(name: str) -> dict[str, Any]:
        data: dict[str, Any] = {"name": name}
        if (policy := by_name.get(name)) is not None:
            data |= _explicit(policy)
        if name in children:
            data["children"] = [entry(child) for child in children[name]]
        return data

    document = {"services": [entry(name) for name in children.get(None, ())]}
    text = yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=10**6)
    if not any(separator in text for separator in _LINE_SEPARATORS):
        return text
    return yaml.safe_dump(document, sort_keys=False, width=10**6)


def _explicit(policy: SeePolicy) -> dict[str, Any]:
    """What is not as usual, and the share."""
    data: dict[str, Any] = {"share": _number(policy.share)}
    if policy.floor_cores:
        data["floor"] = _number(policy.floor_cores)
    if policy.cap_cores is not None:
        data["cap"] = _number(policy.cap_cores)
    if policy.mode != "auto":
        data["mode"] = policy.mode
    if policy.matchers:
        data["match"] = [matcher.as_dict() for matcher in policy.matchers]
    return data


def _number(value: float) -> float | int:
    """3 rather than 3.0, as people write it."""
    return int(value) if value.is_integer() else value


def _named(
    entries: Sequence[PolicyEntry], above: tuple[str, ...], where: Location
) -> Iterator[tuple[Location, str, PolicyEntry]]:
    """Every entry with its place and its whole name; ``above`` are the names of the entries around them."""
    for position, entry in enumerate(entries):
        here = (*where, position)
        name = _whole_name(entry.name, above, here)
        yield here, name, entry
        yield from _named(entry.children, (*above, name), (*here, "children"))


def _whole_name(name: str, above: tuple[str, ...], where: Location) -> str:
    if name in above:
        raise _MisplacedError((*where, "name"), f"{name} stands below itself; list it once, outside")
    parent = above[-1] if above else None
    if parent is not None and not name.startswith(f"{parent}/"):
        name = f"{parent}/{name}"
    with _at(*where, "name"):
        return parse_see_name(name)


def _check_group(where: Location, name: str, entry: PolicyEntry, *, has_children: bool) -> None:
    said = sorted(entry.model_fields_set - {"name", "children"})
    if said or not has_children:
        why = f"it has {said[0]}, so it needs one" if said else "only a node with children does without"
        raise _MisplacedError((*where, said[0] if said else "name"), f"{name} has no share; {why}, for example 3")


def _policy(where: Location, name: str, entry: PolicyEntry, share: float) -> SeePolicy:
    with _at(*where, "share"):
        check_share(share)
    with _at(*where, "floor"):
        check_cores(entry.floor, "floor")
    with _at(*where, "mode"):
        check_mode(entry.mode, name)
    matchers: list[Matcher] = []
    for position, conditions in enumerate(entry.match):
        with _at(*where, "match", position):
            matchers.append(matcher_from_mapping({key: str(value) for key, value in conditions.items()}))
    with _at(*where, "cap"):  # all else is right
        return SeePolicy(name, share, entry.floor, entry.cap, entry.mode, tuple(dict.fromkeys(matchers)))


@contextlib.contextmanager
def _at(*where: str | int) -> Iterator[None]:
    """What is refused inside is refused for what stands at ``where``."""
    try:
        yield
    except UsageError as error:
        raise _MisplacedError(where, str(error)) from None
