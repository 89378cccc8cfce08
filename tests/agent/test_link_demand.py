"""What an SEE could use if nothing held it back, from what it did while it could."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from utilctl_agent.link.demand import Usage, demand_cores

S = 1_000_000_000


def usage(
    cpu_s: float,
    *,
    paused_s: float = 0.0,
    wait_s: float = 0.0,
    parallelism: int = 1,
    cores: int = 4,
    wall_s: float = 1.0,
) -> Usage:
    return Usage(round(wall_s * S), round(cpu_s * S), round(paused_s * S), round(wait_s * S), parallelism, cores)


@pytest.mark.parametrize(
    ("what", "seen", "full", "cores"),
    [
        ("idle", usage(0.0), False, 0.0),
        ("a steady fifth of a core", usage(0.2), False, 0.2),
        ("a steady fifth, also on a full host", usage(0.2), True, 0.2),
        ("a spinner", usage(1.0), False, 1.0),
        ("a spinner on a full host", usage(1.0), True, 1.0),
        ("a spinner paused for half of the time", usage(0.5, paused_s=0.5), True, 1.0),
        ("a spinner paused nine times in ten", usage(0.1, paused_s=0.9), True, 1.0),
        ("a spinner that waited half of the time for foreign load", usage(0.5, wait_s=0.5), True, 1.0),
        ("a fifth of a core, delayed by foreign load", usage(0.2, wait_s=0.2), True, 0.25),
        ("a fifth of a core while it ran, paused for half", usage(0.1, paused_s=0.5), True, 0.2),
        ("three threads that spin beside an idle core", usage(3.0, parallelism=3), False, 3.0),
        ("eight threads on four full cores", usage(2.0, parallelism=8), True, 4.0),
        ("eight threads, one of which spins beside idle cores", usage(1.0, parallelism=8), False, 1.0),
        ("two threads held back to one core by pauses", usage(1.0, paused_s=0.5, parallelism=2), True, 2.0),
        ("waiting times longer than the interval", usage(0.5, wait_s=7.0, parallelism=2), True, 2.0),
        ("always waiting, never running", usage(0.0, wait_s=1.0), True, 1.0),
    ],
)
def test_demand(what: str, seen: Usage, full: bool, cores: float) -> None:
    assert demand_cores(seen, 0.0, host_is_full=full) == pytest.approx(cores, abs=1e-6), what


@pytest.mark.parametrize("seen", [usage(0.0, paused_s=0.995), usage(0.0, wall_s=0.0)])
def test_without_sight_the_last_estimate_stands(seen: Usage) -> None:
    assert demand_cores(seen, 0.7, host_is_full=True) == 0.7


def test_the_last_estimate_never_exceeds_what_the_threads_can_use() -> None:
    assert demand_cores(usage(0.0, paused_s=1.0, parallelism=2), 3.5, host_is_full=True) == 2.0


@given(
    wall_ns=st.integers(0, 10 * S),
    cpu_ns=st.integers(0, 40 * S),
    paused_ns=st.integers(0, 10 * S),
    wait_ns=st.integers(-S, 40 * S),
    parallelism=st.integers(1, 64),
    cores=st.integers(1, 32),
    last_cores=st.floats(0, 64),
    full=st.booleans(),
)
def test_demand_is_never_negative_nor_beyond_the_threads_and_the_host(
    wall_ns: int,
    cpu_ns: int,
    paused_ns: int,
    wait_ns: int,
    parallelism: int,
    cores: int,
    last_cores: float,
    full: bool,
) -> None:
    seen = Usage(wall_ns, cpu_ns, paused_ns, wait_ns, parallelism, cores)
    assert 0 <= demand_cores(seen, last_cores, host_is_full=full) <= min(parallelism, cores)
