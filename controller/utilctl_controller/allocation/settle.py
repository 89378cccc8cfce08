"""The fair totals: raise the level of all SEEs together, freeze those that a tight cut holds, go on with the rest.

An SEE's *level* is its total divided by its weight. At level L everyone in question is to get
``max(lower, min(upper, L * weight))``; the largest L at which all of that can flow at once is where a cut becomes
tight, and the SEEs that feed that cut can never get more without a worse-off one getting less: they are final.

Top-level SEEs are sources of the flow network, so what they can get together is a polymatroid, and there a violated cut
at *any* trial level separates those whose final level is below it from the others (the decomposition algorithm of
Fujishige and Groenevelt): `settle_top` divides and conquers with one flow a division. Below the top the parents' totals
are fixed, siblings and cousins meet on hosts, and only the first tight cut is certain: `settle_below` finds it by
Newton's method on cuts (each violated cut gives the level at which it would be tight; levels fall until no cut is
violated), freezes, splits, repeats.

That is a few flows for every cut on nearly the whole network, too slow for large fleets with many parents. So there is
a short cut, `band`: cuts that become tight within that ratio above the lowest one are taken together, as one cut that
is divided as at the top level. That is right unless limits of different parents interlock within the band (what one
parent's children leave lets another parent's go higher than the cut gave them); whoever uses it has to verify the
result and to fall back to a narrower band, and at last to none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from utilctl_controller.allocation.flow import Cut
from utilctl_controller.allocation.levels import Riser, fill
from utilctl_controller.allocation.model import AllocationError
from utilctl_controller.allocation.network import FixArc, Network


def settle_top(network: Network, weight: Sequence[float], fix_arc: FixArc) -> list[Network]:
    """Final totals for the roots of ``network``: their lower and upper bounds are made equal to it.

    ``weight`` is by instance node. Returns the networks that tight cuts leave.
    """
    pending, done = [network], list[Network]()
    while pending:
        part = pending.pop()
        part.upper = part.bounds(part.lower)[1]
        risers = [
            Riser(node, weight[part.node[node]], part.granted[node], part.lower[node], part.upper[node])
            for node, above in enumerate(part.parent)
            if above < 0 and part.lower[node] < part.upper[node]
        ]
        if not risers:
            done.append(part)
            continue
        fixed = sum(
            low
            for low, high, above in zip(part.lower, part.upper, part.parent, strict=True)
            if above < 0 and low >= high
        )
        amounts = list(part.lower)
        for node, amount in fill(risers, part.reach() - fixed)[1].items():
            amounts[node] = amount
        low, high = part.bounds(amounts)
        cut = part.min_cut(low, high)
        if cut is None or not any(cut.nodes[riser.node] and amounts[riser.node] > riser.low for riser in risers):
            _tolerate(cut, part)
            for riser in risers:
                part.lower[riser.node] = part.upper[riser.node] = amounts[riser.node]
            done.append(part)
            continue
        pending += part.split(cut, (low, high), fix_arc, fix_roots=False)
    return done


def settle_below(
    network: Network,
    weight: Sequence[float],
    members: Sequence[bool],
    fix_arc: FixArc,
    *,
    top_level: float = math.inf,
    shared_totals: bool = True,
    band: float = 0.0,
) -> list[Network]:
    """Final totals for the nodes in ``members`` (by instance node), up to ``top_level``, raising their lower bounds.

    With ``shared_totals`` their parents' totals are fixed (lower bound equals upper bound) and are used up, and the
    members' upper bounds end up equal to their lower bounds. Without, only lower bounds are settled: that is how
    floors that cannot all be met are scaled down. A ``band`` above 0 needs ``shared_totals``; see the module's text.
    """
    pending, done = [network], list[Network]()
    frozen: set[int] = set()
    while pending:
        part = pending.pop()
        part.upper = part.bounds(part.lower)[1]
        risers = _risers(part, weight, members, frozen, shared_totals=shared_totals)
        if not risers:
            done.append(part)
            continue
        held, cut, amounts, level = _tightest(part, risers, top_level, stop_at_first=band == math.inf)
        if band > 0.0 and cut is not None:
            if band < math.inf:
                wide = _tightest(part, risers, level * (1.0 + band), stop_at_first=True)
                held, cut = (wide[0], wide[1]) if wide[1] is not None else (held, cut)
            pending += _divide_cut(part, cut, held, weight, fix_arc)
            frozen.update(part.node[riser.node] for riser in held)
            continue
        for riser in held:
            part.lower[riser.node] = amounts[riser.node]
            if shared_totals:
                part.upper[riser.node] = amounts[riser.node]
            frozen.add(part.node[riser.node])
        if cut is None:
            pending.append(part)
        else:
            pending += part.split(cut, part.bounds(part.lower), fix_arc, fix_roots=True)
    return done


def _tightest(
    part: Network, risers: list[Riser], top_level: float, *, stop_at_first: bool
) -> tuple[list[Riser], Cut | None, list[int], float]:
    """The risers that the first tight cut holds, that cut, all amounts at its level, and that level.

    All risers and no cut where everybody can reach ``top_level``; no cut either where a cap holds them. With
    ``stop_at_first`` the cut is the first one found at ``top_level``, violated rather than tight.
    """
    level = top_level
    divided: dict[int, int] = {}
    holding: list[Riser] = risers
    holding_cut: Cut | None = None
    while True:
        amounts = list(part.lower)
        for riser in risers:
            amounts[riser.node] = divided.get(riser.node, riser.amount_at(level))
        found = _violation(part, amounts, *part.bounds(amounts))
        if found is None:
            return holding, holding_cut, amounts, level
        holders, shortfall, cut = found
        held = [riser for riser in risers if riser.node in holders]
        if not held or shortfall <= _slack(part):
            if cut is not None:
                _tolerate(cut, part)
            return holding, holding_cut, amounts, level
        if stop_at_first and cut is not None:
            return held, cut, amounts, level
        level, divided = fill(held, sum(amounts[riser.node] for riser in held) - shortfall)
        holding, holding_cut = held, cut


def _divide_cut(part: Network, cut: Cut, held: list[Riser], weight: Sequence[float], fix_arc: FixArc) -> list[Network]:
    """Divide what flows through ``cut`` among ``held``, as roots of the network inside it; returns what is left."""
    bounds = part.bounds(part.lower)
    inside, _ = part.split(cut, bounds, fix_arc, fix_roots=True)
    local = {origin: node for node, origin in enumerate(inside.node)}
    for riser in held:
        node = local[part.node[riser.node]]
        constant = inside.granted[node] - part.granted[riser.node]
        inside.lower[node] = max(0, riser.low - constant)
        inside.upper[node] = max(inside.lower[node], riser.high - constant)
    settled = settle_top(inside, weight, fix_arc)
    totals = {
        origin: piece.granted[node] + piece.lower[node] for piece in settled for node, origin in enumerate(piece.node)
    }
    for riser in held:
        amount = totals[part.node[riser.node]] - part.granted[riser.node]
        part.lower[riser.node] = part.upper[riser.node] = amount
    _, outside = part.split(cut, part.bounds(part.lower), fix_arc, fix_roots=True)
    return [*settled, outside]


def _risers(
    part: Network, weight: Sequence[float], members: Sequence[bool], frozen: set[int], *, shared_totals: bool
) -> list[Riser]:
    risers = [
        Riser(node, weight[origin], part.granted[node], part.lower[node], part.upper[node])
        for node, origin in enumerate(part.node)
        if members[origin] and origin not in frozen and part.lower[node] < part.upper[node] and weight[origin] > 0
    ]
    if not shared_totals:
        return risers
    groups: dict[int, list[Riser]] = {}
    left = dict(enumerate(part.upper))
    active = {riser.node for riser in risers}
    for node, above in enumerate(part.parent):
        if above >= 0 and node not in active:
            left[above] -= part.lower[node]
    for riser in risers:
        groups.setdefault(part.parent[riser.node], []).append(riser)
    limited: list[Riser] = []
    for above, group in groups.items():
        most = fill(group, left[above])[1]
        limited += [Riser(riser.node, riser.weight, riser.granted, riser.low, most[riser.node]) for riser in group]
    return limited


def _violation(
    part: Network, amounts: list[int], low: list[int], high: list[int]
) -> tuple[set[int], int, Cut | None] | None:
    """What forbids granting ``amounts``: the nodes whose requirements add up to too much, by how much, and the cut.

    The cut is None where a cap, not capacity, is exceeded.
    """
    children = part.children()
    for node, (need, most) in enumerate(zip(low, high, strict=True)):
        if need - most > _slack(part):
            return _required(node, amounts, low, children, below=True), need - most, None
    cut = part.min_cut(low, high)
    if cut is None:
        return None
    holders: set[int] = set()
    for node, above in enumerate(part.parent):
        if cut.nodes[node] and (above < 0 or not cut.nodes[above]):
            holders |= _required(node, amounts, low, children, below=False)
    return holders, cut.shortfall, cut


def _required(node: int, amounts: list[int], low: list[int], children: list[list[int]], *, below: bool) -> set[int]:
    """The nodes at or under ``node`` whose own amounts make up its lower bound."""
    if not below and (not children[node] or amounts[node] >= low[node]):
        return {node}
    result: set[int] = set()
    for child in children[node]:
        result |= _required(child, amounts, low, children, below=False)
    return result


def _slack(part: Network) -> int:
    """Ticks that rounding down may have lost: one for every node and host."""
    return len(part.node) + len(part.host)


def _tolerate(cut: Cut | None, part: Network) -> None:
    """Amounts already final are infeasible by rounding only; anything more is a mistake that must not pass."""
    if cut is not None and cut.shortfall > _slack(part):
        raise AllocationError(
            f"the fair levels contradict each other by {cut.shortfall} ticks", hint="report this problem's input"
        )
