"""YAML files from users, checked against a pydantic model, with the line of every mistake.

pydantic says which field is wrong; PyYAML's node tree says on which line that field stands.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from utilctl_common.errors import UsageError

Model = TypeVar("Model", bound=BaseModel)

MAX_FILE_BYTES = 16 * 1024 * 1024
"""Largest file read, in bytes. Arbitrary; a policy of 100,000 services is about 10 MB."""

MAX_EXPANDED_NODES: Final = 1_000_000
"""Most values that a file may come to with its aliases written out. Arbitrary; a few lines of aliases of aliases can
come to more than any memory holds."""

MAX_DEPTH: Final = 100
"""Lists and mappings inside each other. Arbitrary; libyaml goes down them on the C stack, which has an end."""

MAX_SHOWN_NAME: Final = 80
"""Characters of an item's name in an error. Arbitrary; a line should stay one line on a screen."""

_WORDS: Final = {
    "extra_forbidden": "unknown key",
    "missing": "this key is missing",
    "tuple_type": "this must be a list",
    "model_type": "this must be keys and values",
    "dict_type": "this must be keys and values",
    "string_type": "this must be text; put it in quotes",
}
"""What pydantic finds, in words for people who write YAML."""

_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""libyaml's, where PyYAML was built with it: ten times as fast."""


def load_yaml(path: Path, model: type[Model], *, max_bytes: int = MAX_FILE_BYTES, naming_items: bool = False) -> Model:
    """Read ``path`` (``-``: standard input) and return it as ``model``.

    Raises UsageError, one line that names file, line and field, for an unreadable file, malformed YAML, duplicate
    or unknown keys, and values of the wrong type. With ``naming_items`` it also names, by its ``name``, the item of a
    list that the field is in.
    """
    source = "standard input" if str(path) == "-" else str(path)
    try:
        if str(path) == "-":
            raw = sys.stdin.buffer.read(max_bytes + 1)
        else:
            with path.open("rb") as file:
                raw = file.read(max_bytes + 1)
        if len(raw) > max_bytes:
            raise UsageError(f"{source}: larger than {max_bytes} bytes", hint="split it")
        text = raw.decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise UsageError(f"{source}: cannot be read: {reason}") from None
    return parse_yaml(text, model, source=source, naming_items=naming_items)


def parse_yaml(text: str, model: type[Model], *, source: str, naming_items: bool = False) -> Model:
    """As load_yaml, for text already read; ``source`` names it in errors."""
    strange = yaml.reader.Reader.NON_PRINTABLE.search(text)
    if strange is not None:
        line = text.count("\n", 0, strange.start()) + 1
        raise UsageError(f"{source}:{line}: malformed YAML: it holds the control character {strange[0]!a}")
    try:
        _refuse_deep(text, source)
        root = yaml.compose(text, Loader=_LOADER)
        if root is None:
            raise UsageError(f"{source}: the file is empty")
        _refuse_duplicates(root, source)
        _refuse_endless(root, source)
        data = _constructed(root, source)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f":{mark.line + 1}" if mark else ""
        raise UsageError(f"{source}{where}: malformed YAML: {error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise UsageError(f"{source}: malformed YAML: {str(error).splitlines()[0]}") from None
    try:
        return model.model_validate(data)
    except ValidationError as error:
        # A misspelt key shows as an unknown and as a missing one; the unknown one says more.
        problems = error.errors(include_url=False, include_context=False)
        first = min(problems, key=lambda problem: problem["type"] != "extra_forbidden")
        location = list(first["loc"])
        field = ".".join(str(part) for part in location) or "the file"
        what = _WORDS.get(first["type"], first["msg"].removeprefix("Value error, "))
        name = _name_at(root, location) if naming_items else None
        whose = "" if name is None or name in what else f"{name}: "
        raise UsageError(f"{source}:{_line_of(root, location)}: {whose}{field}: {what}") from None


def _line_of(node: yaml.Node, location: Sequence[str | int]) -> int:
    """Line (from 1) of the deepest node on the way to ``location`` that exists in the file."""
    line = node.start_mark.line
    for part in location:
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                if key.value == str(part):
                    line, node = key.start_mark.line, value
                    break
            else:
                break
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line
        else:
            break
    return line + 1


def _name_at(node: yaml.Node, location: Sequence[str | int]) -> str | None:
    """The ``name`` of the innermost item of a list on the way to ``location``, where it has a readable one."""
    name: str | None = None
    for part in location:
        if isinstance(node, yaml.MappingNode):
            node = next((value for key, value in node.value if key.value == str(part)), node)
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            if isinstance(node, yaml.MappingNode):
                names = [value.value for key, value in node.value if key.value == "name"]
                name = names[0] if names and isinstance(names[0], str) and names[0].isprintable() else name
        else:
            break
    return name[:MAX_SHOWN_NAME] if name else None


def _refuse_duplicates(root: yaml.Node, source: str) -> None:
    pending, seen_nodes = [root], set[int]()
    while pending:
        node = pending.pop()
        if id(node) in seen_nodes:
            continue
        seen_nodes.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            pending.extend(node.value)
        elif isinstance(node, yaml.MappingNode):
            keys: set[str] = set()
            for key, value in node.value:
                if not isinstance(key, yaml.ScalarNode):
                    raise UsageError(f"{source}:{key.start_mark.line + 1}: a key must be plain text")
                if key.value in keys:
                    raise UsageError(f"{source}:{key.start_mark.line + 1}: key {key.value!r} stands twice")
                keys.add(key.value)
                pending.append(value)


def _constructed(root: yaml.Node, source: str) -> object:
    try:
        return yaml.constructor.SafeConstructor().construct_document(root)
    except (ValueError, OverflowError):  # a date that is none, a number of thousands of digits
        pass
    pending = [root]
    while pending:
        node = pending.pop()
        if isinstance(node, yaml.ScalarNode):
            try:
                yaml.constructor.SafeConstructor().construct_document(node)
            except (ValueError, OverflowError):
                line = node.start_mark.line + 1
                raise UsageError(f"{source}:{line}: malformed YAML: this value cannot be read; quote it") from None
        elif isinstance(node, yaml.MappingNode):
            pending.extend(child for pair in node.value for child in pair)
        else:
            pending.extend(node.value)
    raise UsageError(f"{source}: malformed YAML: a value cannot be read")


def _refuse_deep(text: str, source: str) -> None:
    depth = 0
    for event in yaml.parse(text, Loader=_LOADER):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                line = event.start_mark.line + 1 if event.start_mark else 1
                raise UsageError(f"{source}:{line}: malformed YAML: nested too deeply")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _refuse_endless(root: yaml.Node, source: str) -> None:
    """Refuse aliases that lead back to where they stand, and such as come to too much when they are written out."""
    sizes: dict[int, int] = {}
    around: set[int] = set()

    def size(node: yaml.Node) -> int:
        if id(node) in sizes:
            return sizes[id(node)]
        if id(node) in around:
            raise UsageError(f"{source}:{node.start_mark.line + 1}: an alias stands for what it is itself a part of")
        around.add(id(node))
        total = 1
        if isinstance(node, yaml.SequenceNode):
            total += sum(size(item) for item in node.value)
        elif isinstance(node, yaml.MappingNode):
            total += sum(size(key) + size(value) for key, value in node.value)
        around.discard(id(node))
        if total > MAX_EXPANDED_NODES:
            raise UsageError(
                f"{source}:{node.start_mark.line + 1}: more than {MAX_EXPANDED_NODES} values, aliases written out"
            )
        sizes[id(node)] = total
        return total

    size(root)
