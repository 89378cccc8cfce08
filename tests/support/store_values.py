"""Short forms for policies, changes and watches in tests of the store and its users."""

from __future__ import annotations

import queue
import threading
from types import TracebackType

from utilctl_common.matchers import Matcher
from utilctl_common.policy import SeePolicy
from utilctl_controller.store.port import (
    Change,
    Done,
    PolicyEvent,
    PolicyStore,
    Record,
    Reloaded,
    SwitchEvent,
    WriteOutcome,
)

WAIT_S = 60.0
"""How long a test waits for what must come. Only a failing test waits that long."""


def policy(see: str = "svc=web", share: float = 1.0, matchers: tuple[Matcher, ...] = ()) -> SeePolicy:
    """A policy of which the share matters."""
    return SeePolicy(see, share, matchers=matchers)


def change(reason: str = "test", who: str = "ada", at_unix_ns: int = 1_700_000_000_000_000_000) -> Change:
    """A change of which the reason matters."""
    return Change(who, reason, at_unix_ns)


def done(outcome: WriteOutcome) -> Done:
    """The outcome, which must be Done."""
    assert isinstance(outcome, Done), outcome
    return outcome


def stored(outcome: WriteOutcome) -> Record:
    """The record of a successful put."""
    record = done(outcome).record
    assert record is not None
    return record


class Watching:
    """Runs a watch in a thread. ``take`` waits for what it yields; leaving ``with`` stops it and joins the thread."""

    def __init__(self, store: PolicyStore, after_revision: int) -> None:
        self._store = store
        self._after_revision = after_revision
        self._stop = threading.Event()
        self._items: queue.Queue[PolicyEvent | SwitchEvent | Reloaded | BaseException] = queue.Queue()
        self._thread = threading.Thread(target=self._run, name="watching")

    def __enter__(self) -> Watching:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive(), "the watch did not end"
        if kind is None:
            assert [item for item in self.pending() if isinstance(item, BaseException)] == []

    @property
    def ended(self) -> bool:
        """Whether the watch has ended by itself."""
        return not self._thread.is_alive()

    def wait_until_ended(self) -> None:
        """Wait for the watch to end by itself."""
        self._thread.join(WAIT_S)
        assert self.ended

    def take(self, count: int) -> list[PolicyEvent | SwitchEvent | Reloaded]:
        """The next ``count`` items, waiting for them. Raises what the watch raised."""
        return [self._next() for _ in range(count)]

    def take_event(self) -> PolicyEvent:
        """The next item, which must be an event."""
        item = self._next()
        assert isinstance(item, PolicyEvent), item
        return item

    def take_reload(self) -> Reloaded:
        """The next item, which must be a reload."""
        item = self._next()
        assert isinstance(item, Reloaded), item
        return item

    def pending(self) -> list[PolicyEvent | SwitchEvent | Reloaded | BaseException]:
        """What came and was not taken."""
        items: list[PolicyEvent | SwitchEvent | Reloaded | BaseException] = []
        while not self._items.empty():
            items.append(self._items.get())
        return items

    def _next(self) -> PolicyEvent | SwitchEvent | Reloaded:
        item = self._items.get(timeout=WAIT_S)
        if isinstance(item, BaseException):
            raise item
        return item

    def _run(self) -> None:
        try:
            for item in self._store.watch(self._after_revision, self._stop):
                self._items.put(item)
        except BaseException as error:  # noqa: BLE001 - handed to the test, which raises it
            self._items.put(error)
