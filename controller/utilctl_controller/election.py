"""Which of several controllers leads: a claim on the store's seat, repeated for ever.

The one that holds the seat leads. It goes on leading while the store is away, on what it knows, for nobody else can
take the seat then either; where only this controller is cut off from the store, another one leads by the next epoch,
which the agents prefer once they hear of it. So a leader that could not confirm its seat for a while tells its agents
to look around (``Office.doubt``).
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Final, Protocol

from utilctl_common.errors import UtilctlError
from utilctl_controller.store.port import PolicyStore, Seat, StoreUnavailableError
from utilctl_controller.workers import DaemonWorkers

_LOG = logging.getLogger(__name__)

CLAIMS_PER_TTL: Final = 6
"""Claims in the time after which an unprolonged seat is free: most may fail, or a store be that slow. A leader is
replaced at most a lease, etcd's half second between looks at its leases, and a pause between claims after it died.
"""

LEAVE_S: Final = 1.0
"""How long leaving the seat may take; a store that is away frees it by itself. Arbitrary."""


class Office(Protocol):
    """What changes with the leader. Called on the event loop, never two at a time."""

    async def lead(self, epoch: int) -> None:
        """Begin to lead."""
        ...

    async def follow(self, leader: str) -> None:
        """Stop leading if one did; ``leader`` is the address to send everybody to, empty if nobody is known to lead."""
        ...

    async def doubt(self) -> None:
        """Leading, but the seat could not be confirmed for a while: somebody else may lead by now."""
        ...


class Elector:
    """Claims the seat for one controller."""

    def __init__(self, store: PolicyStore, office: Office, holder: str, *, ttl_ns: int, doubt_ns: int) -> None:
        """holder: this controller's id. doubt_ns: unconfirmed for so long, and again after it, there is doubt."""
        self._store = store
        self._office = office
        self._holder = holder
        self._address = ""
        self._ttl_ns = ttl_ns
        self._doubt_ns = doubt_ns
        # A thread of its own: claims must not wait behind writes.
        self._workers = DaemonWorkers("seat", 1)
        self._task: asyncio.Task[None] | None = None
        self._confirmed_ns = 0
        self._doubted_ns = 0
        self.seat: Seat | None = None
        """Who was last seen to hold the seat."""

    @property
    def leading(self) -> bool:
        """Whether this controller leads, as far as it knows."""
        return self.seat is not None and self.seat.holder == self._holder

    async def start(self, address: str) -> None:
        """Claim once and take up the office that results, then go on claiming. address: where this controller serves.

        Raises StoreUnavailableError, and FailedError if a newer controller keeps the store.
        """
        self._address = address
        await self._claim()
        self._task = asyncio.create_task(self._claim_forever(), name="claim")

    async def stop(self) -> None:
        """Leave the seat, so that another controller need not wait for it. Idempotent."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
            leaving = asyncio.create_task(self._workers.run(self._store.leave_seat))
            await asyncio.wait({leaving}, timeout=LEAVE_S)
            leaving.cancel()
        self._workers.close()

    async def _claim_forever(self) -> None:
        failing = False
        while True:
            await asyncio.sleep(self._ttl_ns / CLAIMS_PER_TTL / 1e9)
            try:
                await self._claim()
                failing = False
            except Exception as error:  # noqa: BLE001 - nothing may end the claims; the next one tries again
                if not failing and not isinstance(error, StoreUnavailableError):
                    _LOG.error("claiming the seat failed: %s", error, exc_info=not isinstance(error, UtilctlError))
                failing = True
                await self._unconfirmed()

    async def _claim(self) -> None:
        begun_ns = time.monotonic_ns()
        seat = await self._workers.run(self._store.claim_seat, self._holder, self._address, self._ttl_ns)
        self._confirmed_ns = self._doubted_ns = begun_ns
        if seat == self.seat:
            return
        if seat.holder == self._holder:
            _LOG.info("leading, epoch %d", seat.epoch)
            await self._office.lead(seat.epoch)
        else:
            _LOG.info("following %s, which leads with epoch %d", seat.address, seat.epoch)
            await self._office.follow(seat.address)
        self.seat = seat  # only now: what fails is tried again

    async def _unconfirmed(self) -> None:
        now_ns = time.monotonic_ns()
        if self.leading:
            if now_ns - self._doubted_ns >= self._doubt_ns:
                self._doubted_ns = now_ns
                await self._office.doubt()
        elif self.seat is not None and now_ns - self._confirmed_ns >= 2 * self._ttl_ns:
            self.seat = None  # whom it would send everybody to may be gone for long
            await self._office.follow("")
