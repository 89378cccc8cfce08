"""Whichever system call of a mechanism fails, and however: nothing is left paused that the journal does not name.

On real processes and cgroups. Every call that a group makes while it is opened, read, paused, looked at, resumed and
closed fails once for each error; afterwards the journal is undone, as a guard would.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from support.faults import ERRORS, FaultPlan
from support.processes import freeze, is_frozen, is_stopped, spinning, temporary_cgroup, thaw, wait_until
from utilctl_agent.host.cgroup import freezer_refusal
from utilctl_agent.host.composite import CompositeGroup
from utilctl_agent.host.freezer_v1 import freezer_v1_refusal
from utilctl_agent.host.hierarchies import FREEZER_V1, v1_mount
from utilctl_agent.host.opening import open_cgroup
from utilctl_agent.host.port import Group
from utilctl_agent.host.processes import ProcessGroup
from utilctl_agent.host.procstat import ProcessId
from utilctl_agent.safety.journal import Journal, PausedCgroup
from utilctl_agent.safety.thaw import thaw_journal
from utilctl_common.errors import FailedError

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(300)]


@dataclass
class Bench:
    """What is held: a cgroup with a process, loose processes, or both."""

    cgroup: Path | None
    loose: list[ProcessId]

    def open(self, journal: Journal) -> Group:
        parts: list[Group] = []
        try:
            if self.cgroup is not None:
                parts.append(open_cgroup(self.cgroup, journal, weight=False))
            if self.loose:
                parts.append(ProcessGroup(self.loose, journal))
        except FailedError:
            for part in parts:
                part.close()
            raise
        return parts[0] if len(parts) == 1 else CompositeGroup(parts)

    def held(self) -> set[str | int]:
        """Who is stopped or frozen, by whomever."""
        held: set[str | int] = {process.pid for process in self.loose if is_stopped(process.pid)}
        if self.cgroup is not None and is_frozen(self.cgroup):
            held.add(str(self.cgroup))
        return held

    def stop_all(self) -> None:
        """Somebody else stops all of it."""
        if self.cgroup is not None:
            freeze(self.cgroup)
        for process in self.loose:
            os.kill(process.pid, 19)
        wait_until(lambda: len(self.held()) == len(self.loose) + (self.cgroup is not None), "all of it is stopped")

    def resume_all(self) -> None:
        """Somebody else resumes all of it."""
        if self.cgroup is not None:
            thaw(self.cgroup)
        for process in self.loose:
            os.kill(process.pid, 18)
        wait_until(lambda: not self.held(), "all of it goes on")


ROOT = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root: cgroups are frozen")]


@pytest.fixture(
    params=[
        "signal",
        pytest.param("freezer", marks=ROOT),
        pytest.param("freezer-v1", marks=ROOT),
        pytest.param("freezer+signal", marks=ROOT),
    ]
)
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    kind: str = request.param
    with contextlib.ExitStack() as stack:
        path = None
        if kind != "signal":
            v1 = kind == "freezer-v1"
            refusal = freezer_v1_refusal() if v1 else freezer_refusal()
            if refusal is not None:
                pytest.skip(refusal)
            path = stack.enter_context(temporary_cgroup(v1_mount(FREEZER_V1) if v1 else None))
            stack.enter_context(spinning(1, cgroup=path))
        yield Bench(path, stack.enter_context(spinning(2)) if "signal" in kind else [])


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    made = Journal.create(str(tmp_path / "journal"), slots=8)
    yield made
    made.close()


def named(journal: Journal) -> set[str | int]:
    """Whom the journal names as paused."""
    return {pause.path if isinstance(pause, PausedCgroup) else pause.pid for _, pause in journal.in_force()}


def use(bench: Bench, journal: Journal, after_each: Callable[[], None]) -> None:
    """A group's life: whatever is refused, the next thing is done, as the loop would."""
    try:
        group = bench.open(journal)
    except FailedError:
        after_each()
        return
    lives = (group.read, group.pause, group.cpu_ns, group.check, group.resume, group.pause, group.check, group.pause)
    for act in lives:
        with contextlib.suppress(FailedError):
            act()
        after_each()
    group.close()
    after_each()


@pytest.mark.parametrize("lasting", [False, True], ids=["once", "from then on"])
def test_whatever_fails_nothing_is_held_that_the_journal_does_not_name(
    bench: Bench, journal: Journal, lasting: bool
) -> None:
    def assert_named() -> None:
        with plan.suspended():
            held = bench.held()
        assert held <= named(journal), f"{plan} left {held - named(journal)} held without a note"

    plan = FaultPlan(at=-1, error=0)
    with plan.in_force():
        use(bench, journal, lambda: None)
    count = len(plan.calls)
    assert count > 8
    assert not bench.held()
    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    for error in ERRORS:
        for at in range(count):
            plan = FaultPlan(at, error, lasting)
            with plan.in_force():
                use(bench, journal, assert_named)
            thaw_journal(journal)
            wait_until(lambda: not bench.held(), f"after {plan.failed} failed with {os.strerror(error)} all goes on")
            assert not journal.any_in_force()
    assert len(list(Path("/proc/self/fd").iterdir())) == descriptors, "every descriptor is closed"


def test_whatever_fails_what_others_stopped_stays_stopped(bench: Bench, journal: Journal) -> None:
    bench.stop_all()
    everything = bench.held()
    plan = FaultPlan(at=-1, error=0)
    with plan.in_force():
        use(bench, journal, lambda: None)
    for error in ERRORS:
        for at in range(len(plan.calls)):
            with FaultPlan(at, error).in_force():
                use(bench, journal, lambda: None)
            assert bench.held() == everything
            assert not named(journal)
            thaw_journal(journal)
            assert bench.held() == everything
    bench.resume_all()
