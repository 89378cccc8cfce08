"""The pure cores stay pure: no I/O, no clock, no logging, no randomness, no processes or threads."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import utilctl_agent
import utilctl_common.responsetime

ROOT = Path(utilctl_agent.__file__).parent
ARRAYS = sorted(Path(utilctl_common.responsetime.__file__).parent.glob("*.py"))
"""Pure modules that compute with arrays."""
PURE = sorted(
    [
        *(ROOT / "alps").glob("*.py"),
        *(ROOT / "link" / name for name in ("targets.py", "roster.py", "demand.py")),
        *ARRAYS,
    ]
)

ALLOWED = {"__future__", "collections", "dataclasses", "enum", "fractions", "heapq", "itertools", "math", "typing"}
"""Modules of the standard library that do nothing but compute. Whatever is not here is refused, known or not."""
NUMERIC_IMPORTS = {"numpy", "numpy.typing", "scipy.special"}
"""Computing, too, for those that work on arrays; the agent's cores do without."""
OWN = {
    "utilctl_agent.alps",
    "utilctl_agent.link.targets",
    "utilctl_agent.orders",
    "utilctl_common.errors",
    "utilctl_common.policy",
    "utilctl_common.quantities",
    "utilctl_common.responsetime",
}
"""Our own pure modules that the pure ones may use."""
IMPURE_BUILTINS = {"open", "print", "input", "exec", "eval", "compile", "__import__", "breakpoint"}


def imported_modules(tree: ast.AST) -> set[str]:
    modules: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports are not used here"
            modules.add(node.module or "")
    return modules


def impure_modules(source: str) -> set[str]:
    return {
        module
        for module in imported_modules(ast.parse(source))
        if module.partition(".")[0] not in ALLOWED
        and not any(module == own or module.startswith(f"{own}.") for own in OWN)
    }


def impure_calls(source: str) -> set[str]:
    return {
        node.func.id
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in IMPURE_BUILTINS
    }


@pytest.mark.parametrize("path", PURE, ids=lambda path: path.name)
def test_a_pure_module_imports_only_what_computes(path: Path) -> None:
    source = path.read_text()
    assert impure_modules(source) - (NUMERIC_IMPORTS if path in ARRAYS else set()) == set()
    assert impure_calls(source) == set()


def test_all_pure_modules_are_looked_at() -> None:
    assert {"turns.py", "paper.py", "feasible.py", "pauses.py", "targets.py", "demand.py", "orders.py"} <= {
        p.name for p in PURE
    }


@pytest.mark.parametrize(
    "source",
    [
        "import time",
        "import os.path",
        "from datetime import datetime",
        "import logging as log",
        "def f():\n    import random",
        "from utilctl_agent.host.port import Group",
        "import grpc",
    ],
)
def test_what_is_impure_is_noticed(source: str) -> None:
    assert impure_modules(source)


def test_impure_calls_are_noticed() -> None:
    assert impure_calls("def f():\n    return open('x')") == {"open"}
