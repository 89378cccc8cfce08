"""Response times of batch work: one process a workload that always has something to do.

Then a share is a speed: a job of s seconds takes ``s / f`` where f is the workload's part of a core, and the tree's
shares multiply. One process uses one core at most; what it cannot use goes to the others by their shares.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from utilctl_common.responsetime.model import Batch, Node, Response, response
from utilctl_common.responsetime.processor import fractions

_ENOUGH: Final = 1e-12
"""A group this close to one core for each of its processes has all that it can use."""


def batch_responses(nodes: Sequence[Node], cores: float) -> list[Response]:
    """Response times of all leaves below ``nodes``, batches without exception, which share ``cores``."""
    found: list[Response] = []
    for node, granted in zip(nodes, _granted(nodes, cores), strict=True):
        if node.children:
            found += batch_responses(node.children, granted)
        else:
            found.append(batch_response(node, granted))
    return found


def batch_response(leaf: Node, cores: float) -> Response:
    """The response of one batch that may use ``cores``."""
    if not isinstance(leaf.load, Batch):
        raise TypeError(f"{leaf.name} is no batch")
    used = min(1.0, cores)
    return response(leaf, leaf.load.service_time_s / used, used)


def _granted(nodes: Sequence[Node], cores: float) -> list[float]:
    """Cores for each sibling: by its part, at most one for each of its processes, the rest to the others."""
    most = [float(sum(1 for _ in node.leaves())) for node in nodes]
    parts = fractions(nodes, cores)
    granted = [0.0] * len(nodes)
    open_ = set(range(len(nodes)))
    left = cores
    while open_:
        total = sum(parts[index] for index in open_)
        full = {index for index in open_ if left * parts[index] / total >= most[index] - _ENOUGH}
        for index in full or open_:
            granted[index] = most[index] if full else left * parts[index] / total
        left -= sum(most[index] for index in full)
        open_ = open_ - full if full else set()
    return granted
