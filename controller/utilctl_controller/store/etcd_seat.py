"""The leader's seat on etcd: one key under a lease, taken together with the next epoch in one transaction.

The key goes with its lease: when the holder leaves, or does not prolong it for as long as the lease is. etcd counts
that time by its own clock, and begins anew when the cluster elects a leader of its own, so no clock of a controller
matters. Whoever holds the seat may have lost it without knowing: epochs, which the agents compare, keep two leaders
apart there, and a policy is written only while the seat's key is as it was when the writer took it (``fence``).
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Final

from utilctl_common.errors import FailedError
from utilctl_common.quantities import NS_PER_S
from utilctl_controller.store import etcd_values
from utilctl_controller.store.etcd_client import EtcdClient, EtcdError, EtcdUnavailableError, KeyValue
from utilctl_controller.store.port import Seat, StoreUnavailableError
from utilctl_controller.store.values import MalformedValueError, NewerSchemaError

_NEVER: Final = -1
"""A revision that no key has."""


class Epochs:
    """The epoch key."""

    def __init__(self, client: EtcdClient, keys: etcd_values.Keys, where: str, attempt_ns: int) -> None:
        """where: what people call this etcd."""
        self._client, self._keys, self._where, self._attempt_ns = client, keys, where, attempt_ns

    def read(self) -> tuple[int, str, int]:
        """The epoch (0: none yet), the database's identity, and the revision of the key (0: there is none).

        Raises EtcdError, FailedError if a newer controller keeps the database, StoreUnavailableError for one that
        cannot be read.
        """
        kv, _ = self._client.get(self._keys.epoch, self._attempt_ns)
        try:
            epoch, identity = etcd_values.decode_epoch(kv)
        except NewerSchemaError as error:
            raise FailedError(f"{self._where} {error}", hint="upgrade the controller") from None
        except MalformedValueError as error:
            raise StoreUnavailableError(
                f"{self._where} holds a malformed epoch: {error}",
                hint=f"put one never used, as {etcd_values.EPOCH_EXAMPLE}, into {self._keys.epoch}",
            ) from None
        return epoch, identity, 0 if kv is None else kv.mod_revision


class EtcdSeat:
    """One controller's claim. For one thread at a time."""

    def __init__(self, client: EtcdClient, keys: etcd_values.Keys, epochs: Epochs, attempt_ns: int) -> None:
        self._client, self._keys, self._epochs, self._attempt_ns = client, keys, epochs, attempt_ns
        self._lease = 0
        self._claimed = False
        self._held_at = _NEVER

    @property
    def fence(self) -> Mapping[str, int]:
        """What must not have changed for a write: the seat's key since it was taken; nothing if it never was claimed.

        For any thread. A key that was written again, or is gone, never comes back to that revision.
        """
        return {self._keys.seat: self._held_at} if self._claimed else {}

    def claim(self, holder: str, address: str, ttl_ns: int) -> Seat:
        """See port.PolicyStore.claim_seat. Raises EtcdError and what ``Epochs.read`` raises."""
        seat, revision = self._claim(holder, address, ttl_ns)
        if seat.holder == holder:
            self._held_at = revision  # kept when it is lost: writes that are still under way must fail
        self._claimed = True
        return seat

    def _claim(self, holder: str, address: str, ttl_ns: int) -> tuple[Seat, int]:
        """Who holds the seat, and the revision of its key."""
        if self._lease and not self._client.keep_lease(self._lease, self._attempt_ns):
            self._lease = 0
        kv, _ = self._client.get(self._keys.seat, self._attempt_ns)
        if kv is not None and (seat := _held(kv)) is not None:
            if seat.holder == holder and self._lease:
                return seat, kv.mod_revision
            # Only who has just started can know that a seat at its address is that of an earlier life; two that were
            # given the same address would take it from each other for ever.
            earlier_life = seat.address == address and not self._claimed
            if seat.holder != holder and not earlier_life:
                self.leave()  # a lease that somebody else's success has made useless
                return seat, kv.mod_revision
        return self._take(holder, address, ttl_ns, kv)

    def _take(self, holder: str, address: str, ttl_ns: int, found: KeyValue | None) -> tuple[Seat, int]:
        if not self._lease:
            self._lease = self._client.grant_lease(-(-ttl_ns // NS_PER_S), self._attempt_ns)
        epoch, identity, epoch_revision = self._epochs.read()
        seat = Seat(holder, address, epoch + 1)
        revision = 0 if found is None else found.mod_revision
        puts = {
            self._keys.seat: etcd_values.encode_seat(seat),
            self._keys.epoch: etcd_values.encode_epoch(seat.epoch, identity),
        }
        result = self._client.write_if(
            {self._keys.seat: revision, self._keys.epoch: epoch_revision},
            puts,
            (),
            (self._keys.seat,),
            self._attempt_ns,
            leases={self._keys.seat: self._lease},
        )
        if result.succeeded:
            return seat, result.revision
        there = result.found[0]
        if there is None or (other := _held(there)) is None:
            raise EtcdUnavailableError("others keep claiming the seat")
        # If it is our own, by an attempt whose answer got lost, its lease is still ours.
        return other, there.mod_revision

    def moved_to(self, found: KeyValue | None) -> str | None:
        """Where the leader is, by what a fenced write that failed has ``found`` in place of the seat taken here.

        Empty: none is known. None: the seat is as it was, so something else made the write fail.
        """
        if not self._claimed or (found is not None and found.mod_revision == self._held_at):
            return None
        seat = None if found is None else _held(found)
        return "" if seat is None else seat.address

    def leave(self) -> None:
        """See port.PolicyStore.leave_seat."""
        lease, self._lease = self._lease, 0
        if lease:
            with contextlib.suppress(EtcdError):
                self._client.revoke_lease(lease, self._attempt_ns)


def _held(kv: KeyValue) -> Seat | None:
    """Who holds the seat; what cannot be read counts as held by nobody, so that it is replaced."""
    try:
        return etcd_values.decode_seat(kv)
    except MalformedValueError:
        return None
