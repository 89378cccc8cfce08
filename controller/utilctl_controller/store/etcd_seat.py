"""The leader's seat on etcd: one key under a lease, taken together with the next epoch in one transaction.

The key goes with its lease: when the holder leaves, or does not prolong it for as long as the lease is. etcd counts
that time by its own clock, and begins anew when the cluster elects a leader of its own, so no clock of a controller
matters. Whoever holds the seat may have lost it without knowing; epochs, which the agents compare, are what keeps two
leaders apart, and every write of a policy is a compare-and-set of its own.
"""

from __future__ import annotations

import contextlib

from utilctl_common.errors import FailedError
from utilctl_common.quantities import NS_PER_S
from utilctl_controller.store import etcd_values
from utilctl_controller.store.etcd_client import EtcdClient, EtcdError, EtcdUnavailableError, KeyValue
from utilctl_controller.store.port import Seat, StoreUnavailableError
from utilctl_controller.store.values import MalformedValueError, NewerSchemaError


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

    def claim(self, holder: str, address: str, ttl_ns: int) -> Seat:
        """See port.PolicyStore.claim_seat. Raises EtcdError and what ``Epochs.read`` raises."""
        if self._lease and not self._client.keep_lease(self._lease, self._attempt_ns):
            self._lease = 0
        kv, _ = self._client.get(self._keys.seat, self._attempt_ns)
        seat = _held(kv)
        if seat is not None:
            if seat.holder == holder and self._lease:
                return seat
            if seat.holder != holder and seat.address != address:
                self.leave()  # a lease that somebody else's success has made useless
                return seat
        return self._take(holder, address, ttl_ns, kv)

    def _take(self, holder: str, address: str, ttl_ns: int, found: KeyValue | None) -> Seat:
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
            return seat
        other = _held(result.found[0])
        if other is None:
            raise EtcdUnavailableError("others keep claiming the seat")
        return other  # if it is our own, by an attempt whose answer got lost, its lease is still ours

    def leave(self) -> None:
        """See port.PolicyStore.leave_seat."""
        lease, self._lease = self._lease, 0
        if lease:
            with contextlib.suppress(EtcdError):
                self._client.revoke_lease(lease, self._attempt_ns)


def _held(kv: KeyValue | None) -> Seat | None:
    """Who holds the seat; what cannot be read counts as held by nobody, so that it is replaced."""
    if kv is None:
        return None
    try:
        return etcd_values.decode_seat(kv)
    except MalformedValueError:
        return None
