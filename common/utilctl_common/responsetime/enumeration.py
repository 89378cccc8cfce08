"""Response times under guarantees by going through every priority order: slow, and plain enough to be believed.

The oracle of tests and benchmarks; nothing else uses it. Eight workloads side by side have 40,320 orders.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

from utilctl_common.responsetime.model import Machine, Node, Transactions


def orders(nodes: Sequence[Node]) -> Iterator[tuple[float, list[Node]]]:
    """Every order of the leaves of these trees that the model knows, with its probability."""
    for permutation in itertools.permutations(nodes):
        probability = 1.0
        for place, node in enumerate(permutation):
            probability *= node.share / math.fsum(other.share for other in permutation[place:])
        inside = [list(orders(node.children)) if node.children else [(1.0, [node])] for node in permutation]
        for choice in itertools.product(*inside):
            weight = probability
            order: list[Node] = []
            for inner, leaves in choice:
                weight *= inner
                order += leaves
            yield weight, order


def wait(cores: int, load: float) -> float:
    """Erlang's C over the free capacity, summed as it stands in textbooks."""
    term, total = 1.0, 0.0
    for count in range(cores):
        total += term
        term *= load / (count + 1)
    all_busy = term / (1 - load / cores)
    return all_busy / (total + all_busy) / (cores - load)


def enumerated(machine: Machine) -> dict[str, float]:
    """Response times in seconds by name. ``cores`` must be whole, all loads transactions that use something."""
    cores = int(machine.cores)
    times = dict.fromkeys((leaf.name for leaf in machine.leaves()), 0.0)
    for probability, order in orders(machine.nodes):
        ahead, work = 0.0, 0.0
        for leaf in order:
            assert isinstance(leaf.load, Transactions)
            used, service_s = leaf.load.utilization_cores, leaf.load.service_time_s
            before, after = wait(cores, ahead), wait(cores, ahead + used)
            time_s = service_s * (1 + before) + (work + used * service_s) * (after - before) / used
            times[leaf.name] += probability * time_s
            ahead += used
            work += used * service_s
    return times
