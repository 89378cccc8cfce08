"""The judge of the chaos trials sees what is paused, for how long, and that it still is."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

import pytest

from chaos.campaign import who_does_not_run
from chaos.observer import Observer
from chaos.report import percentile
from chaos.targets import Kind, Target, cpu_ns, let_everybody_run, possible_kinds, targets
from support.processes import freeze, is_stopped, thaw, wait_until
from utilctl_common.quantities import NS_PER_MS

HELD_NS = 30 * NS_PER_MS
CPU = min(os.sched_getaffinity(0))


def hold(target: Target) -> Callable[[], None]:
    """Pause a target as somebody else would; returns what undoes it."""
    cgroup = target.cgroup
    if cgroup is not None:
        freeze(cgroup)
        return lambda: thaw(cgroup)
    os.kill(target.pids[0], signal.SIGSTOP)
    return lambda: os.kill(target.pids[0], signal.SIGCONT)


def is_still(target: Target) -> bool:
    """Whether its first process gets no CPU."""
    before_ns = cpu_ns(target)
    time.sleep(0.05)
    return cpu_ns(target) == before_ns


@pytest.mark.kernel
@pytest.mark.parametrize("kind", ["v2", "v1", "signal"])
def test_a_pause_is_seen_and_never_taken_for_shorter_than_it_was(kind: Kind) -> None:
    if kind not in possible_kinds():
        pytest.skip("not possible here, or not without root")
    with targets({kind: 2}, CPU) as (held, free), Observer([held, free]) as observer:
        assert observer.paused() == []
        begin_ns = time.monotonic_ns()
        let_go = hold(held)
        wait_until(lambda: bool(observer.paused()), "it is paused")
        assert [name.partition("/")[0] for name in observer.paused()] == [held.name]
        seen_ns = time.monotonic_ns()
        time.sleep(HELD_NS / 1e9)
        held_until_ns = time.monotonic_ns()
        let_go()
        wait_until(lambda: not observer.paused(), "it is resumed")
        (pause,) = observer.pauses(begin_ns)
        assert observer.names[pause.unit].startswith(held.name)
        assert pause.begin_ns <= seen_ns
        assert pause.end_ns is not None
        assert pause.end_ns >= held_until_ns


@pytest.mark.kernel
@pytest.mark.parametrize("kind", ["v2", "v1", "signal"])
def test_one_that_is_let_go_and_paused_again_between_two_readings_is_seen_to_have_run(kind: Kind) -> None:
    if kind not in possible_kinds():
        pytest.skip("not possible here, or not without root")
    with targets({kind: 1}, CPU) as (held,), Observer([held]) as observer:
        begin_ns = time.monotonic_ns()
        let_go = hold(held)
        wait_until(lambda: bool(observer.paused()), "it is paused")
        time.sleep(HELD_NS / 1e9)
        os.kill(observer.watcher_pid, signal.SIGSTOP)
        wait_until(lambda: is_stopped(observer.watcher_pid), "the watcher looks away")
        before_ns = cpu_ns(held)
        let_go()
        wait_until(lambda: cpu_ns(held) > before_ns, "it runs")
        let_go = hold(held)
        wait_until(lambda: is_still(held), "it stands still again")
        os.kill(observer.watcher_pid, signal.SIGCONT)
        wait_until(lambda: bool(observer.paused()) and len(observer.pauses(begin_ns)) == 2, "two pauses are seen")
        first, second = observer.pauses(begin_ns)
        assert first.end_ns is not None
        assert second.begin_ns < first.end_ns, "neither is taken for shorter than it was"
        assert second.end_ns is None
        let_go()


@pytest.mark.kernel
def test_who_gets_no_cpu_time_is_noticed_even_if_nothing_says_that_it_is_paused() -> None:
    with targets({"signal": 2}, CPU) as (held, free):
        os.kill(held.pids[0], signal.SIGSTOP)
        wait_until(lambda: is_stopped(held.pids[0]), "it stops")
        assert who_does_not_run((held, free), within_s=1.0) == [f"{held.name} (gets no CPU time)"]
        let_everybody_run((held, free))
        assert who_does_not_run((held, free)) == []


def test_percentiles_are_values_that_were_measured() -> None:
    assert [percentile([4, 1, 3, 2], part) for part in (0.0, 0.5, 0.99, 1.0)] == [1, 3, 4, 4]
