"""Who started whom, remembered after the parent has gone. Pure: process tables in, descent out.

The kernel gives an orphan a new parent (init or a subreaper); for us it stays the child of the process that
started it. A dead process is kept as long as a live one descends from it, since its own facts decide what
they inherit.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Final

from utilctl_agent.discovery.facts import ProcessFacts, ProcessKey

MAX_DEPARTED_CHAIN: Final = 32
"""Most dead ancestors kept in a row. Arbitrary: far above any start-up script, and a bound on memory."""


class Lineage:
    """Descent of the processes of one host, updated by every look at them."""

    def __init__(self) -> None:
        self.parents: dict[ProcessKey, ProcessKey] = {}
        self.departed: dict[ProcessKey, ProcessFacts] = {}
        self._live: Mapping[ProcessKey, ProcessFacts] = {}
        self._by_pid: dict[int, ProcessKey] = {}
        self._children: dict[ProcessKey, set[ProcessKey]] = {}

    def observe(
        self,
        live: Mapping[ProcessKey, ProcessFacts],
        *,
        forks: Mapping[int, int] | None = None,
        keep: frozenset[ProcessKey] = frozenset(),
    ) -> None:
        """Take in the process table of now.

        ``forks`` says, by pid, who forked whom since the last table; it leads through processes that came and
        went in between. ``keep`` are processes that matchers name by pid: if dead, they are never left out of
        a chain.
        """
        added = [key for key in live if key not in self._live]
        gone = [key for key in self._live if key not in live]
        self.follow(dict(live), added, gone, forks=forks, keep=keep)

    def follow(
        self,
        live: Mapping[ProcessKey, ProcessFacts],
        added: Iterable[ProcessKey],
        gone: Collection[ProcessKey],
        *,
        forks: Mapping[int, int] | None = None,
        keep: frozenset[ProcessKey] = frozenset(),
    ) -> None:
        """The same where it is known who came and who went; costs as much as those are. ``live`` is kept, so it must
        not change afterwards.
        """
        before = self._live
        gone_by_pid = {key.pid: key for key in gone}
        for pid, key in gone_by_pid.items():
            if self._by_pid.get(pid) == key:
                del self._by_pid[pid]
        newcomers = list(added)
        self._by_pid.update((key.pid, key) for key in newcomers)
        for key in newcomers:
            self._adopt(key, self._find_parent(live[key], gone_by_pid, forks or {}))
        for key in gone:
            if self._children.get(key):
                self.departed[key] = before[key]
        for key in gone:
            if key in self.departed:
                self._shorten(key, keep)
            else:
                self._forget(key)
        self._live = live

    def descendants(self, keys: Iterable[ProcessKey]) -> set[ProcessKey]:
        """These processes and all that descend from them, departed ones included."""
        found: set[ProcessKey] = set()
        pending = list(keys)
        while pending:
            key = pending.pop()
            if key not in found:
                found.add(key)
                pending.extend(self._children.get(key, ()))
        return found

    def _find_parent(
        self, facts: ProcessFacts, gone: Mapping[int, ProcessKey], forks: Mapping[int, int]
    ) -> ProcessKey | None:
        seen = {facts.pid}
        pid = forks.get(facts.pid, facts.ppid)
        while pid not in seen:
            seen.add(pid)
            # A parent that ended between two scans is known from the last one. Of two owners of one pid the
            # younger is the parent, unless it is younger than its child.
            known = [key for table in (gone, self._by_pid) if (key := table.get(pid)) is not None]
            older = [key for key in known if key.start_ticks <= facts.start_ticks]
            if older:
                return max(older)
            pid = forks.get(pid, 0)
        return self._by_pid.get(facts.ppid) if facts.ppid != facts.pid else None

    def _adopt(self, child: ProcessKey, parent: ProcessKey | None) -> None:
        if parent is not None and parent != child:
            self.parents[child] = parent
            self._children.setdefault(parent, set()).add(child)

    def _forget(self, key: ProcessKey) -> None:
        """Drop a dead process without descendants, and the dead ancestors that were kept for it alone."""
        current: ProcessKey | None = key
        while current is not None:
            self.departed.pop(current, None)
            self._children.pop(current, None)
            parent = self.parents.pop(current, None)
            if parent is None:
                return
            siblings = self._children.get(parent, set())
            siblings.discard(current)
            current = parent if not siblings and parent in self.departed else None

    def _shorten(self, key: ProcessKey, keep: frozenset[ProcessKey]) -> None:
        """Leave a dead process out of the chain where that loses nothing, or where the chain is too long.

        Nothing is lost if its dead parent differs from it only in the pid, as in a service that forks itself
        anew over and over. In a chain too long the oldest are kept: what started a service tells most about
        it.
        """
        parent = self.parents.get(key)
        if parent is None or parent not in self.departed or key in keep:
            return
        if _alike(self.departed[key], self.departed[parent]) or self._departed_above(key) >= MAX_DEPARTED_CHAIN:
            for child in self._children.pop(key, set()):
                self._adopt(child, parent)
            self._children[parent].discard(key)
            del self.departed[key], self.parents[key]

    def _departed_above(self, key: ProcessKey) -> int:
        count = 0
        parent = self.parents.get(key)
        while parent is not None and parent in self.departed:
            count += 1
            parent = self.parents.get(parent)
        return count


def _alike(one: ProcessFacts, other: ProcessFacts) -> bool:
    return (
        (one.uid, one.comm, one.exe, one.cmdline, one.cgroups, one.environment, one.labels)
        == (other.uid, other.comm, other.exe, other.cmdline, other.cgroups, other.environment, other.labels)
    )  # fmt: skip
