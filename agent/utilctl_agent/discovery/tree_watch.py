"""Process trees kept up to date by whatever the host allows: events, or glances; and scans under both."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

from utilctl_agent.discovery.cadence import Cadence
from utilctl_agent.discovery.events import listen
from utilctl_agent.discovery.procfs import ProcReader
from utilctl_agent.discovery.trees import ProcessTrees


class TreeWatch:
    """``trees`` and when to look at them. For a caller with a select loop of its own."""

    def __init__(self, roots: Sequence[Iterable[int]], scan_ns: int) -> None:
        """``roots`` of each tree; at least ``scan_ns`` lies between two looks at everybody."""
        self._events = listen()
        self._cadence = Cadence(scan_ns, events=self._events is not None)
        begin_ns = time.process_time_ns()
        self.trees = ProcessTrees(roots, ProcReader(), self._events)
        self._cadence.scanned(time.monotonic_ns(), time.process_time_ns() - begin_ns)

    def wait_for(self, now_ns: int) -> tuple[list[int], int]:
        """What to wait for: descriptors that become readable, and the latest instant to call ``look``."""
        cadence = self._cadence
        if self._events is None or now_ns < cadence.next_look_ns:
            return [], min(cadence.next_look_ns, cadence.next_scan_ns)
        return [self._events.fileno()], cadence.next_scan_ns

    def look(self, now_ns: int) -> bool:
        """Look as far as it is due; True if a tree may differ."""
        cadence = self._cadence
        begin_ns = time.process_time_ns()
        if now_ns >= cadence.next_scan_ns:
            self.trees.follow()
            self.trees.scan()
            cadence.scanned(time.monotonic_ns(), time.process_time_ns() - begin_ns)
            return True
        if now_ns < cadence.next_look_ns:
            return False
        changed = self.trees.glance() if self._events is None else self.trees.follow()
        cadence.looked(time.monotonic_ns(), time.process_time_ns() - begin_ns, changed=changed)
        return changed

    def close(self) -> None:
        """Stop listening. Idempotent."""
        if self._events is not None:
            self._events.close()
