"""Scheduling class of those who undo pauses: above the loop, so that one that spins cannot keep them from running."""

from __future__ import annotations

import os

FIFO_PRIORITY = 11
"""One above the loop (host.scheduling)."""


def promote() -> None:
    """Give the calling thread SCHED_FIFO, not inherited by its children, if that is permitted."""
    try:
        policy = os.SCHED_FIFO | os.SCHED_RESET_ON_FORK
        os.sched_setscheduler(0, policy, os.sched_param(FIFO_PRIORITY))
    except OSError:
        return  # unprivileged: it sleeps nearly always, which the fair class rewards by prompt wake-ups
