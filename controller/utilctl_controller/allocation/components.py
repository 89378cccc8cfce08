"""Who reaches whom in a directed graph: strongly connected components, and the best vertex in reach."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

_LARGE_EDGES: Final = 4_000
"""From this many edges on, scipy's compiled search is faster than plain Python."""


def components(size: int, tail: Sequence[int], head: Sequence[int]) -> Sequence[int]:
    """A component number for every vertex below ``size``; equal numbers mean that each reaches the other."""
    if len(tail) < _LARGE_EDGES:
        return _small(size, tail, head)
    # Imported here: it takes 0.2 s, and small fleets never need it.
    from scipy.sparse import csr_array  # type: ignore[import-untyped]  # publishes no types
    from scipy.sparse.csgraph import connected_components  # type: ignore[import-untyped]  # publishes no types

    weights = np.ones(len(tail), dtype=np.int8)
    graph = csr_array((weights, (np.asarray(tail), np.asarray(head))), shape=(size, size))
    labels: list[int] = connected_components(graph, directed=True, connection="strong")[1].tolist()
    return labels


def contracted(size: int, tail: Sequence[int], head: Sequence[int]) -> tuple[Sequence[int], int, list[int], list[int]]:
    """The graph with every component made one vertex: each vertex's new number, how many there are, and the edges."""
    label = components(size, tail, head)
    count = max(label, default=-1) + 1
    if len(tail) < _LARGE_EDGES:
        edges = {(label[start], label[end]) for start, end in zip(tail, head, strict=True)}
        pairs = sorted(start * count + end for start, end in edges if start != end)
    else:
        labels = np.asarray(label, dtype=np.int64)
        starts, ends = labels[np.asarray(tail)], labels[np.asarray(head)]
        pairs = np.unique((starts * count + ends)[starts != ends]).tolist()
    return label, count, [pair // count for pair in pairs], [pair % count for pair in pairs]


def _small(size: int, tail: Sequence[int], head: Sequence[int]) -> list[int]:
    """Tarjan's algorithm without recursion."""
    successors: list[list[int]] = [[] for _ in range(size)]
    for start, end in zip(tail, head, strict=True):
        successors[start].append(end)
    order, lowest, label = [0] * size, [0] * size, [-1] * size
    counter, labels = 0, 0
    open_vertices: list[int] = []
    for root in range(size):
        if order[root]:
            continue
        counter += 1
        order[root] = lowest[root] = counter
        open_vertices.append(root)
        work = [(root, iter(successors[root]))]
        while work:
            vertex, rest = work[-1]
            for following in rest:
                if not order[following]:
                    counter += 1
                    order[following] = lowest[following] = counter
                    open_vertices.append(following)
                    work.append((following, iter(successors[following])))
                    break
                if label[following] < 0:
                    lowest[vertex] = min(lowest[vertex], order[following])
            else:
                work.pop()
                if work:
                    below = work[-1][0]
                    lowest[below] = min(lowest[below], lowest[vertex])
                if lowest[vertex] == order[vertex]:
                    while True:
                        member = open_vertices.pop()
                        label[member] = labels
                        if member == vertex:
                            break
                    labels += 1
    return label


def best_in_reach(value: Sequence[float], tail: Sequence[int], head: Sequence[int]) -> Sequence[float]:
    """For every vertex the largest ``value`` among the vertices that it reaches, itself included."""
    if len(tail) < _LARGE_EDGES:
        return _best_small(value, tail, head)
    best, tails, heads = np.array(value), np.asarray(tail), np.asarray(head)
    order = np.argsort(tails, kind="stable")
    tails, heads = tails[order], heads[order]
    first = np.flatnonzero(np.diff(tails, prepend=-1))
    owners = tails[first]
    while True:
        improved = np.maximum(best[owners], np.maximum.reduceat(best[heads], first))
        if (improved == best[owners]).all():
            result: list[float] = best.tolist()
            return result
        best[owners] = improved


def _best_small(value: Sequence[float], tail: Sequence[int], head: Sequence[int]) -> list[float]:
    predecessors: list[list[int]] = [[] for _ in value]
    for start, end in zip(tail, head, strict=True):
        predecessors[end].append(start)
    best = list(value)
    done = [False] * len(best)
    for vertex in sorted(range(len(best)), key=lambda vertex: -value[vertex]):
        pending = [] if done[vertex] else [vertex]
        while pending:
            reached = pending.pop()
            if not done[reached]:
                done[reached] = True
                best[reached] = value[vertex]
                pending += predecessors[reached]
    return best
