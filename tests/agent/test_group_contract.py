"""What every group promises, on the simulated host and on real processes of a real kernel (host.port.Group)."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import pytest

from support.processes import (
    end_process,
    freeze,
    is_frozen,
    is_stopped,
    remove_cgroup,
    spinning,
    temporary_cgroup,
    wait_until,
)
from utilctl_agent.host.cgroup import freezer_refusal
from utilctl_agent.host.composite import CompositeGroup
from utilctl_agent.host.freezer_v1 import freezer_v1_refusal
from utilctl_agent.host.hierarchies import FREEZER_V1, v1_mount
from utilctl_agent.host.opening import open_cgroup
from utilctl_agent.host.port import ForeignStopError, Group, GroupGoneError
from utilctl_agent.host.processes import ProcessGroup
from utilctl_agent.host.procstat import ProcessId
from utilctl_agent.safety.journal import Journal
from utilctl_agent.testing import SimulatedGroup, SimulatedHost, Spin
from utilctl_common.quantities import NS_PER_MS


class Subject(Protocol):
    """A group of spinning processes together with the hands of those who act on it from outside."""

    @property
    def group(self) -> Group: ...

    def let_time_pass(self) -> None:
        """At least 20 ms of it."""
        ...

    def held(self) -> bool:
        """Whether the kernel holds any part of it, by anybody's wish."""
        ...

    def hold(self) -> None:
        """Somebody else stops all of it."""
        ...

    def end(self) -> None:
        """All of it ends."""
        ...


@dataclass
class SimulatedSubject:
    host: SimulatedHost
    group: SimulatedGroup

    def let_time_pass(self) -> None:
        self.host.advance_to(self.host.now_ns() + 20 * NS_PER_MS)

    def held(self) -> bool:
        return self.group.stopped or self.group.stopped_by_user

    def hold(self) -> None:
        self.group.stopped_by_user = True

    def end(self) -> None:
        self.group.end()


@dataclass
class WitnessJournal:
    """A real journal that checks, at every note, that the kernel's state fits: noted before, crossed out after."""

    journal: Journal
    subject: KernelSubject | None = None
    notes: list[str] = field(default_factory=list)

    def enter_process(self, pid: int, start_ticks: int) -> int:
        return self.journal.enter_process(pid, start_ticks)

    def enter_cgroup(self, path: str, inode: int, *, v1: bool = False) -> int:
        return self.journal.enter_cgroup(path, inode, v1=v1)

    def enter_weight(self, path: str, inode: int, knob: str, found: int) -> int:
        return self.journal.enter_weight(path, inode, knob, found)

    def change(self, slot: int, before: int, value: int) -> None:
        self.journal.change(slot, before, value)

    def begin(self, slot: int, now_ns: int) -> None:
        self._note("begin", slot)
        self.journal.begin(slot, now_ns)

    def end(self, slot: int) -> None:
        self._note("end", slot)
        self.journal.end(slot)

    def leave(self, slot: int) -> None:
        self.journal.leave(slot)

    def _note(self, what: str, slot: int) -> None:
        assert self.subject is not None
        if self.subject.slot_held(slot):
            raise AssertionError(f"{what} of slot {slot} while the kernel holds it")
        self.notes.append(what)


@dataclass
class KernelSubject:
    """Cgroups and loose processes under one group; slots are given in the order cgroups, processes."""

    group: Group
    journal: Journal
    cgroups: list[Path]
    loose: list[ProcessId]

    def let_time_pass(self) -> None:
        time.sleep(0.02)

    def slot_held(self, slot: int) -> bool:
        if slot < len(self.cgroups):
            return is_frozen(self.cgroups[slot])
        return is_stopped(self.loose[slot - len(self.cgroups)].pid)

    def held(self) -> bool:
        return any(self.slot_held(slot) for slot in range(len(self.cgroups) + len(self.loose)))

    def hold(self) -> None:
        for path in self.cgroups:
            freeze(path)
        for process in self.loose:
            os.kill(process.pid, signal.SIGSTOP)
        wait_until(lambda: all(is_stopped(process.pid) for process in self.loose), "SIGSTOP from outside")

    def end(self) -> None:
        for path in self.cgroups:
            remove_cgroup(path)
        for process in self.loose:
            end_process(process.pid)


@contextlib.contextmanager
def kernel_subject(
    tmp_path: Path, *, cgroups: int, processes: int, mount: Path | None = None
) -> Iterator[tuple[KernelSubject, WitnessJournal]]:
    with contextlib.ExitStack() as stack:
        journal = Journal.create(str(tmp_path / "journal"), slots=16)
        stack.callback(journal.close)
        paths = [stack.enter_context(temporary_cgroup(mount)) for _ in range(cgroups)]
        for path in paths:
            stack.enter_context(spinning(1, cgroup=path))
        loose = stack.enter_context(spinning(processes))
        witness = WitnessJournal(journal)
        parts: list[Group] = [open_cgroup(path, witness, weight=False) for path in paths]
        if loose:
            parts.append(ProcessGroup(loose, witness))
        subject = KernelSubject(parts[0] if len(parts) == 1 else CompositeGroup(parts), journal, paths, loose)
        witness.subject = subject
        stack.callback(subject.group.close)
        yield subject, witness


KERNEL = {
    "cgroup": (1, 0),
    "cgroup-v1": (1, 0),
    "processes": (0, 2),
    "composite": (1, 1),
    "composite-v1": (1, 1),
}
"""Cgroups and loose processes of each kind of group."""
KERNEL_KINDS = [
    pytest.param("cgroup", marks=[pytest.mark.kernel, pytest.mark.root]),
    pytest.param("cgroup-v1", marks=[pytest.mark.kernel, pytest.mark.root]),
    pytest.param("processes", marks=pytest.mark.kernel),
    pytest.param("composite", marks=[pytest.mark.kernel, pytest.mark.root]),
    pytest.param("composite-v1", marks=[pytest.mark.kernel, pytest.mark.root]),
]


def make_kernel_subject(
    kind: str, tmp_path: Path
) -> contextlib.AbstractContextManager[tuple[KernelSubject, WitnessJournal]]:
    cgroups, processes = KERNEL[kind]
    v1 = kind.endswith("-v1")
    refusal = None if not cgroups else freezer_v1_refusal() if v1 else freezer_refusal()
    if refusal is not None:
        pytest.skip(refusal)
    mount = v1_mount(FREEZER_V1) if v1 else None
    return kernel_subject(tmp_path, cgroups=cgroups, processes=processes, mount=mount)


@pytest.fixture(params=["simulated", *KERNEL_KINDS])
def subject(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Subject]:
    if request.param == "simulated":
        host = SimulatedHost()
        simulated = SimulatedSubject(host, host.group("a", Spin()))
        yield simulated
        simulated.group.close()
        host.assert_clean()
    else:
        with make_kernel_subject(request.param, tmp_path) as (kernel, _):
            yield kernel


@pytest.fixture(params=KERNEL_KINDS)
def witnessed(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[KernelSubject, WitnessJournal]]:
    with make_kernel_subject(request.param, tmp_path) as made:
        yield made


def has_used_more_than(subject: Subject, cpu_ns: int) -> bool:
    subject.let_time_pass()
    return subject.group.read().cpu_ns > cpu_ns


def settled_cpu_ns(subject: Subject) -> int:
    """CPU time of a paused group, once a process that ran on another CPU has got the message."""
    seen = [subject.group.read().cpu_ns]

    def stands_still() -> bool:
        subject.let_time_pass()
        seen.append(subject.group.read().cpu_ns)
        return seen[-1] == seen[-2]

    wait_until(stands_still, "a paused group stands still")
    return seen[-1]


class TestGroup:
    def test_a_spinning_group_accrues_cpu_time(self, subject: Subject) -> None:
        start_ns = subject.group.read().cpu_ns
        wait_until(lambda: has_used_more_than(subject, start_ns), "a spinning group accrues CPU time")

    def test_a_paused_group_accrues_none(self, subject: Subject) -> None:
        subject.group.pause()
        at_rest_ns = settled_cpu_ns(subject)
        subject.let_time_pass()
        assert subject.group.read().cpu_ns == subject.group.cpu_ns() == at_rest_ns
        assert subject.held()

    def test_a_resumed_group_goes_on(self, subject: Subject) -> None:
        subject.group.pause()
        at_rest_ns = settled_cpu_ns(subject)
        subject.group.resume()
        wait_until(lambda: has_used_more_than(subject, at_rest_ns), "a resumed group goes on")
        assert not subject.held()

    def test_pausing_and_resuming_twice_is_the_same_as_once(self, subject: Subject) -> None:
        subject.group.pause()
        subject.group.pause()
        subject.let_time_pass()
        assert subject.held()
        subject.group.resume()
        assert not subject.held()
        subject.group.resume()
        assert not subject.held()
        subject.group.pause()
        subject.let_time_pass()
        assert subject.held()

    def test_resuming_what_was_never_paused_does_nothing(self, subject: Subject) -> None:
        subject.group.resume()
        assert not subject.held()

    def test_cpu_time_never_decreases(self, subject: Subject) -> None:
        seen_ns: list[int] = []
        for _ in range(3):
            for action in (subject.group.pause, subject.group.resume):
                action()
                seen_ns.extend(subject.group.read().cpu_ns for _ in range(3))
                subject.let_time_pass()
        assert seen_ns == sorted(seen_ns)

    def test_reading_after_the_end_says_so(self, subject: Subject) -> None:
        subject.group.read()
        subject.end()
        with pytest.raises(GroupGoneError):
            subject.group.read()

    def test_a_group_that_ends_while_paused_is_gone_and_can_be_closed(self, subject: Subject) -> None:
        subject.group.pause()
        subject.end()
        with pytest.raises(GroupGoneError):
            subject.group.read()
        subject.group.resume()
        subject.group.close()

    def test_pausing_after_the_end_says_so(self, subject: Subject) -> None:
        subject.end()
        with pytest.raises(GroupGoneError):
            subject.group.pause()

    def test_closing_resumes(self, subject: Subject) -> None:
        subject.group.pause()
        subject.group.close()
        assert not subject.held()

    def test_closing_twice_is_the_same_as_once(self, subject: Subject) -> None:
        subject.group.close()
        subject.group.close()
        assert not subject.held()

    def test_what_somebody_else_stopped_is_refused_and_left_stopped(self, subject: Subject) -> None:
        subject.hold()
        with pytest.raises(ForeignStopError):
            subject.group.pause()
        assert subject.held()
        subject.group.resume()
        assert subject.held()
        subject.group.close()
        assert subject.held()

    def test_the_mechanism_is_named(self, subject: Subject) -> None:
        assert subject.group.mechanism in ("freezer", "freezer-v1", "signal", "freezer+signal", "freezer-v1+signal")


class TestJournalOfAGroup:
    def test_a_pause_is_in_the_journal_exactly_while_it_is_in_force(
        self, witnessed: tuple[KernelSubject, WitnessJournal]
    ) -> None:
        subject, witness = witnessed
        parts = len(subject.cgroups) + len(subject.loose)
        assert subject.journal.in_force() == []
        for _ in range(2):
            subject.group.pause()
            assert len(subject.journal.in_force()) == parts
            subject.group.resume()
            assert subject.journal.in_force() == []
        # The witness has checked at each of these notes that the kernel held nothing.
        assert witness.notes == (["begin"] * parts + ["end"] * parts) * 2

    def test_closing_while_paused_crosses_the_pause_out(self, witnessed: tuple[KernelSubject, WitnessJournal]) -> None:
        subject, _ = witnessed
        subject.group.pause()
        subject.group.close()
        assert not subject.journal.any_in_force()

    def test_a_pause_that_ended_with_its_group_is_crossed_out_on_closing(
        self, witnessed: tuple[KernelSubject, WitnessJournal]
    ) -> None:
        subject, _ = witnessed
        subject.group.pause()
        subject.end()
        with contextlib.suppress(GroupGoneError):
            subject.group.read()
        subject.group.close()
        assert not subject.journal.any_in_force()

    def test_a_refused_foreign_stop_leaves_no_note(self, witnessed: tuple[KernelSubject, WitnessJournal]) -> None:
        subject, witness = witnessed
        subject.hold()
        with pytest.raises(ForeignStopError):
            subject.group.pause()
        assert not subject.journal.any_in_force()
        assert witness.notes == []

    def test_a_closed_group_gives_its_slots_back(self, witnessed: tuple[KernelSubject, WitnessJournal]) -> None:
        subject, witness = witnessed
        subject.group.close()
        for number in range(16):
            witness.enter_process(number + 1, 1)
