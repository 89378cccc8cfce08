"""The controller's copy of the policies: read from the store once, kept by its watch, written through it.

Reads are always served from the copy, so they and the rebalancing go on while the store is away. A write that
this controller made is in the copy as soon as the store confirmed it, without waiting for the watch to bring
it back.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from opentelemetry.trace import Tracer

from utilctl_common.errors import NotLeadingError
from utilctl_common.policy import SeePolicy, without_past_hold
from utilctl_common.telemetry import traceparent_of
from utilctl_controller.store.port import (
    Change,
    CommitLost,
    CommitOutcome,
    Committed,
    Done,
    HistoryEntry,
    LostRace,
    PolicyEvent,
    PolicyStore,
    PolicyWrite,
    Record,
    Reloaded,
    Snapshot,
    StoreUnavailableError,
    SwitchEvent,
    SwitchRecord,
    Unavailable,
    WriteOutcome,
)
from utilctl_controller.workers import DaemonWorkers, P, T

_LOG = logging.getLogger(__name__)

STORE_THREADS = 4
"""Store calls in flight at once. Arbitrary: a store answers in milliseconds or is away."""

_TOMBSTONES = 10_000
"""Deleted SEEs remembered before those that the watch has passed are dropped. Arbitrary."""

_NAMED = 20
"""SEEs that a span names. Arbitrary."""

_OUTCOMES: Final[Mapping[type, str]] = {LostRace: "lost", CommitLost: "lost", Unavailable: "unavailable"}
"""Words for metrics; everything else is "done"."""

Event = PolicyEvent | SwitchEvent
Outcome = TypeVar("Outcome")

OnAnswer = Callable[[str, str, float], None]
"""Called with the name of a call of the store, how it came out, and how many seconds it took."""

OnChange = Callable[[str], None]
"""Called with the traceparent of the write behind a change of policy, empty if it is not known here."""


@dataclass(frozen=True, slots=True)
class StoreStatus:
    """Whether the store answers, and if not, its last word."""

    available: bool
    reason: str


class PolicyKeeper:
    """Owns the copy; lives on one event loop. The store belongs to the caller, who closes it."""

    def __init__(
        self, store: PolicyStore, tracer: Tracer, on_change: OnChange, on_answer: OnAnswer, probe_ns: int
    ) -> None:
        self._store = store
        self._tracer = tracer
        self._on_change = on_change
        self._on_answer = on_answer
        self._probe_s = probe_ns / 1e9
        self._workers = DaemonWorkers("store", STORE_THREADS)
        self._records: dict[str, Record] = {}
        self._seen: dict[str, int] = {}
        self._base_revision = 0
        self._watched_revision = 0
        self._in_flight: dict[str, str] = {}
        self._stop = threading.Event()
        self._watcher: threading.Thread | None = None
        self._prober: asyncio.Task[None] | None = None
        self.status = StoreStatus(available=True, reason="")
        self.revision = 0
        self.switch: SwitchRecord | None = None
        """The newest known switch of the fleet; None as long as nobody has ever disabled it."""

    @property
    def records(self) -> Mapping[str, Record]:
        """The newest known record of every SEE."""
        return self._records

    def policies(self, now_unix_ns: int) -> dict[str, SeePolicy]:
        """The newest known policies, by SEE, without holds whose time is over."""
        return {see: without_past_hold(record.policy, now_unix_ns) for see, record in self._records.items()}

    async def start(self) -> None:
        """Read the policies, start to watch. Raises StoreUnavailableError: a controller needs its store to start."""
        self._reload(await self._workers.run(self._store.snapshot))
        loop = asyncio.get_running_loop()
        self._watcher = threading.Thread(
            target=self._watch, args=(loop, self.revision), name="store-watch", daemon=True
        )
        self._watcher.start()
        self._prober = asyncio.create_task(self._probe(), name="store-probe")

    async def catch_up(self) -> None:
        """Take in all that was written so far, also what the watch has still to tell. Raises StoreUnavailableError."""
        snapshot = await self.confirmed()
        if snapshot.revision > self.revision:
            self._reload(snapshot)

    async def stop(self) -> None:
        """Stop watching. Calls in flight end by themselves."""
        self._stop.set()
        if self._prober is not None:
            self._prober.cancel()
            await asyncio.gather(self._prober, return_exceptions=True)
        self._workers.close()

    async def put(self, policy: SeePolicy, change: Change, expected_version: int) -> WriteOutcome:
        """As the store's ``put``; the copy holds what was written when this returns."""
        return await self._write(
            "store.put", (policy.name,), _done_events(policy.name), self._store.put, policy, change, expected_version
        )

    async def delete(self, see: str, change: Change, expected_version: int) -> WriteOutcome:
        """As the store's ``delete``."""
        return await self._write(
            "store.delete", (see,), _done_events(see), self._store.delete, see, change, expected_version
        )

    async def commit(self, writes: Sequence[PolicyWrite], change: Change, unchanged_since: int | None) -> CommitOutcome:
        """As the store's ``commit``; the copy holds all that was written when this returns."""
        sees = tuple(write.see for write in writes)
        return await self._write(
            "store.commit", sees, _commit_events, self._store.commit, writes, change, unchanged_since
        )

    async def put_switch(
        self, disabled: bool, change: Change, expected_version: int
    ) -> SwitchRecord | LostRace | Unavailable:
        """As the store's ``put_switch``; the copy holds what was written when this returns."""
        return await self._write(
            "store.put_switch", ("",), _switch_events, self._store.put_switch, disabled, change, expected_version
        )

    async def history(self, see: str | None, limit: int) -> tuple[HistoryEntry, ...]:
        """As the store's ``history``. Raises StoreUnavailableError."""
        return await self._read("history", self._store.history, see, limit)

    async def confirmed(self) -> Snapshot:
        """What the store itself holds now. Raises StoreUnavailableError."""
        return await self._read("snapshot", self._store.snapshot)

    async def _write(
        self,
        name: str,
        sees: Sequence[str],
        events_of: Callable[[Outcome], list[Event]],
        call: Callable[P, Outcome],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Outcome | Unavailable:
        """Write in a worker, inside a span, and take in at once what was written."""
        outcome: Outcome | Unavailable
        begun_s, how = time.monotonic(), "failed"
        with self._tracer.start_as_current_span(name, attributes={"utilctl.see": ",".join(sees[:_NAMED])}) as span:
            mine = traceparent_of(span)
            self._in_flight.update(dict.fromkeys(sees, mine))
            try:
                outcome = done = await self._workers.run(call, *args, **kwargs)
                self._apply(events_of(done))
                how = _OUTCOMES.get(type(outcome), "done")
            except StoreUnavailableError as error:
                outcome, how = Unavailable(error.message), "unavailable"
            except NotLeadingError:
                how = "not_leading"
                raise
            finally:
                self._on_answer(name.removeprefix("store."), how, time.monotonic() - begun_s)
                for see in sees:
                    if self._in_flight.get(see) == mine:
                        del self._in_flight[see]
            span.set_attribute("utilctl.outcome", type(outcome).__name__)
            # Within the span, so that these lines of the log lead to the trace.
            if isinstance(outcome, Unavailable):
                self._set_status(available=False, reason=outcome.reason)
            else:
                self._set_status(available=True, reason="")
            _LOG.info("%s of %s: %s", name, ", ".join(sees[:_NAMED]) or "the fleet", how)
        return outcome

    async def _read(self, name: str, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        begun_s, how = time.monotonic(), "failed"
        try:
            result = await self._workers.run(call, *args, **kwargs)
            how = "done"
        except StoreUnavailableError as error:
            how = "unavailable"
            self._set_status(available=False, reason=error.message)
            raise
        finally:
            self._on_answer(name, how, time.monotonic() - begun_s)
        self._set_status(available=True, reason="")
        return result

    async def _probe(self) -> None:
        """Notice that the store went away or came back even when nobody writes."""
        while True:
            await asyncio.sleep(self._probe_s)
            try:
                await self.history(None, 1)
            except StoreUnavailableError:
                continue
            except Exception:  # noqa: BLE001 - a faulty adapter must not end the probing
                _LOG.exception("the store failed in an unexpected way")

    def _set_status(self, *, available: bool, reason: str) -> None:
        if available != self.status.available:
            if available:
                _LOG.warning("the policy store is back")
            else:
                _LOG.warning("the policy store is unavailable: %s; serving the last snapshot", reason)
        self.status = StoreStatus(available, reason)

    # The watch: a thread reads it, the event loop applies it.

    def _watch(self, loop: asyncio.AbstractEventLoop, after_revision: int) -> None:
        while not self._stop.is_set():
            try:
                for item in self._store.watch(after_revision, self._stop):
                    newest = item.snapshot if isinstance(item, Reloaded) else item
                    after_revision = newest.revision
                    loop.call_soon_threadsafe(self._on_item, item)
            except RuntimeError:
                if loop.is_closed():
                    return
                _LOG.exception("the watch of the store failed; starting it again")
            except Exception:  # noqa: BLE001 - a faulty adapter must not end the watch
                _LOG.exception("the watch of the store failed; starting it again")
            self._stop.wait(1.0)

    def _on_item(self, item: Event | Reloaded) -> None:
        self._set_status(available=True, reason="")
        if isinstance(item, Reloaded):
            self._reload(item.snapshot)
            self._on_change("")
        else:
            self._watched_revision = item.revision
            self._apply([item])

    def _reload(self, snapshot: Snapshot) -> None:
        self._records = dict(snapshot.records)
        self._seen = {see: record.revision for see, record in self._records.items()}
        self.switch = snapshot.switch
        self._base_revision = self._watched_revision = self.revision = snapshot.revision

    def _apply(self, events: Sequence[Event]) -> None:
        """Take in what was written together; nobody sees only a part of it."""
        news = [event for event in events if self._take_in(event)]
        if not news:
            return
        if len(self._seen) > len(self._records) + _TOMBSTONES:
            self._seen = {
                see: revision
                for see, revision in self._seen.items()
                if see in self._records or revision > self._watched_revision
            }
        self._on_change(self._in_flight.get(_see_of(news[0]), ""))

    def _take_in(self, event: Event) -> bool:
        """Whether ``event`` is news: the watch repeats what this controller wrote itself."""
        see = _see_of(event)
        if event.revision <= max(self._base_revision, self._seen.get(see, 0)):
            return False
        self._seen[see] = event.revision
        self.revision = max(self.revision, event.revision)
        if isinstance(event, SwitchEvent):
            self.switch = event.record
        elif event.record is None:
            self._records.pop(event.see, None)
        else:
            self._records[event.see] = event.record
        return True


def _see_of(event: Event) -> str:
    """Whom an event is about; empty for the fleet's switch."""
    return event.see if isinstance(event, PolicyEvent) else ""


def _done_events(see: str) -> Callable[[WriteOutcome], list[Event]]:
    def events(outcome: WriteOutcome) -> list[Event]:
        return [PolicyEvent(see, outcome.record, outcome.revision)] if isinstance(outcome, Done) else []

    return events


def _commit_events(outcome: CommitOutcome) -> list[Event]:
    if not isinstance(outcome, Committed):
        return []
    return [
        PolicyEvent(see, record, outcome.revision if record is None else record.revision)
        for see, record in outcome.records.items()
    ]


def _switch_events(outcome: SwitchRecord | LostRace | Unavailable) -> list[Event]:
    return [SwitchEvent(outcome, outcome.revision)] if isinstance(outcome, SwitchRecord) else []
