"""YAML files from users, checked against a pydantic model, with the line of every mistake.

pydantic says which field is wrong; PyYAML's node tree says on which line that field stands.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from utilctl_common.errors import UsageError

Model = TypeVar("Model", bound=BaseModel)

MAX_FILE_BYTES = 16 * 1024 * 1024
"""Largest file read, in bytes. Arbitrary; a policy of 100,000 services is about 10 MB."""


def load_yaml(path: Path, model: type[Model]) -> Model:
    """Read ``path`` and return it as ``model``.

    Raises UsageError, one line that names file, line and field, for an unreadable file, malformed YAML, duplicate
    or unknown keys, and values of the wrong type.
    """
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise UsageError(f"{path}: larger than {MAX_FILE_BYTES} bytes", hint="split it")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise UsageError(f"{path}: cannot be read: {reason}") from None
    return parse_yaml(text, model, source=str(path))


def parse_yaml(text: str, model: type[Model], *, source: str) -> Model:
    """As load_yaml, for text already read; ``source`` names it in errors."""
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        if root is None:
            raise UsageError(f"{source}: the file is empty")
        _refuse_duplicates(root, source)
        data = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f":{mark.line + 1}" if mark else ""
        raise UsageError(f"{source}{where}: malformed YAML: {error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise UsageError(f"{source}: malformed YAML: {str(error).splitlines()[0]}") from None
    except RecursionError:
        raise UsageError(f"{source}: malformed YAML: nested too deeply") from None
    try:
        return model.model_validate(data)
    except ValidationError as error:
        # A misspelt key shows as an unknown and as a missing one; the unknown one says more.
        problems = error.errors(include_url=False, include_context=False)
        first = min(problems, key=lambda problem: problem["type"] != "extra_forbidden")
        location = list(first["loc"])
        field = ".".join(str(part) for part in location) or "the file"
        words = {"extra_forbidden": "unknown key", "missing": "this key is missing"}
        what = words.get(first["type"], first["msg"].removeprefix("Value error, "))
        raise UsageError(f"{source}:{_line_of(root, location)}: {field}: {what}") from None


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
                if key.value in keys:
                    raise UsageError(f"{source}:{key.start_mark.line + 1}: key {key.value!r} stands twice")
                keys.add(key.value)
                pending.append(value)
