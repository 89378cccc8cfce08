"""How often processes are looked at: soon where it is cheap, bounded where it is not."""

from __future__ import annotations

import pytest

from utilctl_agent.discovery.cadence import (
    GATHER_NS,
    GLANCE_FIRST_NS,
    GLANCE_LAST_NS,
    LOOK_PART,
    REVISIT_NS,
    SCAN_LAST_NS,
    SCAN_PART,
    Cadence,
)
from utilctl_common.quantities import NS_PER_MS, NS_PER_S


def test_looks_after_events_follow_each_other_closely_while_they_are_cheap() -> None:
    cadence = Cadence(NS_PER_S, events=True)
    cadence.looked(NS_PER_S, NS_PER_MS // 10, changed=True)
    assert cadence.next_look_ns == NS_PER_S + GATHER_NS


def test_looks_never_take_more_than_their_part_of_a_cpu() -> None:
    for events in (True, False):
        cadence, now_ns, spent_ns = Cadence(NS_PER_S, events=events), 0, 0
        for _ in range(100):
            cost_ns = 40 * NS_PER_MS
            spent_ns += cost_ns
            cadence.looked(now_ns + cost_ns, cost_ns, changed=True)
            now_ns = cadence.next_look_ns
        assert spent_ns / now_ns <= LOOK_PART


def test_scans_stay_in_their_part_too_but_come_at_last_however_much_they_cost() -> None:
    cadence = Cadence(NS_PER_S, events=True)
    cadence.scanned(0, NS_PER_MS)
    assert cadence.next_scan_ns == NS_PER_S
    for cost_ns, wait_ns in ((50 * NS_PER_MS, 50 * NS_PER_MS / SCAN_PART), (900 * NS_PER_MS, SCAN_LAST_NS)):
        for _ in range(2):
            cadence.scanned(0, cost_ns)
        assert cadence.next_scan_ns == wait_ns


def test_with_events_scans_that_find_nothing_become_rarer_until_one_finds_something() -> None:
    cadence, waits = Cadence(NS_PER_S, events=True), []
    for changed in (True, False, False, False, False, False, True):
        cadence.scanned(0, NS_PER_MS, changed=changed)
        waits.append(cadence.next_scan_ns // NS_PER_S)
    assert waits == [1, 2, 4, 8, 10, 10, 1]


def test_without_events_scans_keep_their_pace_whatever_they_find() -> None:
    cadence = Cadence(NS_PER_S, events=False)
    for _ in range(5):
        cadence.scanned(0, NS_PER_MS, changed=False)
        assert cadence.next_scan_ns == NS_PER_S


def test_a_single_costly_scan_such_as_the_first_does_not_put_off_the_next() -> None:
    cadence = Cadence(NS_PER_S, events=True)
    cadence.scanned(0, 200 * NS_PER_MS)
    assert cadence.next_scan_ns == NS_PER_S


def test_after_lost_events_the_next_scan_does_not_wait_for_its_time() -> None:
    cadence = Cadence(NS_PER_S, events=True)
    for _ in range(2):
        cadence.scanned(0, NS_PER_MS, behind=True)
    assert cadence.next_scan_ns == NS_PER_MS / SCAN_PART


def test_glances_slow_down_on_a_quiet_host_and_speed_up_with_the_first_newcomer() -> None:
    cadence, waits, now_ns = Cadence(NS_PER_S, events=False), [], 0
    for changed in (True, False, False, False, False, False, True):
        cadence.looked(now_ns, 0, changed=changed)
        waits.append(cadence.next_look_ns - now_ns)
        now_ns = cadence.next_look_ns
    assert waits[0] == waits[-1] == GLANCE_FIRST_NS
    assert waits[:-1] == sorted(waits[:-1])
    assert waits[-2] == GLANCE_LAST_NS


@pytest.mark.parametrize("found_by", ["look", "scan"])
def test_new_programs_are_visited_again_soon_even_if_no_event_comes(found_by: str) -> None:
    cadence = Cadence(NS_PER_S, events=True)
    if found_by == "look":
        cadence.looked(0, 0, changed=False, young=True)
    else:
        cadence.scanned(0, 0, young=True)
    cadence.next_scan_ns = NS_PER_S
    assert cadence.next_ns == REVISIT_NS
    cadence.looked(REVISIT_NS, 0, changed=False, young=True)
    assert cadence.next_ns == 2 * REVISIT_NS
    cadence.looked(2 * REVISIT_NS, 0, changed=False)
    assert cadence.next_ns == NS_PER_S


def test_more_new_programs_do_not_put_off_the_visit_to_those_before() -> None:
    cadence = Cadence(NS_PER_S, events=True, next_scan_ns=NS_PER_S)
    for now_ns in range(0, REVISIT_NS, GATHER_NS):
        cadence.looked(now_ns, 0, changed=True, young=True)
    assert cadence.revisit_ns == REVISIT_NS


def test_glances_visit_new_processes_again_by_themselves() -> None:
    cadence = Cadence(NS_PER_S, events=False)
    cadence.looked(0, 0, changed=True, young=True)
    assert cadence.revisit_ns is None
