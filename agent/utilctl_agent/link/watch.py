"""Keeps the membership fresh: waits for what its cadence says is due, or for events, and tells of what changed."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import select
import time
from collections.abc import Callable

from utilctl_agent.discovery.cadence import GATHER_NS
from utilctl_agent.link.membership import MembershipScanner
from utilctl_common.errors import UtilctlError
from utilctl_common.policy import SeePolicy
from utilctl_common.quantities import NS_PER_S

_LOG = logging.getLogger(__name__)


class MembershipWatch:
    """``policies`` are asked for before every look; None: there is nothing to match yet. ``on_change`` is called after
    every scan, and after every other look that found something new.
    """

    def __init__(
        self,
        scanner: MembershipScanner,
        policies: Callable[[], tuple[SeePolicy, ...] | None],
        on_change: Callable[[], None],
    ) -> None:
        self._scanner = scanner
        self._policies = policies
        self._on_change = on_change
        self._rescan = False
        self._woken = asyncio.Event()

    def rescan(self) -> None:
        """Look at everything as soon as possible."""
        self._rescan = True
        self._woken.set()

    async def run(self) -> None:
        """Runs until cancelled."""
        try:
            while True:
                await self._wait()
                await self._look()
        finally:
            self._scanner.close()

    async def _look(self) -> None:
        cadence = self._scanner.cadence
        policies = self._policies()
        if policies is None:
            self._rescan = False
            # Events that nobody needs are taken all the same, with the first scan.
            cadence.scanned(time.monotonic_ns(), 0)
            return
        scan = self._rescan or time.monotonic_ns() >= cadence.next_scan_ns
        self._rescan = False
        try:
            if scan:
                await asyncio.to_thread(self._scanner.scan, policies)
            elif not await asyncio.to_thread(self._scanner.look):
                return
        except UtilctlError as error:
            _LOG.warning("processes cannot be matched: %s", error)
            cadence.scanned(time.monotonic_ns(), 0)
        self._on_change()

    async def _wait(self) -> None:
        """Return when a look is due. Events that come before one may be are not even looked for: they gather."""
        cadence, fd = self._scanner.cadence, self._scanner.fileno()
        if self._policies() is None:
            await self._sleep_until(cadence.next_scan_ns)
            return
        await self._sleep_until(min(cadence.next_look_ns, cadence.next_scan_ns))
        if fd is None or self._rescan or time.monotonic_ns() >= cadence.next_ns:
            return
        if select.select([fd], [], [], 0)[0]:
            return
        events = asyncio.get_running_loop()
        events.add_reader(fd, self._stir, fd)
        try:
            stirred = await self._sleep_until(cadence.next_ns)
        finally:
            events.remove_reader(fd)
        if stirred:
            # The first after a quiet time: what it brings in its wake is worth waiting for.
            await self._sleep_until(time.monotonic_ns() + GATHER_NS)

    def _stir(self, fd: int) -> None:
        asyncio.get_running_loop().remove_reader(fd)
        self._woken.set()

    async def _sleep_until(self, instant_ns: int) -> bool:
        """Sleep until then, or until woken: then True."""
        wait_s = (instant_ns - time.monotonic_ns()) / NS_PER_S
        if self._rescan or wait_s <= 0:
            return False
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s):  # wait_for of Python 3.11 may lose a cancellation
                await self._woken.wait()
        woken = self._woken.is_set()
        self._woken.clear()
        return woken
