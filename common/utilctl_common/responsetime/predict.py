"""The response times of a machine's workloads: which formula applies where, and what none applies to."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from utilctl_common.responsetime.batch import batch_response, batch_responses
from utilctl_common.responsetime.guarantees import guarantee_responses
from utilctl_common.responsetime.model import (
    MAX_CORES,
    SATURATION_MARGIN,
    Batch,
    BeyondModelError,
    Machine,
    Node,
    Prediction,
    Response,
    SaturatedError,
    Semantics,
    Transactions,
    mean_response_time_s,
    response,
)
from utilctl_common.responsetime.processor import fractions, processor
from utilctl_common.responsetime.waiting import waiting


def predict(machine: Machine) -> Prediction:
    """Mean response times in the long run.

    Workloads whose own cap is too small for their work have none; a note says so. Raises SaturatedError if all the
    work together is too much, BeyondModelError for what has no formula here (docs/response-times.md lists it).
    """
    if not 0 < machine.cores <= MAX_CORES:
        raise BeyondModelError(
            f"cores: {machine.cores:g} is out of range", hint=f"use more than 0, at most {MAX_CORES}"
        )
    _refuse_saturation(machine)
    responses = _responses(machine.nodes, machine.cores, machine.semantics)
    notes = [
        f"{one.name}: its cap is not above its utilization of {one.cpu_cores:g} cores: its queue grows without bound"
        for one in responses
        if one.response_time_s is None
    ]
    return Prediction(tuple(responses), mean_response_time_s(responses), tuple(notes))


def _responses(nodes: Sequence[Node], cores: float, semantics: Semantics) -> list[Response]:
    if semantics == "cap":
        return [
            one
            for node, part in zip(nodes, fractions(nodes, cores), strict=True)
            for one in _capped(node, cores * part)
        ]
    for node in nodes:
        _refuse_other_semantics(node, semantics)
    leaves = [leaf for node in nodes for leaf in node.leaves()]
    batches = sum(1 for leaf in leaves if isinstance(leaf.load, Batch))
    if semantics == "none":
        # Whoever wants CPU gets the same, wherever in the tree it stands.
        nodes = [Node(leaf.name, 1.0, load=leaf.load) for leaf in leaves]
    if batches == len(leaves):
        return batch_responses(nodes, cores)
    return (
        _shared_evenly(leaves, cores)
        if semantics == "none" and not batches
        else guarantee_responses(nodes, processor(cores))
    )


def _capped(node: Node, cores: float) -> list[Response]:
    """A node that has ``cores`` to itself and never more."""
    if node.children:
        if node.utilization_cores >= cores * (1 - SATURATION_MARGIN):
            return [_unbounded(leaf, cores) for leaf in node.leaves()]
        return _responses(node.children, cores, node.semantics or "cap")
    if isinstance(node.load, Transactions):
        if node.load.utilization_cores >= cores * (1 - SATURATION_MARGIN):
            return [_unbounded(node, cores)]
        return _shared_evenly([node], cores)
    return [batch_response(node, cores)]


def _unbounded(leaf: Node, cores: float) -> Response:
    used = leaf.load.utilization_cores if isinstance(leaf.load, Transactions) else cores
    return response(leaf, None, used)


def _shared_evenly(leaves: Sequence[Node], cores: float) -> list[Response]:
    """Everybody who wants CPU gets the same: s (1 + V(U)), whatever the mix (processor sharing)."""
    own = processor(cores)
    loads = [leaf.load for leaf in leaves if isinstance(leaf.load, Transactions)]
    total = np.array([sum(load.utilization_cores for load in loads) / own.speed])
    slowdown = (1.0 + float(waiting(own.cores, total)[0])) / own.speed
    return [
        response(leaf, load.service_time_s * slowdown, load.utilization_cores)
        for leaf, load in zip(leaves, loads, strict=True)
    ]


def _refuse_saturation(machine: Machine) -> None:
    loads = {leaf.name: leaf.utilization_cores for leaf in machine.leaves()}
    used = sum(loads.values())
    if used >= machine.cores * (1 - SATURATION_MARGIN):
        largest = sorted(loads, key=lambda name: -loads[name])[:3]
        raise SaturatedError(
            f"utilization: the workloads need {used:.6g} cores and the machine has {machine.cores:g}"
            f" ({', '.join(f'{name} {loads[name]:g}' for name in largest)}{', ...' if len(loads) > 3 else ''}):"
            " queues would grow without bound, whatever the shares",
            hint="take work away or add cores",
        )


def _refuse_other_semantics(node: Node, around: Semantics) -> None:
    if node.semantics is not None and node.semantics != around:
        raise BeyondModelError(
            f"{node.name}: semantics: {node.semantics} inside {around} has no formula: what the group gets changes"
            " with what the others do",
            hint="put what is capped at the top and guarantees inside",
        )
    for child in node.children:
        _refuse_other_semantics(child, around)
