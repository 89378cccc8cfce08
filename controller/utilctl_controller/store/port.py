"""The policy store as the controller sees it: immutable snapshots in, compare-and-set writes out.

Two adapters implement it, etcd and SQLite, and pass one contract suite. Reads raise StoreUnavailableError when the
store cannot be reached; a write always ends in one of three outcomes.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from utilctl_common.errors import UnreachableError
from utilctl_common.policy import SeePolicy


class StoreUnavailableError(UnreachableError):
    """The store did not answer within its deadline. Nothing is known to have changed."""


@dataclass(frozen=True, slots=True)
class Change:
    """Who changed a policy, why and when. ``at_unix_ns`` is nanoseconds since 1970."""

    who: str
    reason: str
    at_unix_ns: int


@dataclass(frozen=True, slots=True)
class Record:
    """A stored policy. ``version`` counts the writes to this SEE from 1; ``revision`` is the store's at that write."""

    policy: SeePolicy
    version: int
    revision: int
    change: Change


@dataclass(frozen=True, slots=True)
class SwitchRecord:
    """Whether shares are ``disabled`` on the whole fleet; ``version`` and ``revision`` as in Record."""

    disabled: bool
    version: int
    revision: int
    change: Change


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Every policy at one store revision, by SEE name. Never changes; a newer state is a new object.

    ``switch`` is None as long as nobody has ever disabled the fleet.
    """

    revision: int
    records: Mapping[str, Record]
    switch: SwitchRecord | None = None


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """One change of one SEE. ``old`` is None when it was created, ``new`` when it was deleted.

    ``fleet_disabled`` is None except where it was the whole fleet that was disabled (True) or enabled (False); ``see``
    is empty and both policies are None there.
    """

    see: str
    change: Change
    old: SeePolicy | None
    new: SeePolicy | None
    revision: int
    fleet_disabled: bool | None = None


@dataclass(frozen=True, slots=True)
class Done:
    """The write is durable. ``record`` is what is stored now, None after a delete."""

    record: Record | None
    revision: int


@dataclass(frozen=True, slots=True)
class LostRace:
    """Nothing was written: the stored version is not the expected one. ``current`` is what is there (None: nothing)."""

    current: Record | None


@dataclass(frozen=True, slots=True)
class Unavailable:
    """The store did not confirm the write; it may or may not have happened. ``reason`` is one sentence."""

    reason: str


WriteOutcome = Done | LostRace | Unavailable


@dataclass(frozen=True, slots=True)
class PolicyWrite:
    """One of the writes of a commit: put ``policy``, or delete (None), if the version is the expected one."""

    see: str
    policy: SeePolicy | None
    expected_version: int


@dataclass(frozen=True, slots=True)
class Committed:
    """All writes are durable. ``records`` is what is stored now by SEE (None: deleted), ``revision`` of the last."""

    records: Mapping[str, Record | None]
    revision: int


@dataclass(frozen=True, slots=True)
class CommitLost:
    """Nothing was written: somebody else was first. ``see`` names one that is not as expected; empty: another one."""

    see: str


CommitOutcome = Committed | CommitLost | Unavailable


@dataclass(frozen=True, slots=True)
class PolicyEvent:
    """One committed change, in revision order: the SEE's record now, or None when it was deleted."""

    see: str
    record: Record | None
    revision: int


@dataclass(frozen=True, slots=True)
class SwitchEvent:
    """The fleet was disabled or enabled; in revision order with the policies' events."""

    record: SwitchRecord
    revision: int


@dataclass(frozen=True, slots=True)
class Reloaded:
    """The watch could not go on from where it was (compaction, new database): start again from this snapshot."""

    snapshot: Snapshot


@dataclass(frozen=True, slots=True)
class Seat:
    """Who leads: ``holder`` is its id, ``address`` where it serves, ``epoch`` grows with every change of leader."""

    holder: str
    address: str
    epoch: int


class PolicyStore(Protocol):
    """The port. Methods block (bounded by the adapter's deadline) and are safe to call from several threads.

    Once ``claim_seat`` was called, writes are done only while the seat is held, which is checked in their own
    transaction; otherwise they raise NotLeadingError, and nothing was written then or will be.
    """

    def snapshot(self) -> Snapshot:
        """Every policy now. Raises StoreUnavailableError."""
        ...

    def put(self, policy: SeePolicy, change: Change, expected_version: int) -> WriteOutcome:
        """Write ``policy`` and its history entry as one step if the stored version is ``expected_version``.

        ``expected_version`` 0 means that the SEE does not exist.
        """
        ...

    def delete(self, see: str, change: Change, expected_version: int) -> WriteOutcome:
        """Remove ``see`` and append to its history as one step if its version is ``expected_version`` (>= 1)."""
        ...

    def commit(self, writes: Sequence[PolicyWrite], change: Change, unchanged_since: int | None) -> CommitOutcome:
        """Do all of ``writes``, each SEE at most once, with their history entries, as one transaction; or none.

        ``unchanged_since`` (None: whatever happened) also asks that no policy was changed after that revision.
        """
        ...

    def put_switch(
        self, disabled: bool, change: Change, expected_version: int
    ) -> SwitchRecord | LostRace | Unavailable:
        """Disable or enable the fleet, with its history entry, if the switch's version is the expected one.

        ``expected_version`` 0 means that there is no switch yet. ``current`` of a LostRace is None.
        """
        ...

    def history(self, see: str | None, limit: int) -> tuple[HistoryEntry, ...]:
        """The newest ``limit`` changes of one SEE, or of all and the fleet (None), newest first.

        Raises StoreUnavailableError.
        """
        ...

    def watch(self, after_revision: int, stop: threading.Event) -> Iterator[PolicyEvent | SwitchEvent | Reloaded]:
        """Every change after ``after_revision``, each once and in order, until ``stop`` is set.

        Survives restarts and outages of the store by itself; never raises for them, waits instead.
        """
        ...

    def next_epoch(self) -> int:
        """Durably add one to the controller epoch and return it. Raises StoreUnavailableError."""
        ...

    def claim_seat(self, holder: str, address: str, ttl_ns: int) -> Seat:
        """Take the leader's seat if it is free, or prolong one's hold on it; who holds it now, oneself or another.

        It is free when it was left, or not prolonged for ``ttl_ns`` (where the store knows time). The first claim of a
        controller's life also takes it from an earlier life, which is one at the same ``address``. Taking it and the
        next epoch are one step. Raises StoreUnavailableError; the seat may have been taken all the same, and is then
        found to be one's own next time.
        """
        ...

    def leave_seat(self) -> None:
        """Give up the seat, if it is held through this object. Never raises: one that cannot be left ends by itself."""
        ...

    def close(self) -> None:
        """Release connections and files. Idempotent."""
        ...
