"""A group made of groups: parts end, refuse or are stopped by others, and the whole stays accountable."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from utilctl_agent.alps.model import Reading
from utilctl_agent.host.composite import CompositeGroup
from utilctl_agent.host.port import (
    ForeignResumeError,
    ForeignStopError,
    GroupGoneError,
    MechanismError,
    UnfinishedPauseError,
)
from utilctl_agent.testing import SimulatedHost, Spin
from utilctl_common.errors import FailedError
from utilctl_common.quantities import NS_PER_MS


@dataclass
class Part:
    """A group with settable answers, for what the simulated host does not do."""

    reading: Reading
    refuses: bool = False
    paused: bool = False
    trouble: FailedError | None = None
    mechanism: str = "signal"

    def read(self, *, observe: bool = True) -> Reading:
        return self.reading

    def cpu_ns(self) -> int:
        return self.reading.cpu_ns

    def pause(self) -> None:
        if self.refuses:
            raise MechanismError("refused")
        self.paused = True

    def resume(self) -> None:
        if self.refuses:
            raise MechanismError("refused")
        self.paused = False

    def check(self) -> None:
        if self.trouble is not None:
            raise self.trouble

    def close(self) -> None:
        self.paused = False


def test_a_composite_needs_parts() -> None:
    with pytest.raises(ValueError, match="needs parts"):
        CompositeGroup([])


def test_its_cpu_time_is_that_of_its_parts_also_after_one_of_them_ended() -> None:
    host = SimulatedHost(cores=2)
    first, second = host.group("first", Spin()), host.group("second", Spin())
    whole = CompositeGroup([first, second])
    host.advance_to(10 * NS_PER_MS)
    assert whole.read().cpu_ns == 20 * NS_PER_MS
    first.end()
    host.advance_to(15 * NS_PER_MS)
    assert whole.read().cpu_ns == 25 * NS_PER_MS
    assert whole.parts == (second,)


def test_it_is_gone_with_its_last_part() -> None:
    host = SimulatedHost()
    parts = [host.group("first", Spin()), host.group("second", Spin())]
    whole = CompositeGroup(parts)
    whole.pause()
    for part in parts:
        part.end()
    with pytest.raises(GroupGoneError):
        whole.pause()
    with pytest.raises(GroupGoneError):
        whole.read()
    host.assert_clean()


def test_if_a_part_refuses_to_pause_all_are_resumed() -> None:
    host = SimulatedHost()
    willing = host.group("willing", Spin())
    refusing = Part(Reading(0), refuses=True)
    whole = CompositeGroup([willing, refusing])
    with pytest.raises(MechanismError):
        whole.pause()
    host.assert_clean()


def test_a_part_that_refuses_to_resume_does_not_keep_the_others_paused() -> None:
    host = SimulatedHost()
    stubborn, willing = Part(Reading(0)), host.group("willing", Spin())
    whole = CompositeGroup([stubborn, willing])
    whole.pause()
    stubborn.refuses = True
    with pytest.raises(MechanismError):
        whole.resume()
    host.assert_clean()


def test_a_part_stopped_by_somebody_else_does_not_free_the_others_from_pauses() -> None:
    host = SimulatedHost()
    theirs, ours = host.group("theirs", Spin()), host.group("ours", Spin())
    theirs.stopped_by_user = True
    whole = CompositeGroup([theirs, ours])
    whole.pause()
    assert (theirs.stopped, ours.stopped) == (False, True)
    whole.resume()
    assert not ours.stopped


def test_it_is_refused_if_all_parts_are_stopped_by_somebody_else() -> None:
    host = SimulatedHost()
    parts = [host.group("first", Spin()), host.group("second", Spin())]
    for part in parts:
        part.stopped_by_user = True
    with pytest.raises(ForeignStopError):
        CompositeGroup(parts).pause()


@pytest.mark.parametrize(
    ("first", "second", "whole"),
    [
        (Reading(1, 10), Reading(2, 20), Reading(3, 30)),
        (Reading(1, 10), Reading(2, None, False), Reading(3, None, False)),
        (Reading(1, None, True), Reading(2, None, False), Reading(3, None, False)),
        (Reading(1, None, True), Reading(2, None, True), Reading(3, None, True)),
        (Reading(1, None, True), Reading(2, None, None), Reading(3, None, None)),
        (Reading(1, None, False), Reading(2, None, None), Reading(3, None, False)),
    ],
)
def test_readings_of_parts_add_up_and_the_unknown_stays_unknown(
    first: Reading, second: Reading, whole: Reading
) -> None:
    assert CompositeGroup([Part(first), Part(second)]).read() == whole


def test_parts_are_observed_only_if_the_whole_is() -> None:
    host = SimulatedHost()
    whole = CompositeGroup([host.group("first", Spin()), host.group("second", Spin())])
    assert whole.read(observe=False) == Reading(0)
    assert whole.read(observe=True).wait_ns == 0


def test_mechanisms_are_joined() -> None:
    host = SimulatedHost()
    assert CompositeGroup([Part(Reading(0)), host.group("frozen", Spin())]).mechanism == "freezer+signal"


def test_a_look_at_it_finds_who_was_resumed_by_others_whatever_else_is_wrong() -> None:
    unfinished = Part(Reading(0), trouble=UnfinishedPauseError("a part goes on"))
    resumed = Part(Reading(0), trouble=ForeignResumeError("resumed by hand"))
    fine = Part(Reading(0))
    for parts in ([unfinished, resumed], [resumed, unfinished], [fine, resumed, unfinished]):
        with pytest.raises(ForeignResumeError):
            CompositeGroup(parts).check()
    with pytest.raises(UnfinishedPauseError):
        CompositeGroup([fine, unfinished]).check()
    CompositeGroup([fine]).check()


def test_a_look_at_it_drops_a_part_that_has_ended() -> None:
    ended = Part(Reading(0), trouble=GroupGoneError("it has ended"))
    left = Part(Reading(0))
    whole = CompositeGroup([ended, left])
    whole.check()
    assert whole.parts == (left,)
