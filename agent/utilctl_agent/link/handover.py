"""One agent at a time manages a scope: a new one waits for those that started before it, or asks them to stop.

Who comes later yields, so that two who start at the same instant agree on who goes first. A guard that is asked stops
by itself and resumes everything first; one that does not is killed, which makes its loop do the same, and what its
journal still names is undone. Nothing is ever paused by two.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Awaitable, Callable
from typing import Final

from utilctl_agent.host.procstat import identify
from utilctl_agent.link.waiting import readable
from utilctl_agent.safety.owners import Owner, living_owners, name_in
from utilctl_agent.safety.thaw import thaw_run_dir

_LOG = logging.getLogger(__name__)

PATIENCE_S: Final = 5.0
"""What a guard gets to stop by itself. It takes a tenth of that, unless it hangs."""
LOOK_AGAIN_S: Final = 1.0
"""How often is looked for the end of one whose pid cannot be used: it runs in another pid namespace."""


async def succeed(journal: str, *, take_over: bool, ready: Callable[[], Awaitable[None]]) -> None:
    """Return once no agent that started before ours manages the same scope.

    journal: the path of our guard's. take_over: ask the others to stop, once ``ready`` has returned.
    """
    run_dir, name = journal.rpartition("/")[0], name_in(journal)
    told = False
    while elders := _elders(run_dir, name, journal):
        if not told:
            told = True
            pids = ", ".join(str(elder.pid) for elder in elders)
            next_step = "it will be asked to stop" if take_over else "waiting for its end; --take-over would end it"
            _LOG.warning("an agent manages this scope already (pid %s); %s", pids, next_step)
        if take_over:
            await ready()
        for elder in elders:
            pidfd = _open(elder, run_dir, name)
            if pidfd is None:
                await asyncio.sleep(LOOK_AGAIN_S)
                continue
            try:
                if not take_over:
                    await readable(pidfd)
                    continue
                await _stop(elder.pid, pidfd)
            finally:
                os.close(pidfd)
            for failure in thaw_run_dir(run_dir, only_orphans=True).failures:
                _LOG.error("%s", failure)
    if told:
        _LOG.warning("this agent manages the scope now")


def _elders(run_dir: str, name: str, journal: str) -> list[Owner]:
    """The living owners that started before ours. One whose start is not known counts as older."""
    owners = living_owners(run_dir, name)
    ours = next((_started(owner) for owner in owners if owner.journal == journal), (0, 0))
    return [owner for owner in owners if owner.journal != journal and _started(owner) < ours]


def _started(owner: Owner) -> tuple[int, int]:
    process = identify(owner.pid) if owner.reachable else None
    return (process.start_ticks, process.pid) if process is not None else (0, 0)


def _open(owner: Owner, run_dir: str, name: str) -> int | None:
    """A pidfd of that guard; None if it cannot be told from other processes, or has just ended."""
    if not owner.reachable:
        return None
    try:
        pidfd = os.pidfd_open(owner.pid)
    except ProcessLookupError:
        return None
    # Looked up again: if it still owns its journal, the pid was not given to another process meanwhile.
    if owner in living_owners(run_dir, name):
        return pidfd
    os.close(pidfd)
    return None


async def _stop(pid: int, pidfd: int) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            signal.pidfd_send_signal(pidfd, number)
            signal.pidfd_send_signal(pidfd, signal.SIGCONT)  # somebody may have stopped it
        except ProcessLookupError:
            return
        if await readable(pidfd, PATIENCE_S):
            return
        _LOG.error("the agent with pid %d does not end by %s", pid, number.name)
