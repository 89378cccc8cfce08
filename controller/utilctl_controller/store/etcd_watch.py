"""Following policy changes on etcd across restarts, outages, compaction and a replaced database."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Iterator
from typing import Final

from utilctl_common.quantities import NS_PER_MS, NS_PER_S
from utilctl_controller.store.etcd_client import EtcdCompactedError, EtcdError, WatchBatch
from utilctl_controller.store.etcd_read import EtcdReader
from utilctl_controller.store.port import PolicyEvent, Reloaded, SwitchEvent, SwitchRecord
from utilctl_controller.store.values import FLEET_KEY, is_key

_log = logging.getLogger(__name__)

_FIRST_PAUSE_NS: Final = 50 * NS_PER_MS
_LONGEST_PAUSE_NS: Final = NS_PER_S
"""Pauses between attempts to reach etcd double from the first to the longest. Arbitrary."""

_POLL_NS: Final = 100 * NS_PER_MS
"""How often a pause looks whether the store was closed. Arbitrary."""


class _DatabaseReplacedError(Exception):
    """Behind the endpoints is not the database that was being watched."""


def watch_policies(
    reader: EtcdReader, after_revision: int, stop: threading.Event
) -> Iterator[PolicyEvent | SwitchEvent | Reloaded]:
    """Every change after ``after_revision``, each once and in order, until ``stop`` is set or the client is
    closed.

    Never raises for what happens to etcd. A malformed value gives no event: the last good record stays in
    force.
    """
    closed = reader.client.closed
    position, identity = after_revision, reader.identity
    pause_ns, away, reload_needed = _FIRST_PAUSE_NS, False, False
    while not (stop.is_set() or closed.is_set()):
        try:
            if reload_needed:
                snapshot = reader.snapshot()
                position, identity, reload_needed = snapshot.revision, reader.identity, False
                yield Reloaded(snapshot)
            identity = _same_database(reader, identity, position)
            with contextlib.closing(
                reader.client.watch(reader.keys.all_sees, position + 1, stop, reader.attempt_ns)
            ) as batches:
                for batch in batches:
                    if away:
                        _log.warning("the watch on etcd goes on after revision %d", position)
                    pause_ns, away = _FIRST_PAUSE_NS, False
                    for event in _policy_events(reader, batch, position):
                        if stop.is_set():
                            return
                        yield event
                    position = max(position, batch.complete_to)
        except (EtcdCompactedError, _DatabaseReplacedError) as error:
            _log.warning("the watch on etcd starts again from a snapshot: %s", error)
            reload_needed = True
        except EtcdError as error:
            if not away and not closed.is_set():
                _log.warning("the watch on etcd waits, last revision %d: %s", position, error)
            away = True
        _wait(stop, closed, pause_ns)
        pause_ns = min(pause_ns * 2, _LONGEST_PAUSE_NS)


def _same_database(reader: EtcdReader, identity: str | None, position: int) -> str | None:
    """The database's identity. Raises _DatabaseReplacedError if it is another one or went back in time."""
    found, revision = reader.look()
    if identity is not None and found != identity:
        raise _DatabaseReplacedError("another database answers")
    if revision < position:
        raise _DatabaseReplacedError(f"the database is at revision {revision}, before {position}")
    return found


def _policy_events(reader: EtcdReader, batch: WatchBatch, position: int) -> Iterator[PolicyEvent | SwitchEvent]:
    for event in batch.events:
        if event.mod_revision <= position:
            continue
        see = reader.keys.see_of(event.key)
        if event.kv is None:
            reader.problems.clear(event.key)
            if is_key(see) and see != FLEET_KEY:
                yield PolicyEvent(see, None, event.mod_revision)
        elif isinstance(record := reader.readable_record(event.kv), SwitchRecord):
            yield SwitchEvent(record, event.mod_revision)
        elif record is not None:
            yield PolicyEvent(see, record, event.mod_revision)


def _wait(stop: threading.Event, closed: threading.Event, pause_ns: int) -> None:
    """Sleep for ``pause_ns`` or until one of the events is set."""
    until_ns = time.monotonic_ns() + pause_ns
    while not closed.is_set() and (left_ns := until_ns - time.monotonic_ns()) > 0:
        if stop.wait(min(left_ns, _POLL_NS) / NS_PER_S):
            return
