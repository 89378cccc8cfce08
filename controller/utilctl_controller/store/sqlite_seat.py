"""The leader's seat beside a SQLite file: a lock that the kernel takes back from a process that dies.

All controllers of a SQLite store run on one machine, so the lock of a file decides who leads. The file also says who
that is, for the others.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Callable
from pathlib import Path

from utilctl_common.errors import NotLeadingError
from utilctl_controller.store.port import Seat, StoreUnavailableError

_LONGEST = 4096


class SqliteSeat:
    """One controller's claim. For one thread at a time."""

    def __init__(self, store: Path, next_epoch: Callable[[], int]) -> None:
        """store: the database's file. next_epoch: takes one durably."""
        self._path = store.with_name(store.name + "-seat")
        self._next_epoch = next_epoch
        self._fd = -1
        self._seat: Seat | None = None
        self._claimed = False
        self._superseded = False

    def check(self, epoch: int) -> None:
        """Raise NotLeadingError if the seat was claimed here and is not held, as far as ``epoch``, the store's, says.

        For any thread. A later epoch than the seat's was taken by somebody who does not know of the lock, as after the
        file of the lock was deleted; the next claim then takes a later one still, or finds the seat taken.
        """
        seat = self._seat
        if self._claimed and (seat is None or seat.epoch != epoch):
            self._superseded = seat is not None
            raise NotLeadingError("")

    def claim(self, holder: str, address: str) -> Seat:
        """See port.PolicyStore.claim_seat. Raises StoreUnavailableError."""
        seat = self._claim(holder, address)
        self._claimed = True
        return seat

    def _claim(self, holder: str, address: str) -> Seat:
        if self._superseded:
            self.leave()
            self._superseded = False
        if self._seat is not None:
            if self._seat == (wanted := Seat(holder, address, self._seat.epoch)):
                return wanted
            self.leave()
        try:
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StoreUnavailableError(
                f"the seat {self._path} cannot be opened: {error.strerror}", hint="check the permissions there"
            ) from None
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return _read(fd, self._path)
            seat = Seat(holder, address, self._next_epoch())
            os.ftruncate(fd, 0)
            os.pwrite(fd, json.dumps({"holder": holder, "address": address, "epoch": seat.epoch}).encode(), 0)
            self._fd, self._seat, fd = fd, seat, -1
        except OSError as error:
            raise StoreUnavailableError(f"the seat {self._path} cannot be taken: {error.strerror}") from None
        else:
            return seat
        finally:
            if fd >= 0:
                os.close(fd)

    def leave(self) -> None:
        """See port.PolicyStore.leave_seat."""
        self._seat = None
        if self._fd >= 0:
            with contextlib.suppress(OSError):
                os.close(self._fd)
            self._fd = -1


def _read(fd: int, path: Path) -> Seat:
    """Who holds the lock. Raises StoreUnavailableError while that is being written."""
    try:
        data = json.loads(os.pread(fd, _LONGEST, 0))
        return Seat(str(data["holder"]), str(data["address"]), int(data["epoch"]))
    except (OSError, ValueError, TypeError, KeyError):
        raise StoreUnavailableError(f"the seat {path} is being taken", hint="try again") from None
