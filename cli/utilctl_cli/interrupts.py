"""For commands that start processes: being told to end is like Ctrl-C, so that they clean up behind themselves."""

from __future__ import annotations

import signal
import sys
from typing import NoReturn


def end_as_after_ctrl_c() -> None:
    """Let SIGTERM and a closed terminal unwind the command, with exit code 128 + signal, where they would kill it.

    What is ignored (nohup) stays ignored. Call it from the main thread.
    """
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _end)


def _end(number: int, _frame: object) -> NoReturn:
    for other in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(other, signal.SIG_IGN)  # once is enough: a second one must not cut the clean-up short
    sys.exit(128 + number)
