"""The policy store on etcd: one key an SEE, one history key a change, one epoch key, under one prefix.

Each value is ASCII JSON, xz-packed above 32 KiB (values.py):

- ``PREFIX see/SEE``: ``policy``, ``change``, ``write`` and, for people only, ``version``. The version that
  counts is etcd's own, which also moves when somebody edits the key by hand. ``PREFIX see/*`` is the fleet's switch.
- ``PREFIX history/SEE-with-commas/WRITE``: ``see``, ``old``, ``new``, ``change``, ``version``. Its create
  revision is the change's revision, because the transaction that writes the SEE's key creates it.
- ``PREFIX seat``: who leads, under a lease; see ``etcd_seat``.
- ``PREFIX epoch``: ``epoch``, ``write``, ``schema`` of the whole (absent: 1), and ``store``, the database's
  identity, by which a watch notices that the database behind the endpoints is another one.

A write is one transaction that holds only while the SEE's key is at the revision that was read, so repeating
it after an error is safe: the repetition either finds the history key of the first attempt (``write`` is
unique) or stands in for it. A commit of many is the same with many keys; where they are too many for etcd's
conditions, no key at all may have been written since they were read. A controller that claims the seat writes only
while it holds it: that is a condition of the same transaction.
"""

from __future__ import annotations

import random
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, TypeVar

from utilctl_common.errors import NotLeadingError, UsageError
from utilctl_common.names import parse_see_name
from utilctl_common.quantities import NS_PER_MS, NS_PER_S
from utilctl_controller.store import etcd_values
from utilctl_controller.store.etcd_client import (
    MAX_OPERATIONS,
    EtcdClient,
    EtcdCompactedError,
    EtcdError,
    EtcdTooLargeError,
    EtcdUnavailableError,
    TxnResult,
)
from utilctl_controller.store.etcd_endpoints import Endpoint
from utilctl_controller.store.etcd_read import Current, EtcdReader
from utilctl_controller.store.etcd_seat import Epochs, EtcdSeat
from utilctl_controller.store.etcd_tls import EtcdTls
from utilctl_controller.store.etcd_watch import watch_policies
from utilctl_controller.store.port import (
    Change,
    HistoryEntry,
    PolicyEvent,
    Record,
    Reloaded,
    Seat,
    Snapshot,
    StoreUnavailableError,
    SwitchEvent,
    SwitchRecord,
    Unavailable,
)
from utilctl_controller.store.values import NewerSchemaError, record_of, value_in
from utilctl_controller.store.writes import KeyedWrites, KeyLost, KeysWritten, KeyWrite

DEFAULT_PREFIX: Final = "/utilctl/v1/"
"""Where the keys live unless told otherwise."""

DEFAULT_DEADLINE_NS: Final = 3 * NS_PER_S
"""How long a call may take. Longer than an etcd election (1 to 2 s), shorter than a person's patience."""

_ATTEMPTS_PER_DEADLINE: Final = 3
"""One attempt gets this part of the deadline, so that a hung member does not eat all of it. Arbitrary."""

_FIRST_PAUSE_NS: Final = 20 * NS_PER_MS
_LONGEST_PAUSE_NS: Final = 500 * NS_PER_MS
"""Pauses between attempts double from the first to the longest, with jitter. Arbitrary."""

_MAX_HISTORY_LIMIT: Final = 1_000_000
"""Most entries that one call returns. Arbitrary; keeps the number inside etcd's 64 bits."""

T = TypeVar("T")


class EtcdStore(KeyedWrites):
    """PolicyStore on etcd. Connects when first used, so an etcd that is away is noticed by the first call.

    A malformed value never stops a read or a watch: the SEE keeps its last good record, taken from its
    history, and ``problems`` says so. A malformed value with no good history is left out. The next write
    replaces it, except one that a newer controller wrote: that is refused as Unavailable.

    ``deadline_ns`` bounds each write, epoch and read of one value; reading everything takes as many requests
    as there are pages, each bounded.
    """

    def __init__(
        self,
        endpoints: tuple[Endpoint, ...],
        prefix: str = DEFAULT_PREFIX,
        *,
        deadline_ns: int = DEFAULT_DEADLINE_NS,
        tls: EtcdTls | None = None,
    ) -> None:
        """``endpoints``: client ports of the members. ``prefix``: ASCII, begins and ends with a slash. ``tls`` None:
        in plain text.

        Raises UsageError for a prefix or endpoints that cannot be used, FailedError without the etcd3
        package.
        """
        if not (prefix.isascii() and prefix.isprintable() and prefix.startswith("/") and prefix.endswith("/")):
            raise UsageError(f"etcd prefix {prefix!r} does not begin and end with a slash")
        self._where = "etcd at " + ",".join(str(endpoint) for endpoint in endpoints)
        self._deadline_ns = deadline_ns
        self._attempt_ns = deadline_ns // _ATTEMPTS_PER_DEADLINE
        self._keys = etcd_values.Keys(prefix)
        self._client = EtcdClient(endpoints, tls)
        self._reader = EtcdReader(self._client, self._keys, self._attempt_ns)
        self._epochs = Epochs(self._client, self._keys, self._where, self._attempt_ns)
        self._seat = EtcdSeat(self._client, self._keys, self._epochs, self._attempt_ns)

    @property
    def problems(self) -> tuple[str, ...]:
        """One sentence for each stored value that cannot be read. Empty when all is well."""
        return self._reader.problems.sentences()

    def snapshot(self) -> Snapshot:
        """Every policy now, at one revision. Raises StoreUnavailableError."""
        return self._answered(self._reader.snapshot)

    def history(self, see: str | None, limit: int) -> tuple[HistoryEntry, ...]:
        """See the port. A ``limit`` below 1 gives nothing. Raises UsageError if ``see`` is not a name."""
        prefix = self._keys.all_history if see is None else self._keys.history_of(parse_see_name(see))
        if limit < 1:
            return ()
        return self._answered(lambda: self._reader.history(prefix, min(limit, _MAX_HISTORY_LIMIT)))

    def watch(self, after_revision: int, stop: threading.Event) -> Iterator[PolicyEvent | SwitchEvent | Reloaded]:
        """See the port. Ends also when the store is closed."""
        return watch_policies(self._reader, after_revision, stop)

    def next_epoch(self) -> int:
        """See the port. Raises FailedError if a newer controller keeps the database."""
        return self._answered(self._next_epoch)

    def claim_seat(self, holder: str, address: str, ttl_ns: int) -> Seat:
        """See the port. Raises FailedError if a newer controller keeps the database."""
        try:
            return self._seat.claim(holder, address, ttl_ns)
        except EtcdError as error:  # not repeated here: the claimer does that all the time
            raise self._no_answer(error) from None

    def leave_seat(self) -> None:
        """See the port."""
        self._seat.leave()

    def close(self) -> None:
        """See the port. Watches end."""
        self._client.close()

    def _answered(self, attempt: Callable[[], T]) -> T:
        try:
            return self._repeated(attempt)
        except EtcdError as error:
            raise self._no_answer(error) from None

    def _no_answer(self, error: EtcdError) -> StoreUnavailableError:
        return StoreUnavailableError(f"{self._where} did not answer: {error}", hint="check that etcd runs there")

    def _repeated(self, attempt: Callable[[], T]) -> T:
        """Repeat ``attempt`` while that may help and the deadline allows. Raises its last EtcdError."""
        deadline_ns = time.monotonic_ns() + self._deadline_ns
        pause_ns = _FIRST_PAUSE_NS
        while True:
            try:
                return attempt()
            except (EtcdUnavailableError, EtcdCompactedError):
                jittered_ns = round(pause_ns * random.uniform(0.5, 1.0))  # noqa: S311 - spreads load, hides nothing
                pause_ns = min(pause_ns * 2, _LONGEST_PAUSE_NS)
                if time.monotonic_ns() + jittered_ns >= deadline_ns:
                    raise
                if self._client.closed.wait(jittered_ns / NS_PER_S):
                    raise

    def _next_epoch(self) -> int:
        epoch, identity, revision = self._epochs.read()
        puts = {self._keys.epoch: etcd_values.encode_epoch(epoch + 1, identity)}
        result = self._client.write_if({self._keys.epoch: revision}, puts, (), (), self._attempt_ns)
        if not result.succeeded:
            # Somebody was faster, or an earlier attempt of ours, whose number is then left out.
            raise EtcdUnavailableError("other controllers keep taking epochs")
        self._reader.identity = identity
        return epoch + 1

    def _read_current(self, writes: Sequence[KeyWrite]) -> tuple[Mapping[str, Current], int]:
        """What the keys of ``writes`` hold, and, where they are many, at which revision they all do."""
        if len(writes) == 1:
            return {writes[0].key: self._reader.current(writes[0].key)}, 0
        return self._reader.current_of_many(frozenset(write.key for write in writes))

    def _write(
        self, writes: Sequence[KeyWrite], change: Change, unchanged_since: int | None
    ) -> KeysWritten | KeyLost | Unavailable:
        """All of ``writes`` with their history entries in one transaction, if every version is the expected one."""
        if not writes:
            return self._nothing(unchanged_since)
        try:
            found, read_at = self._repeated(lambda: self._read_current(writes))
        except NewerSchemaError as error:
            return Unavailable(f"nothing was written: {error}")
        except EtcdError as error:
            return Unavailable(f"nothing was written: {self._where} did not answer: {error}")
        for write in writes:
            if write.is_lost_to(current := found[write.key].record):
                return KeyLost(write.key, current)

        write_id = uuid.uuid4().hex
        puts: dict[str, bytes] = {}
        deletes: list[str] = []
        for write in writes:
            at = found[write.key]
            key, entry_key = self._keys.see(write.key), self._keys.history_of(write.key) + write_id
            old, next_version = value_in(at.record), at.key_version + 1
            puts[entry_key] = etcd_values.encode_history(write.key, old, write.value, change, next_version)
            if write.value is None:
                deletes.append(key)
            else:
                puts[key] = etcd_values.encode_record(write.value, change, next_version, write_id)
        fence = self._seat.fence
        conditions = {self._keys.see(write.key): found[write.key].mod_revision for write in writes}
        prefixes = {} if unchanged_since is None else {self._keys.all_history: unchanged_since}
        if len(conditions) + len(prefixes) + len(fence) > MAX_OPERATIONS:
            # Deletions leave a trace only in the history, edits by hand only in the keys themselves.
            conditions = {}
            prefixes = {
                self._keys.all_history: read_at if unchanged_since is None else min(read_at, unchanged_since),
                self._keys.all_sees: read_at,
            }
        first = writes[0].key
        first_key, first_entry = self._keys.see(first), self._keys.history_of(first) + write_id

        def attempt() -> TxnResult:
            return self._client.write_if(
                {**conditions, **fence},
                puts,
                deletes,
                (first_entry, first_key, self._keys.seat),
                self._attempt_ns,
                prefixes_unless_changed=prefixes,
            )

        try:
            result = self._repeated(attempt)
            revision = result.revision
            if not result.succeeded:
                earlier, now, seat = result.found
                if earlier is None:
                    if fence and (leader := self._seat.moved_to(seat)) is not None:
                        raise NotLeadingError(leader)
                    return self._lost(writes, None if now is None else self._reader.record(now))
                revision = earlier.create_revision  # an attempt whose answer got lost had done it
        except EtcdTooLargeError:
            what = f"policy of {first} is" if len(writes) == 1 else f"change of {len(writes)} services at once is"
            raise UsageError(
                f"{what} too large for etcd",
                hint="use fewer or shorter matchers, or raise etcd's --max-request-bytes",
            ) from None
        except EtcdError as error:
            return Unavailable(f"{self._where} did not confirm the write: {error}")
        stored = {
            write.key: None
            if write.value is None
            else record_of(write.value, found[write.key].key_version + 1, revision, change)
            for write in writes
        }
        return KeysWritten(stored, revision)

    def _nothing(self, unchanged_since: int | None) -> KeysWritten | KeyLost | Unavailable:
        """A commit of nothing: only the question whether anything was changed."""
        try:
            snapshot, newest = self.snapshot(), self.history(None, 1)
        except StoreUnavailableError as error:
            return Unavailable(error.message)
        if unchanged_since is not None and newest and newest[0].revision > unchanged_since:
            return KeyLost("", None)
        return KeysWritten({}, snapshot.revision)

    def _lost(self, writes: Sequence[KeyWrite], first: Record | SwitchRecord | None) -> KeyLost:
        """Which of ``writes`` was too late; ``first`` is what is stored of the first of them."""
        if len(writes) == 1:
            return KeyLost(writes[0].key if writes[0].is_lost_to(first) else "", first)
        found, _ = self._read_current(writes)
        for write in writes:
            if write.is_lost_to(current := found[write.key].record):
                return KeyLost(write.key, current)
        return KeyLost("", None)
