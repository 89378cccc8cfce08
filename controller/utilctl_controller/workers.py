"""Threads for calls that block (the store, a long allocation), so that the event loop never does.

Daemon threads and not an executor: an executor is joined at interpreter exit, and a store that hangs would
then hold up a stopping controller for as long as its deadline.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class DaemonWorkers:
    """A few daemon threads that run blocking calls for one event loop."""

    def __init__(self, name: str, threads: int) -> None:
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._work, name=f"{name}-{number}", daemon=True) for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call ``function`` in a worker and return what it returns, or raise what it raises.

        A caller that is cancelled stops waiting; the call itself goes on to its end.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def settle(result: T | None, error: BaseException | None) -> None:
            if future.cancelled():
                return
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(result)  # type: ignore[arg-type] # without an error there is a result

        def job() -> None:
            result: T | None = None
            failure: BaseException | None = None
            try:
                result = function(*args, **kwargs)
            except BaseException as error:  # noqa: BLE001 - handed on to the caller, whatever it is
                failure = error
            if not loop.is_closed():
                try:
                    loop.call_soon_threadsafe(settle, result, failure)
                except RuntimeError:
                    return  # the loop closed in between: nobody waits any more

        self._jobs.put(job)
        return await future

    def close(self) -> None:
        """Let the threads end after what they are doing; waits for nothing."""
        for _ in self._threads:
            self._jobs.put(None)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()
