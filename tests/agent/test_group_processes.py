"""What is particular to groups of processes: members come and go, pids are reused, privilege may be missing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.processes import end_process, is_stopped, spinning, wait_until
from utilctl_agent.host.port import ForeignStopError, GroupGoneError
from utilctl_agent.host.processes import ProcessGroup
from utilctl_agent.host.procstat import ProcessId, identify
from utilctl_agent.safety.journal import Journal, PausedProcess
from utilctl_common.quantities import NS_PER_MS

pytestmark = pytest.mark.kernel

ACT_AS_USER = """
import json, os, pwd, sys, tempfile
from utilctl_agent.host.port import MechanismError
from utilctl_agent.host.processes import ProcessGroup
from utilctl_agent.host.procstat import identify, read_stat
from utilctl_agent.safety.journal import Journal

# Dropped only now: the interpreter itself may lie where the user cannot read.
user = pwd.getpwnam("nobody")
os.setgroups([])
os.setgid(user.pw_gid)
os.setuid(user.pw_uid)
own, foreign = (identify(int(argument)) for argument in sys.argv[1:])
with tempfile.TemporaryDirectory() as folder:
    journal = Journal.create(folder + "/journal", slots=4)
    group = ProcessGroup([own], journal)
    group.pause()
    while (state := read_stat(own.pid)[0]) == b"R":
        pass
    in_force = len(journal.in_force())
    cpu_ns = group.read().cpu_ns
    group.resume()
    resumed = read_stat(own.pid)[0]
    group.close()
    refusals = []
    for members in ([foreign], [own, foreign]):
        refused = ProcessGroup(members, journal)
        try:
            refused.pause()
        except MechanismError as error:
            refusals.append(str(error))
        own_state = read_stat(own.pid)[0]
        refusals.append(own_state.decode())
        refused.close()
    print(json.dumps({"state": state.decode(), "in_force": in_force, "resumed": resumed.decode(), "cpu_ns": cpu_ns,
                      "refusals": refusals, "left": len(journal.in_force())}))
    journal.close()
"""


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    made = Journal.create(str(tmp_path / "journal"), slots=16)
    yield made
    made.close()


def wait_stopped(process: ProcessId) -> None:
    wait_until(lambda: is_stopped(process.pid), f"process {process.pid} stops")


class TestMembership:
    def test_who_joins_a_paused_group_is_paused(self, journal: Journal) -> None:
        with spinning(2) as (first, second):
            group = ProcessGroup([first], journal)
            group.pause()
            group.update([first, second])
            wait_stopped(second)
            assert {p.pid for _, p in journal.in_force() if isinstance(p, PausedProcess)} == {first.pid, second.pid}
            group.resume()
            assert not is_stopped(first.pid)
            assert not is_stopped(second.pid)
            group.close()

    def test_who_joins_a_running_group_runs(self, journal: Journal) -> None:
        with spinning(2) as (first, second):
            group = ProcessGroup([first], journal)
            group.update([first, second])
            assert not is_stopped(second.pid)
            group.close()

    def test_who_leaves_a_paused_group_is_resumed(self, journal: Journal) -> None:
        with spinning(2) as (first, second):
            group = ProcessGroup([first, second], journal)
            group.pause()
            wait_stopped(first)
            wait_stopped(second)
            group.update([first])
            assert not is_stopped(second.pid)
            assert is_stopped(first.pid)
            assert [p.pid for _, p in journal.in_force() if isinstance(p, PausedProcess)] == [first.pid]
            assert group.processes == {first}
            group.close()

    def test_joining_and_leaving_never_turn_the_cpu_time_back(self, journal: Journal) -> None:
        with spinning(3) as (first, second, third):
            group = ProcessGroup([first, second], journal)
            seen_ns = [group.read().cpu_ns]
            for members in ([first], [first, third], [third], [second, third], [first, second, third]):
                group.update(members)
                seen_ns.append(group.read().cpu_ns)
            end_process(first.pid)
            seen_ns.append(group.read().cpu_ns)
            end_process(second.pid)
            group.update([third])
            seen_ns.append(group.read().cpu_ns)
            assert seen_ns == sorted(seen_ns)
            group.close()

    def test_cpu_time_from_before_joining_is_not_the_groups(self, journal: Journal) -> None:
        with spinning(1) as (spinner,):
            elder = ProcessGroup([spinner], journal)
            wait_until(lambda: elder.read().cpu_ns > 30 * NS_PER_MS, "the spinner grows old")
            elder.pause()
            wait_stopped(spinner)
            late = ProcessGroup([spinner], journal)
            assert late.read().cpu_ns == 0
            late.close()
            elder.close()

    def test_a_member_that_ends_leaves_the_others_under_control(self, journal: Journal) -> None:
        with spinning(2) as (first, second):
            group = ProcessGroup([first, second], journal)
            end_process(first.pid)
            group.read()
            assert group.processes == {second}
            group.pause()
            wait_stopped(second)
            group.close()
            assert not is_stopped(second.pid)

    def test_a_member_stopped_by_somebody_else_stays_stopped_when_the_rest_is_resumed(self, journal: Journal) -> None:
        with spinning(2) as (ours, theirs):
            os.kill(theirs.pid, 19)
            wait_stopped(theirs)
            group = ProcessGroup([ours, theirs], journal)
            group.pause()
            wait_stopped(ours)
            assert [p.pid for _, p in journal.in_force() if isinstance(p, PausedProcess)] == [ours.pid]
            group.resume()
            assert not is_stopped(ours.pid)
            assert is_stopped(theirs.pid)
            group.close()
            assert is_stopped(theirs.pid)


class TestEmptyGroup:
    def test_a_group_may_be_kept_while_it_is_empty(self, journal: Journal) -> None:
        with spinning(1) as (spinner,):
            group = ProcessGroup([], journal, keep_empty=True)
            assert group.read().cpu_ns == 0
            group.pause()
            group.update([spinner])
            wait_stopped(spinner)
            group.close()

    def test_otherwise_an_empty_group_is_gone(self, journal: Journal) -> None:
        with pytest.raises(GroupGoneError):
            ProcessGroup([], journal)


class TestIdentity:
    def test_a_later_process_with_the_pid_of_a_member_is_refused(self, journal: Journal) -> None:
        with spinning(1) as (spinner,):
            earlier = ProcessId(spinner.pid, spinner.start_ticks - 1)
            with pytest.raises(GroupGoneError):
                ProcessGroup([earlier], journal)

    def test_a_later_process_with_the_pid_of_a_joiner_is_not_paused(self, journal: Journal) -> None:
        with spinning(2) as (first, second):
            group = ProcessGroup([first], journal)
            group.pause()
            group.update([first, ProcessId(second.pid, second.start_ticks - 1)])
            assert group.processes == {first}
            assert not is_stopped(second.pid)
            group.close()

    def test_a_process_that_has_ended_has_no_identity(self) -> None:
        with spinning(1) as (spinner,):
            assert identify(spinner.pid) == spinner
            os.kill(spinner.pid, 9)
            os.waitid(os.P_PID, spinner.pid, os.WEXITED | os.WNOWAIT)
            assert identify(spinner.pid) is None  # a zombie
            os.waitpid(spinner.pid, 0)
            assert identify(spinner.pid) is None

    def test_pid_reuse_after_the_end_does_not_reach_the_newcomer(self, journal: Journal) -> None:
        # The pidfd stays with the process that was opened, so signals go nowhere once it has ended.
        with spinning(1) as (spinner,):
            group = ProcessGroup([spinner], journal)
            end_process(spinner.pid)
            with pytest.raises(GroupGoneError):
                group.pause()
            assert not journal.any_in_force()
            group.close()


class TestForeignStops:
    def test_a_group_whose_only_live_members_are_stopped_by_others_is_refused(self, journal: Journal) -> None:
        with spinning(2) as (dead, theirs):
            group = ProcessGroup([dead, theirs], journal)
            os.kill(theirs.pid, 19)
            wait_stopped(theirs)
            end_process(dead.pid)
            group.read()
            with pytest.raises(ForeignStopError):
                group.pause()
            group.close()
            assert is_stopped(theirs.pid)

    def test_once_somebody_else_has_resumed_it_the_group_can_be_paused(self, journal: Journal) -> None:
        with spinning(1) as (spinner,):
            group = ProcessGroup([spinner], journal)
            os.kill(spinner.pid, 19)
            wait_stopped(spinner)
            with pytest.raises(ForeignStopError):
                group.pause()
            os.kill(spinner.pid, 18)
            group.pause()
            wait_stopped(spinner)
            group.close()
            assert not is_stopped(spinner.pid)


@pytest.mark.root
def test_an_unprivileged_user_controls_its_own_processes_and_no_others() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root to become somebody else")
    with spinning(1, user="nobody") as (own,), spinning(1) as (foreign,):
        done = subprocess.run(
            [sys.executable, "-c", ACT_AS_USER, str(own.pid), str(foreign.pid)],
            cwd="/",
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        seen = json.loads(done.stdout)
        assert not is_stopped(foreign.pid)
    assert seen["state"] == "T"
    assert seen["in_force"] == 1
    assert seen["resumed"] != "T"
    refused_alone, own_after_alone, refused_mixed, own_after_mixed = seen["refusals"]
    for refusal in (refused_alone, refused_mixed):
        assert "cannot be stopped" in refusal
        assert "run the agent as its user or as root" in refusal
    assert own_after_alone != "T"
    assert own_after_mixed != "T"  # a refusal leaves nothing paused
    assert seen["left"] == 0
