"""One agent at a time manages a scope; a new one takes over with nothing left paused in between, seen from outside."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from support.agents import PYTHON, agent, part, service, stop
from support.commands import Command
from support.controller_server import RunningController
from support.guarded import Mechanism, Subject
from support.processes import is_stopped, temporary_cgroup, wait_until
from utilctl_agent.link.settings import AgentSettings
from utilctl_agent.safety.journal import Journal
from utilctl_agent.safety.owners import living_owners
from utilctl_agent.safety.thaw import default_run_dir
from utilctl_common.quantities import NS_PER_MS, NS_PER_S

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: cgroups are made"),
]

GENEROUS_NS = NS_PER_S
"""What a busy test machine may add to any of the promised times."""


class Observer:
    """Looks from outside, about once a millisecond, whether the service is paused. Use it in ``with``."""

    def __init__(self, watched: Subject) -> None:
        self._watched = watched
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.longest_ns = 0
        self.pauses = 0

    def __enter__(self) -> Observer:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._end.set()
        self._thread.join()

    def _watch(self) -> None:
        since_ns: int | None = None
        while not self._end.wait(0.001):
            now_ns = time.monotonic_ns()
            if not self._watched.any_paused():
                since_ns = None
            elif since_ns is None:
                since_ns = now_ns
                self.pauses += 1
            else:
                self.longest_ns = max(self.longest_ns, now_ns - since_ns)


def owners(cgroup: Path) -> list[int]:
    """The pids of the guards that manage it."""
    settings = AgentSettings(host="any", controllers=(), scope=f"cgroup:/{cgroup.name}", cpus=(0,))
    return [owner.pid for owner in living_owners(default_run_dir(), settings.journal_name)]


def paused_though_not_by(watched: Subject, guard_pid: int, cgroup: Path) -> bool:
    """Whether it is paused now and the journal of that guard does not say so. A pause is noted before it is made."""
    settings = AgentSettings(host="any", controllers=(), scope=f"cgroup:/{cgroup.name}", cpus=(0,))
    path = f"{default_run_dir()}/{settings.journal_name}-{guard_pid}.journal"
    with contextlib.closing(Journal.open(path)) as journal:
        # It may begin or end between two looks, but not again and again.
        return all(watched.any_paused() and not journal.any_in_force() for _ in range(20))


@pytest.mark.parametrize("mechanism", ["freezer", "signal"])
@pytest.mark.parametrize("old_guard", ["well", "stopped"])
def test_a_new_agent_takes_over_with_nothing_left_paused_in_between(
    controller: RunningController, mechanism: Mechanism, old_guard: str
) -> None:
    mode = ("--mode", mechanism)
    with (
        temporary_cgroup() as cgroup,
        service(cgroup, mechanism) as held,
        agent(controller, f"cgroup:/{cgroup.name}", *mode) as old,
    ):
        wait_until(held.all_paused, "the old one holds it back")
        if old_guard == "stopped":
            old.process.send_signal(signal.SIGSTOP)
            wait_until(lambda: is_stopped(old.pid), "the old guard stands still")
        with Observer(held) as observer, agent(controller, f"cgroup:/{cgroup.name}", *mode, "--take-over") as new:
            wait_until(lambda: old.process.poll() is not None, "the old one ends")
            ended_ns = time.monotonic_ns()
            assert not paused_though_not_by(held, new.pid, cgroup)
            outcome = old.wait()
            assert (outcome.code, "Traceback" in outcome.stderr) == (0, False)
            old.assert_nothing_left()
            wait_until(held.all_paused, "the new one holds it back")
            print(f"held back again {(time.monotonic_ns() - ended_ns) / NS_PER_MS:.0f} ms after the old one ended")
            assert owners(cgroup) == [new.pid]
            pauses = observer.pauses
            wait_until(lambda: observer.pauses > pauses + 3, "and lets it go again")
            assert not paused_though_not_by(held, new.pid, cgroup)
            outcome = stop(new)
            assert outcome.code == 0
            assert "this agent manages the scope now" in outcome.stderr
        assert not held.any_paused()
        longest = f"paused for {observer.longest_ns / NS_PER_MS:.0f} ms at a time"
        print(longest)
        assert observer.longest_ns < NS_PER_S + GENEROUS_NS, longest


def test_a_second_agent_is_refused_in_one_line_and_the_first_goes_on(controller: RunningController) -> None:
    with (
        temporary_cgroup() as cgroup,
        service(cgroup) as held,
        agent(controller, f"cgroup:/{cgroup.name}") as first,
    ):
        wait_until(held.all_paused, "it is held back")
        with agent(controller, f"cgroup:/{cgroup.name}/", "--host", "another") as second:
            outcome = second.wait()
            second.assert_nothing_left()
        assert outcome.code == 4
        assert outcome.stderr == (
            f"utilctl-agent: error: an agent (pid {first.pid}) manages cgroup:/{cgroup.name}/ already; "
            "stop it, or start this one with --take-over\n"
        )
        assert owners(cgroup) == [first.pid]
        wait_until(lambda: not held.any_paused(), "it is let go")
        wait_until(held.all_paused, "and held back")
        assert stop(first).code == 0


def test_what_a_killed_agent_left_behind_does_not_keep_the_next_from_starting(controller: RunningController) -> None:
    with temporary_cgroup() as cgroup, service(cgroup) as held:
        with agent(controller, f"cgroup:/{cgroup.name}") as first:
            wait_until(held.all_paused, "it is held back")
            parts = [part(first, f"utilctl_agent.{name}") for name in ("loop", "link")]
            for pid in (first.pid, *parts):
                os.kill(pid, signal.SIGSTOP)
            for pid in (first.pid, *parts):
                os.kill(pid, signal.SIGKILL)
            first.process.wait()
            with agent(controller, f"cgroup:/{cgroup.name}") as second:
                wait_until(lambda: owners(cgroup) == [second.pid], "the second one manages it")
                wait_until(held.all_paused, "it is held back again")
                assert stop(second).code == 0
        assert not held.any_paused()


def test_a_start_beside_a_stopped_guard_waits_for_its_end_and_then_manages_the_scope(
    controller: RunningController,
) -> None:
    with (
        temporary_cgroup() as cgroup,
        service(cgroup) as held,
        agent(controller, f"cgroup:/{cgroup.name}") as first,
    ):
        wait_until(held.all_paused, "it is held back")
        first.process.send_signal(signal.SIGSTOP)
        wait_until(lambda: is_stopped(first.pid), "the first guard stands still")
        with agent(controller, f"cgroup:/{cgroup.name}") as second:
            wait_until(lambda: len(owners(cgroup)) == 2, "the second one has started")
            first.process.kill()
            first.process.wait()
            wait_until(lambda: owners(cgroup) == [second.pid], "only the second one is left")
            wait_until(held.all_paused, "it is held back again")
            assert not paused_though_not_by(held, second.pid, cgroup)
            assert stop(second).code == 0
        assert not held.any_paused()


def test_an_agent_that_reaches_no_controller_takes_nothing_over(controller: RunningController) -> None:
    with (
        temporary_cgroup() as cgroup,
        service(cgroup) as held,
        agent(controller, f"cgroup:/{cgroup.name}") as old,
    ):
        wait_until(held.all_paused, "the old one holds it back")  # else the new one might be the first
        with agent(controller, f"cgroup:/{cgroup.name}", "--take-over", "--controller", "127.0.0.1:1") as new:
            wait_until(lambda: len(owners(cgroup)) == 2, "both guards run")
            time.sleep(1.0)
            assert old.process.poll() is None
            assert stop(new).code == 0
        wait_until(lambda: not held.any_paused(), "the old one lets it go")
        wait_until(held.all_paused, "and holds it back")
        assert stop(old).code == 0
        assert not held.any_paused()


def test_two_agents_that_start_at_once_do_not_fight_and_the_later_one_follows(controller: RunningController) -> None:
    with temporary_cgroup() as cgroup, service(cgroup) as held:
        scope = f"cgroup:/{cgroup.name}"
        with agent(controller, scope) as one, agent(controller, scope) as other:
            wait_until(held.all_paused, "it is held back")
            wait_until(lambda: len(owners(cgroup)) == 2 or has_ended(one) or has_ended(other), "both have looked")
            if len(owners(cgroup)) == 2:
                # Neither had seen the other: the later one waits for its turn.
                first, second = sorted((one, other), key=lambda command: (start_ticks(command), command.pid))
                assert stop(first).code == 0
                wait_until(held.all_paused, "it is held back by the other")
                assert stop(second).code == 0
            else:
                codes = sorted(command.wait().code for command in (one, other) if has_ended(command))
                assert codes == [4]
                (left,) = [command for command in (one, other) if not has_ended(command)]
                assert stop(left).code == 0
        assert not held.any_paused()


def has_ended(command: Command) -> bool:
    return command.process.poll() is not None


def start_ticks(command: Command) -> int:
    stat = Path(f"/proc/{command.pid}/stat").read_bytes().rpartition(b")")[2].split()
    return int(stat[19])


def test_scopes_have_names_of_their_own_that_fit_into_a_file_name() -> None:
    def name(scope: str | None) -> str:
        return AgentSettings(host="a", controllers=(), scope=scope, cpus=(0,)).journal_name

    scopes = [
        None,
        "tree:7",
        "tree:77",
        "cgroup:/",
        "cgroup:/a",
        "cgroup:/a/b",
        "cgroup:/" + "a" * 300,
        "cgroup:/" + "a" * 301,
    ]
    names = [name(scope) for scope in scopes]
    assert len(set(names)) == len(scopes)
    assert all("/" not in entry and len(entry) < 200 for entry in names)
    assert name("cgroup:/a/") == name("cgroup:/a")


def test_the_program_says_how_to_take_over() -> None:
    with Command([PYTHON, "-m", "utilctl_agent.main", "--help"]) as command:
        assert "--take-over" in command.wait().stdout
