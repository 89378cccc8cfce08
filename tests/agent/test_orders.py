"""Orders and reports survive their trip as JSON lines unchanged."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from utilctl_agent.orders import (
    ALGORITHMS,
    LoopReport,
    LoopSettings,
    MembersDelta,
    PrincipalDelta,
    PrincipalOrder,
    PrincipalReport,
    Roster,
)

NS = st.integers(0, 2**63 - 1)
COUNTS = st.integers(0, 2**40)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
NAMES = st.text(max_size=30)
PIDS = st.tuples(st.integers(1, 2**22), st.integers(0, 2**60))

SETTINGS = st.builds(
    LoopSettings,
    algorithm=st.sampled_from(ALGORITHMS),
    quantum_ns=NS,
    cycle_ns=st.none() | NS,
    cpus=st.lists(st.integers(0, 9999), max_size=5).map(tuple),
    max_pause_ns=NS,
    cycle_log=st.booleans(),
    announce_first_cycle=st.booleans(),
    stop_after_cycles=st.none() | COUNTS,
)
ORDERS = st.builds(
    PrincipalOrder,
    name=NAMES,
    share=FINITE,
    parallelism=COUNTS,
    cap_cores=st.none() | FINITE,
    cgroups=st.lists(st.text(max_size=20), max_size=3).map(tuple),
    processes=st.lists(PIDS, max_size=4).map(tuple),
    observe=st.booleans(),
)
ROSTERS = st.builds(Roster, COUNTS, COUNTS, st.lists(ORDERS, max_size=4).map(tuple), COUNTS)
LISTED = st.lists(PIDS, max_size=4).map(tuple)
DELTAS = st.builds(
    MembersDelta, COUNTS, st.lists(st.builds(PrincipalDelta, NAMES, COUNTS, LISTED, LISTED), max_size=3).map(tuple)
)
REPORTS = st.builds(
    LoopReport,
    now_ns=NS,
    epoch=COUNTS,
    generation=COUNTS,
    cycles_since_roster=COUNTS,
    loop_class=NAMES,
    algorithm=NAMES,
    wakeups=COUNTS,
    overhead_ns=NS,
    cycles=COUNTS,
    rms_error_sum=FINITE,
    late_sum_ns=NS,
    late_max_ns=NS,
    principals=st.dictionaries(
        NAMES,
        st.builds(
            PrincipalReport, cpu_ns=NS, wait_ns=st.none() | NS, paused_ns=NS, mechanism=NAMES, problem=NAMES
        ),
        max_size=3,
    ),
)  # fmt: skip


def carried(value: Any) -> Any:
    """``value`` after the trip; a second trip changes nothing more."""
    text = json.dumps(value.to_json())
    assert "\n" not in text, "a message is one line"
    arrived = type(value).from_json(json.loads(text))
    assert json.dumps(arrived.to_json()) == text
    return arrived


@given(value=st.one_of(SETTINGS, ORDERS, ROSTERS, DELTAS, REPORTS))
@settings(max_examples=150, deadline=None)
def test_what_is_sent_is_what_arrives(value: Any) -> None:
    arrived = carried(value)
    assert arrived == value
    assert type(arrived) is type(value)


@given(value=ROSTERS)
@settings(max_examples=30, deadline=None)
def test_an_arrived_roster_can_be_compared_and_hashed_like_the_one_sent(value: Roster) -> None:
    assert hash(carried(value)) == hash(value)
