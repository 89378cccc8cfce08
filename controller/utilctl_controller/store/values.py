"""How policies, changes and history entries look at rest, shared by both adapters.

Everything is ASCII JSON, so that any text survives any store and an operator can read it with the store's own
tool. What cannot be read back is never turned into "nothing": decoding raises MalformedValueError, and the
adapters fall back on the last good record, keep the sentence in ``problems`` and log it once.
"""

from __future__ import annotations

import json
import logging
import lzma
import threading
from dataclasses import dataclass
from typing import Any, Final

from utilctl_common.errors import UsageError
from utilctl_common.names import parse_see_name
from utilctl_common.policy import SCHEMA_VERSION, SeePolicy, policy_from_json
from utilctl_controller.store.port import Change, HistoryEntry, Record, SwitchRecord

_log = logging.getLogger(__name__)

STORE_SCHEMA_VERSION: Final = 2
"""Version of what a store holds as a whole: 2 added holds and the fleet's switch. A store with a higher one is refused;
one with a lower one is taken over when a controller takes its epoch, which keeps older controllers away."""

FLEET_KEY: Final = "*"
"""Where a service's name would stand, for the fleet's switch. No service can be called so."""

COMPRESS_ABOVE_BYTES: Final = 32 * 1024
"""Larger values are packed by ``pack``. Arbitrary: policies that people write by hand stay readable in the
store.
"""

MAX_UNPACKED_BYTES: Final = 64 * 1024 * 1024
"""Largest value that ``unpack`` returns; a guard against a hostile or damaged value filling the memory."""

_XZ_MAGIC: Final = b"\xfd7zXZ\x00"
_XZ_FILTERS: Final = ({"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 8 * 1024 * 1024},)
"""The fastest preset (10 MB/s), with a dictionary that spans both policies of a history entry, so that the second
one costs next to nothing."""


class MalformedValueError(Exception):
    """A stored value cannot be read back; ``str(error)`` is one sentence."""


class NewerSchemaError(MalformedValueError):
    """The value was written by a newer program. It is good, only not for this reader: never overwrite it."""


def encode(value: dict[str, Any]) -> str:
    """One line of ASCII JSON. Lone surrogates and control characters come back as they were."""
    return json.dumps(value, ensure_ascii=True, separators=(",", ":"), allow_nan=False)


def decode(text: str | bytes) -> dict[str, Any]:
    """The reverse of ``encode``. Raises MalformedValueError if it is not one JSON object."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise MalformedValueError(f"not JSON: {error}") from None
    if not isinstance(value, dict):
        raise MalformedValueError("not a JSON object")
    return value


def pack(text: str) -> bytes:
    """``text`` as bytes, xz-compressed if large: etcd takes 1.5 MiB a request, and a request holds a policy
    thrice.
    """
    raw = text.encode("ascii")
    return raw if len(raw) <= COMPRESS_ABOVE_BYTES else lzma.compress(raw, filters=_XZ_FILTERS)


def unpack(data: bytes) -> bytes:
    """The reverse of ``pack``. Raises MalformedValueError for damaged or oversized data."""
    if not data.startswith(_XZ_MAGIC):
        return data
    try:
        unpacker = lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=MAX_UNPACKED_BYTES)
        raw = unpacker.decompress(data, max_length=MAX_UNPACKED_BYTES)
    except lzma.LZMAError as error:
        raise MalformedValueError(f"damaged xz data: {error}") from None
    if not unpacker.eof:
        raise MalformedValueError(f"truncated xz data, or more than {MAX_UNPACKED_BYTES} bytes")
    return raw


@dataclass(frozen=True, slots=True)
class FleetSwitch:
    """The value kept under FLEET_KEY."""

    disabled: bool

    def to_json(self) -> dict[str, Any]:
        """The stored form."""
        return {"schema": 1, "name": FLEET_KEY, "disabled": self.disabled}


StoredValue = SeePolicy | FleetSwitch
"""What a key of the store holds."""


def is_key(key: str) -> bool:
    """Whether ``key`` may hold something: a service's name, or FLEET_KEY."""
    if key == FLEET_KEY:
        return True
    try:
        parse_see_name(str(key))  # a damaged row may hold anything
    except UsageError:
        return False
    return True


def value_of(data: Any, key: str) -> StoredValue:  # noqa: ANN401 - decoded JSON, checked here
    """The policy or the switch in decoded JSON. Raises MalformedValueError (or NewerSchemaError) unless it is that of
    ``key``.
    """
    if not is_key(key):
        raise MalformedValueError("the key is not a service name")
    if key != FLEET_KEY:
        return policy_of(data, key)
    match data:
        case {"schema": 1, "name": "*", "disabled": bool(disabled)}:
            return FleetSwitch(disabled)
        case {"schema": int(schema)} if schema > 1:
            raise NewerSchemaError(f"written by a newer controller: schema {schema}, known is 1; upgrade this one")
        case _:
            raise MalformedValueError("it is not the fleet's switch")


def optional_value_of(data: Any, key: str) -> StoredValue | None:  # noqa: ANN401 - decoded JSON, checked here
    """As ``value_of``, with null meaning that there was none."""
    return None if data is None else value_of(data, key)


def record_of(value: StoredValue, version: int, revision: int, change: Change) -> Record | SwitchRecord:
    """What is said of ``value`` as it is stored."""
    if isinstance(value, FleetSwitch):
        return SwitchRecord(value.disabled, version, revision, change)
    return Record(value, version, revision, change)


def value_in(record: Record | SwitchRecord | None) -> StoredValue | None:
    """The reverse of ``record_of``."""
    if isinstance(record, SwitchRecord):
        return FleetSwitch(record.disabled)
    return None if record is None else record.policy


def history_entry(
    key: str, change: Change, old: StoredValue | None, new: StoredValue | None, revision: int
) -> HistoryEntry:
    """One change of what is under ``key``. Raises MalformedValueError for a switch without a new value."""
    if key == FLEET_KEY:
        if not isinstance(new, FleetSwitch):
            raise MalformedValueError("the fleet's switch has no value")
        return HistoryEntry("", change, None, None, revision, new.disabled)
    assert not isinstance(old, FleetSwitch)
    assert not isinstance(new, FleetSwitch)
    return HistoryEntry(key, change, old, new, revision)


def policy_of(data: Any, see: str) -> SeePolicy:  # noqa: ANN401 - decoded JSON, checked here
    """The policy in decoded JSON. Raises MalformedValueError (or NewerSchemaError) unless it is a policy of
    ``see``.
    """
    if isinstance(data, dict):
        schema = data.get("schema")
        if isinstance(schema, int) and schema > SCHEMA_VERSION:
            raise NewerSchemaError(
                f"written by a newer controller: schema {schema}, known is {SCHEMA_VERSION}; upgrade this one"
            )
    try:
        policy = policy_from_json(data)
    except (UsageError, OverflowError) as error:
        raise MalformedValueError(str(error)) from None
    if policy.name != see:
        raise MalformedValueError(f"it is the policy of {policy.name!r}")
    return policy


def change_to_json(change: Change) -> dict[str, Any]:
    """The stored form of a change."""
    return {"who": change.who, "reason": change.reason, "at_unix_ns": change.at_unix_ns}


def change_of(data: Any) -> Change:  # noqa: ANN401 - decoded JSON, checked here
    """The change in decoded JSON. Raises MalformedValueError if a field is missing or of the wrong type."""
    match data:
        case {"who": str(who), "reason": str(reason), "at_unix_ns": int(at_unix_ns)}:
            return Change(who, reason, at_unix_ns)
        case _:
            raise MalformedValueError("who, reason and at_unix_ns of the change are missing or of the wrong type")


class Problems:
    """Which stored values cannot be read, by key. Thread-safe; each key is logged once until it is good
    again.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sentences: dict[str, str] = {}

    def report(self, key: str, sentence: str) -> None:
        """Remember, and log if this key was good so far, that ``key`` cannot be read."""
        with self._lock:
            known = key in self._sentences
            self._sentences[key] = f"stored value {key!r} is ignored: {sentence}"
        if not known:
            _log.warning("stored value %r is ignored: %s", key, sentence)

    def clear(self, key: str) -> None:
        """``key`` is readable, or gone."""
        with self._lock:
            self._sentences.pop(key, None)

    def keep_only(self, keys: set[str], prefix: str) -> None:
        """Forget problems of keys that begin with ``prefix`` and are not in ``keys``: they are gone."""
        with self._lock:
            for key in [key for key in self._sentences if key.startswith(prefix) and key not in keys]:
                del self._sentences[key]

    def sentences(self) -> tuple[str, ...]:
        """One sentence for each unreadable value, sorted by key."""
        with self._lock:
            return tuple(self._sentences[key] for key in sorted(self._sentences))
