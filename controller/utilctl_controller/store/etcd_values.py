"""Keys and values of the etcd adapter; ``etcd.py`` says what they mean."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Final

from utilctl_controller.store import values
from utilctl_controller.store.etcd_client import KeyValue
from utilctl_controller.store.port import Change, HistoryEntry, Record, Seat, SwitchRecord
from utilctl_controller.store.values import (
    STORE_SCHEMA_VERSION,
    MalformedValueError,
    NewerSchemaError,
    StoredValue,
)

EPOCH_EXAMPLE: Final = '{"epoch":8}'
"""The least that an epoch key must hold."""


@dataclass(frozen=True, slots=True)
class Keys:
    """Key names under one prefix, which ends with a slash."""

    prefix: str

    @property
    def all_sees(self) -> str:
        """Prefix of the keys that hold an SEE each, or the fleet's switch."""
        return f"{self.prefix}see/"

    @property
    def all_history(self) -> str:
        """Prefix of the keys that hold a change each."""
        return f"{self.prefix}history/"

    @property
    def epoch(self) -> str:
        """The key of the controller epoch."""
        return f"{self.prefix}epoch"

    @property
    def seat(self) -> str:
        """The key of the leader's seat."""
        return f"{self.prefix}seat"

    def see(self, see: str) -> str:
        """The key of one SEE, or of the fleet's switch (values.FLEET_KEY)."""
        return self.all_sees + see

    def see_of(self, key: str) -> str:
        """The reverse of ``see``."""
        return key.removeprefix(self.all_sees)

    def history_of(self, see: str) -> str:
        """Prefix of one SEE's changes. Commas stand for slashes, so that it is no prefix of a child's."""
        return f"{self.all_history}{see.replace('/', ',')}/"


def encode_record(value: StoredValue, change: Change, version: int, write_id: str) -> bytes:
    """What an SEE's key, or the switch's, holds."""
    return values.pack(
        values.encode(
            {
                "policy": value.to_json(),
                "version": version,
                "change": values.change_to_json(change),
                "write": write_id,
            }
        )
    )


def decode_record(kv: KeyValue, see: str) -> Record | SwitchRecord:
    """The record in a key. Raises MalformedValueError."""
    if not values.is_key(see):
        raise MalformedValueError("the key is not a service name")
    data = values.decode(values.unpack(kv.value))
    value = values.value_of(data.get("policy"), see)
    return values.record_of(value, kv.version, kv.mod_revision, values.change_of(data.get("change")))


def encode_history(see: str, old: StoredValue | None, new: StoredValue | None, change: Change, version: int) -> bytes:
    """A change's value. ``version`` is the SEE's after it."""
    return values.pack(
        values.encode(
            {
                "see": see,
                "old": None if old is None else old.to_json(),
                "new": None if new is None else new.to_json(),
                "change": values.change_to_json(change),
                "version": version,
            }
        )
    )


def decode_history(kv: KeyValue) -> HistoryEntry:
    """A change. Raises MalformedValueError."""
    data = values.decode(values.unpack(kv.value))
    see = data.get("see")
    if not isinstance(see, str) or not values.is_key(see):
        raise MalformedValueError("it names no service")
    return values.history_entry(
        see,
        values.change_of(data.get("change")),
        values.optional_value_of(data.get("old"), see),
        values.optional_value_of(data.get("new"), see),
        kv.create_revision,
    )


def encode_epoch(epoch: int, identity: str) -> bytes:
    """The epoch key's value. ``write`` makes every value unique."""
    return values.pack(
        values.encode({"epoch": epoch, "store": identity, "schema": STORE_SCHEMA_VERSION, "write": uuid.uuid4().hex})
    )


def decode_epoch(kv: KeyValue | None) -> tuple[int, str]:
    """The epoch (0 if there is none yet) and the database's identity (new if none).

    Raises MalformedValueError; NewerSchemaError if a newer controller keeps what is there. Schema 1 had no number.
    """
    if kv is None:
        return 0, uuid.uuid4().hex
    data = values.decode(values.unpack(kv.value))
    epoch, identity, schema = data.get("epoch"), data.get("store"), data.get("schema", 1)
    if isinstance(schema, int) and schema > STORE_SCHEMA_VERSION:
        raise NewerSchemaError(f"has schema {schema}, this program knows {STORE_SCHEMA_VERSION}")
    if not isinstance(epoch, int) or isinstance(epoch, bool) or epoch < 0:
        raise MalformedValueError("it is not a count")
    return epoch, identity if isinstance(identity, str) else uuid.uuid4().hex


def encode_seat(seat: Seat) -> bytes:
    """What the seat's key holds."""
    return values.encode({"holder": seat.holder, "address": seat.address, "epoch": seat.epoch}).encode()


def decode_seat(kv: KeyValue) -> Seat:
    """Who holds the seat. Raises MalformedValueError."""
    data = values.decode(kv.value.decode("utf-8", "replace"))
    holder, address, epoch = data.get("holder"), data.get("address"), data.get("epoch")
    if not (isinstance(holder, str) and isinstance(address, str) and isinstance(epoch, int)):
        raise MalformedValueError("it names no holder")
    return Seat(holder, address, epoch)


def identity_of(kv: KeyValue) -> str | None:
    """The database's identity in the epoch key, None if it holds none that can be read."""
    try:
        identity = values.decode(values.unpack(kv.value)).get("store")
    except MalformedValueError:
        return None
    return identity if isinstance(identity, str) else None
