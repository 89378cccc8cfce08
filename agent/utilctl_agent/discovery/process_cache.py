"""The process table, kept up to date at little cost, in one of three ways.

- ``update``, a scan: looks at every process.
- ``apply``: looks at those that events name, and at no other.
- ``glance``, where no events are to be had: lists the pids, and looks at those that are new, that may have been reused
  since the last list (the kernel gives pids out in order), or that were new in the last glances, since a new process
  soon runs another program.

Every scan reads /proc/PID/stat of every process: it shows a reused pid (start time), a new parent, a new
name, and a new program (addresses of code, arguments and environment). Only then, or when it is new, is a
process read in full. What changes without a trace there, namely cgroup, user and a command line that the
process rewrote, is read anew in the YOUNG_SCANS scans after a process's first, since servers drop privileges
and are moved to their cgroup right after the start, and from then on in every REFRESH_SCANS-th scan, an equal
part of all processes at a time.

A child that runs its parent's program takes over the facts of its parent: in a storm of forks this is most of the
work. Only events tell for sure that it is so, because without address randomisation two programs may look alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, replace
from typing import Final

from utilctl_agent.discovery.batch import Changes, EventBatch
from utilctl_agent.discovery.facts import ProcessFacts, ProcessKey
from utilctl_agent.discovery.procfs import (
    ProcessGoneError,
    ProcessHiddenError,
    ProcReader,
    Stat,
    parse_stat,
)

REFRESH_SCANS: Final = 8
"""Scans between two refreshes of one process: at one scan a second, a moved process is noticed within 8
s.
"""

YOUNG_SCANS: Final = 2
"""Scans right after its first in which a process is refreshed."""

YOUNG_GLANCES: Final = 3
"""Glances right after its first in which a process is looked at again."""

YOUNG_REVISITS: Final = 2
"""Times that a process which has executed a program is looked at again without any event: there is none of its being
moved to another cgroup."""

_ANEW: Final = frozenset({"\0"})
"""Stands for the variables that a process was read with, where it must be read in full again: no such are wanted."""

USER_NAME_SCANS: Final = 64
"""Scans after which names of users are looked up again. Arbitrary: about a minute; lookups may ask a
directory.
"""


@dataclass(frozen=True, slots=True)
class ScanStats:
    """What one scan did.

    ``processes`` are in the table, ``read_in_full`` of them were new, had executed another program or lacked
    a variable now asked for, ``refreshed`` were looked at for what may change otherwise, ``vanished`` ended
    while being read, ``hidden`` may not be seen at all, ``unreadable`` are in the table without environment
    for lack of permission, ``failed`` could not be read for another reason (they keep their last facts, if
    any).
    """

    processes: int = 0
    read_in_full: int = 0
    refreshed: int = 0
    vanished: int = 0
    hidden: int = 0
    unreadable: int = 0
    failed: int = 0


@dataclass(slots=True)
class _Entry:
    stat: Stat
    facts: ProcessFacts | None  # None: a kernel thread, remembered so as not to be read again
    key: ProcessKey
    first_scan: int
    due_scan: int
    wanted: frozenset[str]  # environment variables that were asked for when it was read in full


class ProcessCache:
    """Facts of every process on the host. ``live`` is replaced, never changed, when anything in it
    differs.
    """

    def __init__(self, reader: ProcReader) -> None:
        self.live: Mapping[ProcessKey, ProcessFacts] = {}
        self.stats = ScanStats()
        self._reader = reader
        self._entries: dict[int, _Entry] = {}
        self._wanted: frozenset[str] = frozenset()
        self._label_revision = reader.labels.revision
        self._scan = 0
        self._first_scan = False
        self._dirty = False
        self._young: dict[int, int] = {}  # glances left in which it is looked at, by pid
        self._last_pid: int | None = None
        self._unreadable = 0
        self._read_in_full = self._refreshed = self._vanished = self._hidden = self._failed = 0

    def update(self, wanted: frozenset[str]) -> bool:
        """Read what changed; keep the environment variables ``wanted``. True if ``live`` differs from before.

        Raises FailedError if there is no /proc.
        """
        # Asked before the list: what is given out meanwhile counts as possibly reused at the next glance.
        self._last_pid = self._reader.last_pid()
        pids = self._reader.pids()
        self._scan += 1
        self._first_scan = self._scan == 1
        self._read_in_full = self._refreshed = self._vanished = self._hidden = self._failed = 0
        if wanted != self._wanted:
            self._wanted = wanted
            for entry in self._entries.values():
                entry.due_scan = 0
        if self._scan % USER_NAME_SCANS == 0:
            self._reader.forget_user_names()
        self._dirty = False
        before, self._entries = self._entries, {}
        for pid in pids:
            updated = self._update_one(pid, before.get(pid))
            if updated is not None:
                self._entries[pid] = updated
        self._first_scan = False
        self._relabel()
        # A pid that came or went changes the number of entries, or was read anew, which sets the mark.
        changed = self._dirty or len(self._entries) != len(before)
        if changed:
            self.live = {entry.key: entry.facts for entry in self._entries.values() if entry.facts is not None}
            self._unreadable = sum(facts.environment is None for facts in self.live.values())
        self.stats = ScanStats(
            processes=len(self.live),
            read_in_full=self._read_in_full,
            refreshed=self._refreshed,
            vanished=self._vanished,
            hidden=self._hidden,
            unreadable=self._unreadable,
            failed=self._failed,
        )
        return changed

    def threads(self, keys: Iterable[ProcessKey]) -> int:
        """How many threads these processes had when they were last looked at."""
        entries = self._entries
        return sum(entry.stat.threads for key in keys if (entry := entries.get(key.pid)) is not None)

    def apply(self, batch: EventBatch) -> Changes:
        """Look at the processes that a batch of events names, and tell how ``live`` differs from before."""
        known = self._entries
        # First those that run something else now, so that their children are not taken to run the same as before.
        looks: dict[int, int | None] = dict.fromkeys(pid for pid in batch.executed if pid in known)
        looks.update(dict.fromkeys(batch.changed))
        for pid, parent in batch.parents.items():
            looks[pid] = None if pid in batch.executed else parent
        looks.update(dict.fromkeys(batch.executed))
        for pid in batch.exited:
            if pid in known:
                looks[pid] = None
            else:
                looks.pop(pid, None)  # came and went: nothing is left to be read
        changes = self._look(looks, executed=batch.executed, due=batch.executed | batch.changed)
        self._young.update(dict.fromkeys(batch.executed & self._entries.keys(), YOUNG_REVISITS))
        return changes

    @property
    def has_young(self) -> bool:
        """Whether ``revisit`` has anything to look at."""
        return bool(self._young)

    def revisit(self) -> Changes:
        """Look once more at the processes that have executed a program lately: in which cgroup they are by now."""
        young = [pid for pid in self._young if pid in self._entries]
        self._young = {pid: left - 1 for pid, left in self._young.items() if left > 1}
        return self._look(dict.fromkeys(young), due=frozenset(young))

    def glance(self) -> Changes:
        """Look at the processes that are new or may be, and tell how ``live`` differs from before.

        Raises FailedError if there is no /proc.
        """
        before, self._last_pid = self._last_pid, self._reader.last_pid()
        pids = set(self._reader.pids())
        fresh = pids - self._entries.keys()
        looks = dict.fromkeys(self._entries.keys() - pids)
        looks.update(dict.fromkeys(pid for pid in self._young if pid in pids))
        looks.update(dict.fromkeys(pid for pid in pids if _given_out(pid, before, self._last_pid)))
        looks.update(dict.fromkeys(sorted(fresh)))
        changes = self._look(looks)
        self._young = {pid: left - 1 for pid, left in self._young.items() if left > 1}
        self._young.update(dict.fromkeys(fresh & self._entries.keys(), YOUNG_GLANCES))
        return changes

    def _look(
        self,
        looks: Mapping[int, int | None],
        *,
        executed: Set[int] = frozenset(),
        due: Set[int] = frozenset(),
    ) -> Changes:
        """Look at pids, each with the pid of the parent whose program it runs for sure, if any. ``executed`` are read
        in full, ``due`` refreshed, others no further than stat tells of a difference.
        """
        added: dict[ProcessKey, ProcessFacts] = {}
        changed: dict[ProcessKey, ProcessFacts] = {}
        gone: list[ProcessKey] = []
        for pid, parent in looks.items():
            entry = self._entries.get(pid)
            key, old = (entry.key, entry.facts) if entry is not None else (None, None)
            if entry is not None and pid in due:
                entry.due_scan = 0
                if pid in executed:
                    entry.wanted = _ANEW
            updated = self._update_one(pid, entry, parent)
            if updated is None:
                self._entries.pop(pid, None)
            else:
                self._entries[pid] = updated
            facts = updated.facts if updated is not None else None
            if key is not None and old is not None and (updated is None or updated.key != key):
                gone.append(key)
                old = None
            if updated is not None and facts is not None and facts is not old:
                (added if old is None else changed)[updated.key] = facts
        if added or changed or gone:
            live = dict(self.live)
            for key in gone:
                live.pop(key, None)
            live.update(changed)
            live.update(added)
            self.live = live
        return Changes(tuple(added), tuple(changed), tuple(gone))

    def _update_one(self, pid: int, entry: _Entry | None, parent: int | None = None) -> _Entry | None:
        due = entry is None or self._scan >= entry.due_scan
        if entry is not None and entry.facts is None and not due:
            return entry
        same = entry
        try:
            raw = self._reader.stat_text(pid)
            if entry is not None and not due and raw == entry.stat.raw:
                return entry
            stat = parse_stat(pid, raw)
            if entry is None or entry.stat.start_ticks != stat.start_ticks:
                same = None
                return self._read_new(stat, parent)
            return self._read_known(entry, stat, due)
        except (ProcessGoneError, ValueError):
            self._vanished += 1
        except ProcessHiddenError:
            self._hidden += 1
        except OSError:
            self._failed += 1
            return same
        return None

    def _read_new(self, stat: Stat, parent: int | None) -> _Entry | None:
        if stat.ended:
            return None
        self._dirty = True
        key = ProcessKey(stat.pid, stat.start_ticks)
        facts = None if stat.kernel_thread else self._forked(stat, parent) or self._full(stat)
        # Processes found by the first scan are old on the whole; reading them all again soon would cost for
        # nothing.
        first_scan = -YOUNG_SCANS if self._first_scan else self._scan
        return _Entry(stat, facts, key, first_scan, self._next_due(stat.pid, first_scan), self._wanted)

    def _read_known(self, entry: _Entry, stat: Stat, due: bool) -> _Entry | None:
        if stat.ended:
            return None
        old = entry.facts
        if old is not None:
            facts = old
            # A process whose first thread has ended shows no more than its stat; what was known remains true.
            if stat.leader_gone:
                facts = replace(old, ppid=stat.ppid)
            elif stat.image != entry.stat.image or entry.wanted is not self._wanted:
                facts = self._full(stat)
            elif due or stat.comm != old.comm:
                self._refreshed += 1
                facts = self._reader.refreshed(old, stat)
            elif stat.ppid != old.ppid:
                facts = replace(old, ppid=stat.ppid)
            if facts is not old and facts != old:
                entry.facts = facts
                self._dirty = True
            entry.wanted = self._wanted
        entry.stat = stat
        if due:
            entry.due_scan = self._next_due(stat.pid, entry.first_scan)
        return entry

    def _forked(self, stat: Stat, parent: int | None) -> ProcessFacts | None:
        known = self._entries.get(parent) if parent is not None else None
        if known is None or known.facts is None or known.wanted is not self._wanted:
            return None
        # Not the same program, or one that we may not look into: then everything must be read.
        if known.stat.image != stat.image or not any(int(address) for address in stat.image):
            return None
        return self._reader.forked(known.facts, stat)

    def _full(self, stat: Stat) -> ProcessFacts:
        self._read_in_full += 1
        return self._reader.facts(stat, self._wanted)

    def _next_due(self, pid: int, first_scan: int) -> int:
        if self._scan - first_scan < YOUNG_SCANS:
            return self._scan + 1
        return self._scan + REFRESH_SCANS - (self._scan + pid) % REFRESH_SCANS

    def _relabel(self) -> None:
        revision = self._reader.labels.revision
        if revision == self._label_revision:
            return
        self._label_revision = revision
        for entry in self._entries.values():
            if entry.facts is not None:
                labels = tuple(sorted(self._reader.labels.labels_of(entry.facts.cgroups).items()))
                if labels != entry.facts.labels:
                    self._dirty = True
                    entry.facts = replace(entry.facts, labels=labels)


def _given_out(pid: int, before: int | None, now: int | None) -> bool:
    """Whether the kernel may have given ``pid`` out between two instants, by the pids given out last at each."""
    if before is None or now is None:
        return True
    return before < pid <= now if before <= now else pid > before or pid <= now
