"""Waiting for a file descriptor in an event loop, without a thread and without polling."""

from __future__ import annotations

import asyncio


async def readable(fd: int, timeout_s: float | None = None) -> bool:
    """Return once ``fd`` is readable, as a timer is that has expired or a pidfd whose process has ended.

    False after ``timeout_s`` without that.
    """
    events = asyncio.get_running_loop()
    done: asyncio.Future[None] = events.create_future()

    def note() -> None:
        events.remove_reader(fd)
        if not done.done():
            done.set_result(None)

    events.add_reader(fd, note)
    try:
        await asyncio.wait_for(done, timeout_s)
    except TimeoutError:
        return False
    finally:
        events.remove_reader(fd)
    return True
