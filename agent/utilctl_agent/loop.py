"""The scheduler loop: a process of its own that imports no gRPC and no telemetry.

Started by the guard with a control socket; told by it what to control (module ``orders``), it wakes, steps the engine
and sleeps again. It ends, with everything resumed, when it is told to, on SIGTERM, when the control socket closes, or
when the guard dies.
"""

from __future__ import annotations

import ctypes
import gc
import os
import select
import signal
import sys
import time
from typing import Final

from utilctl_agent.channel import Channel, ChannelClosedError, Message
from utilctl_agent.control import Loop
from utilctl_agent.host.alarm import Alarm
from utilctl_agent.host.clock import sharpen_timers
from utilctl_agent.host.descriptors import raise_limit
from utilctl_agent.host.memory import lock_memory
from utilctl_agent.host.procstat import identify
from utilctl_agent.host.scheduling import promote
from utilctl_agent.orders import (
    LoopSettings,
)
from utilctl_agent.safety.journal import Journal
from utilctl_common.quantities import NS_PER_S

_PR_SET_PDEATHSIG: Final = 1


def _settle_in(cpus: tuple[int, ...]) -> str:
    """Get the process ready for precise work; returns its scheduling class."""
    os.sched_setaffinity(0, cpus)
    sharpen_timers()
    raise_limit()
    lock_memory()
    loop_class = promote()
    gc.collect()
    gc.freeze()
    gc.disable()
    return loop_class


def run(channel: Channel, journal: Journal, guard_fd: int) -> int:
    """Run until told to stop; returns the exit status. ``guard_fd`` becomes readable when the guard is gone."""
    first = _await_settings(channel, journal, guard_fd)
    if first is None:
        return 0
    settings, orders = first
    loop = Loop(settings, channel, journal, _settle_in(settings.cpus))

    def on_term(_number: int, _frame: object) -> None:
        loop.stopping = True

    # A signal alone does not end a wait (PEP 475), a byte in a pipe does.
    stop_read, stop_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(stop_write, warn_on_full_buffer=False)
    signal.signal(signal.SIGTERM, on_term)
    signal.signal(signal.SIGINT, on_term)
    ourselves = identify(os.getpid())
    assert ourselves is not None
    channel.send({"op": "ready", "pid": ourselves.pid, "start_ticks": ourselves.start_ticks})
    inputs = [channel.fileno(), guard_fd, stop_read]
    now_ns = time.monotonic_ns()
    try:
        for message in orders:
            loop.obey(message, now_ns)
        while not loop.stopping:
            wake_ns = loop.wake(now_ns)
            while not loop.stopping:
                now_ns = time.monotonic_ns()
                if now_ns >= wake_ns:
                    planned_ns = loop.switch(now_ns, now_ns - wake_ns)
                    if planned_ns is not None:
                        wake_ns = planned_ns
                        continue
                    loop.late(now_ns - wake_ns)
                    break
                readable, _, _ = select.select(inputs, [], [], (wake_ns - now_ns) / NS_PER_S)
                if not readable:
                    continue
                if guard_fd in readable:
                    return 1
                if inputs[0] in readable:
                    now_ns = time.monotonic_ns()
                    for message in channel.receive():
                        loop.obey(message, now_ns)
                    break
            if channel.backlogged:
                channel.flush()
    except ChannelClosedError:
        return 0
    finally:
        loop.close(time.monotonic_ns())
    return 0


def _await_settings(channel: Channel, journal: Journal, guard_fd: int) -> tuple[LoopSettings, list[Message]] | None:
    """The settings and the orders that came with them; None if nobody is left to send any."""
    while True:
        journal.beat(time.monotonic_ns())
        readable, _, _ = select.select([channel.fileno(), guard_fd], [], [], 1.0)
        if guard_fd in readable:
            return None
        try:
            messages = channel.receive() if channel.fileno() in readable else []
        except ChannelClosedError:
            return None
        for index, message in enumerate(messages):
            if message.get("op") == "settings":
                return LoopSettings.from_json(message["settings"]), messages[index + 1 :]


def main() -> int:
    """``python -m utilctl_agent.loop CONTROL_FD GUARD_FD ALARM_FD JOURNAL``; started by the guard only."""
    control_fd, guard_fd, alarm_fd, journal_path = *map(int, sys.argv[1:4]), sys.argv[4]
    # A second way to learn of the guard's death beside guard_fd; SIGTERM resumes everything.
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(0))
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    journal = Journal.open(journal_path)
    journal.keep_silent(Alarm(alarm_fd).put_off)
    try:
        return run(Channel.from_fd(control_fd), journal, guard_fd)
    finally:
        journal.close()


if __name__ == "__main__":
    raise SystemExit(main())
