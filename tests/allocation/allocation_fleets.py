"""Fleets for the allocation tests: written by hand, or random from hypothesis or a seed."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from hypothesis import strategies as st

from utilctl_controller.allocation import AllocationMode, AllocationProblem, HostCapacity, SeeClaim


def fleet(
    hosts: Mapping[str, float], sees: Mapping[str, tuple[Any, ...]], mode: AllocationMode = "fleet"
) -> AllocationProblem:
    """``sees``: name to (share, demand[, floor[, cap]])."""
    claims = []
    for name, (share, demand, *limits) in sees.items():
        floor = limits[0] if limits else 0.0
        cap = limits[1] if len(limits) > 1 else None
        claims.append(SeeClaim(name, share, floor, cap, demand))
    return AllocationProblem(mode, tuple(HostCapacity(h, c) for h, c in hosts.items()), tuple(claims))


def random_fleet(seed: int, *, tree: bool, floors: bool, caps: bool) -> AllocationProblem:
    """A small fleet: up to 5 hosts, 5 top-level SEEs, three levels; amounts often equal, so that ties occur."""
    rng = random.Random(seed)
    hosts = [f"h{index}" for index in range(rng.randint(1, 5))]
    names: list[str] = []
    for top in range(rng.randint(1, 5)):
        names.append(f"s{top}")
        for child in range(rng.choice([0, 0, 1, 2, 3]) if tree else 0):
            names.append(f"s{top}/c{child}")
            names += [f"s{top}/c{child}/g{leaf}" for leaf in range(rng.choice([0, 0, 0, 1, 2, 3]))]
    if tree:
        names = [name for name in names if rng.random() < 0.85] or ["s0"]
    coarse = rng.random() < 0.5

    def amount() -> float:
        return rng.choice([0.25, 0.5, 1.0, 1.0, 2.0]) if coarse else round(rng.uniform(0.01, 2.0), 3)

    claims = []
    for name in names:
        cap = amount() if caps and rng.random() < 0.3 else None
        floor = amount() / 2 if floors and rng.random() < 0.3 else 0.0
        inner = any(other.startswith(name + "/") for other in names)
        wants = not inner or rng.random() < 0.3
        demand = {host: amount() for host in hosts if rng.random() < 0.6} if wants else {}
        share = rng.choice([0.5, 1.0, 1.0, 2.0, 3.0])
        claims.append(SeeClaim(name, share, floor if cap is None else min(floor, cap), cap, demand))
    mode: AllocationMode = rng.choice(["fleet", "fleet", "fleet-with-floor"])
    return AllocationProblem(
        mode, tuple(HostCapacity(h, rng.choice([0.7, 1.0, 1.0, 2.0])) for h in hosts), tuple(claims)
    )


def large_fleet(hosts: int, sees: int, *, seed: int = 1, parents: int = 0, caps: bool = False) -> AllocationProblem:
    """A contended fleet with 20 SEEs on every host; with ``parents``, the SEEs are children of that many."""
    rng = random.Random(seed)
    demand: list[dict[str, float]] = [{} for _ in range(sees)]
    for host in range(hosts):
        for see in rng.sample(range(sees), 20):
            demand[see][f"host-{host:05d}"] = round(rng.uniform(0.05, 2.0), 3)
    names = [f"svc=p{see % parents}/class=c{see}" if parents else f"svc=s{see:04d}" for see in range(sees)]
    claims = tuple(
        SeeClaim(name, rng.choice([1, 2, 3, 5, 10]), 0.0, rng.choice([None, None, 40.0]) if caps else None, wants)
        for name, wants in zip(names, demand, strict=True)
    )
    capacities = tuple(HostCapacity(f"host-{host:05d}", rng.choice([4, 8, 16])) for host in range(hosts))
    return AllocationProblem("fleet", capacities, claims)


_AMOUNTS = st.one_of(st.sampled_from([0.0, 0.25, 0.5, 1.0, 2.0]), st.floats(0.001, 4.0, allow_nan=False))
_NAMES = ("a", "b", "c", "a/x", "a/y", "b/x", "b/x/1", "b/x/2", "c/z")


@st.composite
def fleets(draw: st.DrawFn, *, limits: bool = True) -> AllocationProblem:
    """Small fleets of every mode, with trees; with floors and caps if ``limits``."""
    hosts = draw(st.lists(st.sampled_from(["h1", "h2", "h3", "h4"]), min_size=1, unique=True))
    names = draw(st.lists(st.sampled_from(_NAMES), min_size=1, max_size=6, unique=True))
    claims = []
    for name in names:
        cap = draw(st.none() | _AMOUNTS) if limits else None
        floor = draw(_AMOUNTS) if limits else 0.0
        demand = draw(st.dictionaries(st.sampled_from(hosts), _AMOUNTS))
        share = draw(st.sampled_from([1.0, 2.0, 3.0, 0.1]))
        claims.append(SeeClaim(name, share, floor if cap is None else min(floor, cap), cap, demand))
    capacities = tuple(HostCapacity(host, draw(_AMOUNTS)) for host in hosts)
    return AllocationProblem(draw(st.sampled_from(["fleet", "fleet-with-floor", "host"])), capacities, tuple(claims))
