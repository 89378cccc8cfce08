"""The guard's alarm: silent as long as the loop puts it off, and only then."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from utilctl_agent.host.alarm import Alarm
from utilctl_agent.safety.journal import HANG_NS, RENEW_NS, Journal
from utilctl_common.quantities import NS_PER_MS, NS_PER_S

SOON_NS = 20 * NS_PER_MS
WAIT_S = 5.0


@pytest.fixture
def alarm() -> Iterator[Alarm]:
    made = Alarm()
    yield made
    made.close()


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    made = Journal.create(str(tmp_path / "a.journal"), slots=2)
    yield made
    made.close()


def has_rung(alarm: Alarm) -> bool:
    try:
        os.read(alarm.fileno(), 8)
    except BlockingIOError:
        return False
    return True


def rings_within(alarm: Alarm, seconds: float) -> bool:
    return bool(select.select([alarm.fileno()], [], [], seconds)[0])


def test_an_alarm_that_was_never_put_off_does_not_ring(alarm: Alarm) -> None:
    assert not rings_within(alarm, 0.05)
    assert not has_rung(alarm)


def test_an_alarm_rings_once_when_its_time_has_come(alarm: Alarm) -> None:
    alarm.put_off(SOON_NS)
    assert not has_rung(alarm)
    assert rings_within(alarm, WAIT_S)
    assert has_rung(alarm)
    assert not has_rung(alarm)


def test_putting_it_off_again_replaces_the_first_instant(alarm: Alarm) -> None:
    alarm.put_off(SOON_NS)
    alarm.put_off(3600 * NS_PER_S)
    assert not rings_within(alarm, 3 * SOON_NS / NS_PER_S)


def test_another_holder_of_the_descriptor_puts_off_the_same_alarm(alarm: Alarm) -> None:
    alarm.put_off(3600 * NS_PER_S)
    Alarm(alarm.fileno()).put_off(SOON_NS)
    assert rings_within(alarm, WAIT_S)


def test_a_journal_leaves_the_alarm_alone_until_something_is_paused(alarm: Alarm, journal: Journal) -> None:
    journal.keep_silent(alarm.put_off)
    alarm.put_off(SOON_NS)
    journal.beat(time.monotonic_ns())
    assert rings_within(alarm, WAIT_S)


def test_noting_a_pause_sets_the_alarm_before_the_pause_is_in_force(alarm: Alarm, journal: Journal) -> None:
    journal.keep_silent(alarm.put_off)
    slot = journal.enter_process(1, 2)
    begin_ns = time.monotonic_ns()
    journal.begin(slot, begin_ns)
    assert rings_within(alarm, WAIT_S)
    assert time.monotonic_ns() - begin_ns >= HANG_NS - RENEW_NS


def test_heartbeats_keep_the_alarm_silent_while_something_is_paused(alarm: Alarm, journal: Journal) -> None:
    journal.keep_silent(alarm.put_off)
    slot = journal.enter_process(1, 2)
    begin_ns = now_ns = time.monotonic_ns()
    journal.begin(slot, begin_ns)
    while now_ns < begin_ns + 2 * HANG_NS:
        # Told by the test's clock, so that a test that is kept from running is no broken heartbeat.
        now_ns += RENEW_NS
        journal.beat(now_ns)
    assert not has_rung(alarm)
    assert rings_within(alarm, WAIT_S)
