"""The one number of a node that can be turned: its share, or the floor or cap that stands in its place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Literal

from utilctl_common.errors import UsageError
from utilctl_common.responsetime.model import Machine, Node, Semantics
from utilctl_common.responsetime.processor import fractions

Knob = Literal["share", "floor", "cap"]


def walk(nodes: Sequence[Node]) -> Iterator[Node]:
    """Every node of these trees, parents first."""
    for node in nodes:
        yield node
        yield from walk(node.children)


def find(machine: Machine, name: str) -> Node:
    """The node of that name. Raises UsageError, with the names there are, if there is none."""
    for node in walk(machine.nodes):
        if node.name == name:
            return node
    names = [node.name for node in walk(machine.nodes)]
    shown = ", ".join(names[:5]) + (" and others" if len(names) > 5 else "")
    raise UsageError(f"{name} is not among the workloads", hint=f"there are {shown}")


def siblings(machine: Machine, name: str) -> tuple[Node, ...]:
    """The node of that name and those beside it."""
    families = [machine.nodes, *(node.children for node in walk(machine.nodes))]
    return next(family for family in families if any(node.name == name for node in family))


def semantics_around(machine: Machine, name: str) -> Semantics:
    """How the siblings of the node of that name share."""

    def search(nodes: Sequence[Node], semantics: Semantics) -> Semantics | None:
        for node in nodes:
            found = semantics if node.name == name else search(node.children, node.semantics or semantics)
            if found is not None:
                return found
        return None

    return search(machine.nodes, machine.semantics) or machine.semantics


def knob(machine: Machine, name: str) -> Knob:
    """Which number of that node can be turned."""
    if find(machine, name).reserved_cores is None:
        return "share"
    return "cap" if semantics_around(machine, name) == "cap" else "floor"


def turned(machine: Machine, name: str, value: float) -> Machine:
    """The machine with the share, floor or cap of that node at ``value``."""

    def turn(node: Node) -> Node:
        if node.name == name:
            return replace(node, share=value) if node.reserved_cores is None else replace(node, reserved_cores=value)
        if not node.children:
            return node
        return replace(node, children=tuple(turn(child) for child in node.children))

    return replace(machine, nodes=tuple(turn(node) for node in machine.nodes))


def cores_due(machine: Machine, name: str) -> float:
    """The cores that the node's share, floor or cap stands for, in the whole machine."""

    def search(nodes: Sequence[Node], cores: float) -> float | None:
        for node, part in zip(nodes, fractions(nodes, cores), strict=True):
            found = cores * part if node.name == name else search(node.children, cores * part)
            if found is not None:
                return found
        return None

    due = search(machine.nodes, machine.cores)
    if due is None:
        raise UsageError(f"{name} is not among the workloads")
    return due
