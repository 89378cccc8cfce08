"""A pause of what nothing interrupts: it stays unfinished, is told, and costs the others nothing."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

import pytest

from support.driven import Driven
from support.pausing import (
    each_freezer,
    each_kind,
    finished,
    freezer_v2,
    needs_root,
    open_group,
    stands_still,
    unfinished_for,
)
from support.processes import is_frozen, spinning, temporary_cgroup, wait_until
from support.stuck import dead_mount, vforking, waiting_in
from utilctl_agent.alps.principal import QUEUED
from utilctl_agent.host.opening import open_cgroup
from utilctl_agent.host.port import PendingPauseError
from utilctl_agent.host.processes import ProcessGroup
from utilctl_agent.host.procstat import read_stat
from utilctl_agent.orders import PrincipalOrder
from utilctl_agent.safety.journal import Journal
from utilctl_common.quantities import NS_PER_MS

pytestmark = pytest.mark.kernel

needs_fuse = pytest.mark.skipif(not os.access("/dev/fuse", os.W_OK), reason="needs /dev/fuse")


class TestOnAFullHost:
    @freezer_v2
    def test_those_that_have_not_got_a_cpu_to_freeze_on_are_no_failure(self, cgroup: Path, journal: Journal) -> None:
        with spinning(40, cgroup=cgroup, cpu=0), spinning(8, cpu=0):
            group = open_cgroup(cgroup, journal, weight=False)
            time.sleep(0.1)
            group.pause()
            with pytest.raises(PendingPauseError):
                group.check()
            wait_until(lambda: finished(group), "each of them has got a CPU")
            group.close()

    @freezer_v2
    def test_the_time_in_which_one_of_them_waited_is_told(self, cgroup: Path, journal: Journal) -> None:
        with spinning(2, cgroup=cgroup, cpu=0):
            group = open_cgroup(cgroup, journal, weight=False)
            before, begin_ns = group.read(), time.monotonic_ns()
            time.sleep(0.3)
            after, elapsed_ns = group.read(), time.monotonic_ns() - begin_ns
            assert before.queued_ns is not None
            assert after.queued_ns is not None
            # One of the two waits whenever the other runs.
            assert after.queued_ns - before.queued_ns >= QUEUED * elapsed_ns
            group.close()


class TestUninterruptible:
    @each_kind
    @pytest.mark.root
    @needs_root
    @needs_fuse
    def test_one_that_waits_for_a_dead_file_server_makes_a_pause_unfinished(
        self, cgroup: Path | None, journal: Journal
    ) -> None:
        with (
            dead_mount() as mount,
            waiting_in(mount, cgroup=cgroup) as process,
            spinning(1, cgroup=cgroup) as (spinner,),
        ):
            group = open_group(cgroup, [process, spinner], journal)
            group.pause()
            assert unfinished_for(group, 0.3)
            stat = read_stat(process.pid)
            assert stat is not None
            assert stat[0] == b"D"
            wait_until(lambda: stands_still(group), "the others are held all the same")
            group.resume()
            assert not journal.any_in_force()
            wait_until(lambda: not stands_still(group), "the others go on")
            group.close()

    @each_freezer
    def test_one_that_waits_for_its_vfork_child_counts_as_frozen(self, cgroup: Path, journal: Journal) -> None:
        with vforking(cgroup=cgroup):
            group = open_cgroup(cgroup, journal, weight=False)
            group.pause()
            wait_until(lambda: finished(group), "it is frozen")
            group.close()
            assert not is_frozen(cgroup)

    def test_one_that_waits_for_its_vfork_child_is_not_stopped_by_a_signal(self, journal: Journal) -> None:
        with vforking() as process:
            group = ProcessGroup([process], journal)
            group.pause()
            assert unfinished_for(group, 0.3)
            group.close()
            assert not journal.any_in_force()

    @freezer_v2
    @needs_fuse
    def test_the_loop_lets_it_run_says_so_and_goes_on_with_the_others(self, cgroup: Path, tmp_path: Path) -> None:
        with dead_mount() as mount, temporary_cgroup() as other, contextlib.ExitStack() as stack:
            stack.enter_context(waiting_in(mount, cgroup=cgroup))
            stack.enter_context(spinning(1, cgroup=cgroup, cpu=0))
            stack.enter_context(spinning(1, cgroup=other, cpu=0))
            driven = Driven(tmp_path, cpus=(0,), cycle_ns=200 * NS_PER_MS)
            stack.callback(driven.end)
            driven.roster(
                1,
                PrincipalOrder("stuck", 1.0, 1, cgroups=(str(cgroup),)),
                PrincipalOrder("other", 20.0, 1, cgroups=(str(other),)),
            )
            next_s = [time.monotonic()]

            def given_up() -> bool:
                if time.monotonic() < next_s[0]:
                    return False
                next_s[0] += 0.5  # a report ends the plan that is being carried out
                return driven.report().unfinished_pauses > 0

            driven.run_until(given_up, "the unfinished pause is given up")
            report = driven.report()
            assert "does not freeze" in report.principals["stuck"].problem
            assert report.principals["other"].problem == ""
            assert not is_frozen(cgroup)
