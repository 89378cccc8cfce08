"""A stand-in for the loop that does what the real one must never do: it pauses a process and never resumes it.

``python -m support.stuck_loop GUARD-ARGUMENTS`` runs the real guard with this as its loop. What it pauses is named
by the environment: STUCK_PID, and STUCK_START_TICKS for its start time.
"""

from __future__ import annotations

import os
import signal
import sys
import time

from utilctl_agent.safety import guard
from utilctl_agent.safety.journal import Journal


def pause_and_go_on_beating(journal_path: str) -> None:
    """Hold a process, keep the heart beating, ignore SIGTERM."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    journal = Journal.open(journal_path)
    pid = int(os.environ["STUCK_PID"])
    slot = journal.enter_process(pid, int(os.environ["STUCK_START_TICKS"]))
    journal.begin(slot, time.monotonic_ns())
    os.kill(pid, signal.SIGSTOP)
    while True:
        journal.beat(time.monotonic_ns())
        time.sleep(0.01)


if __name__ == "__main__":
    if os.environ.get("STUCK_ROLE") == "loop":
        pause_and_go_on_beating(sys.argv[4])
    real_child = guard._Child
    os.environ["STUCK_ROLE"] = "loop"

    class _StuckChild(real_child):
        def __init__(self, _module: str, arguments: list[str]) -> None:
            super().__init__("support.stuck_loop", arguments)

    guard._Child = _StuckChild  # type: ignore[misc, assignment]  # the one thing that is replaced
    sys.exit(guard.main(sys.argv[1:]))
