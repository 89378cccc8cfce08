"""Process trees: given some processes, all that descend from them. What ``utilctl alps`` follows without cgroups.

Simpler than discovery, for there is nothing to match: a child belongs where its parent does, whatever it runs. With
events no child is missed, not even one whose parents were gone before anybody could look. Without, a child whose
parent ends between two glances is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from utilctl_agent.discovery.batch import EventSource
from utilctl_agent.discovery.procfs import ProcessGoneError, ProcessHiddenError, ProcReader, Stat, parse_stat


@dataclass(slots=True)
class _Member:
    tree: int
    start_ticks: int
    threads: int


class ProcessTrees:
    """Trees by number, in the order of their roots. A process is in at most one, the first that had it."""

    def __init__(self, roots: Sequence[Iterable[int]], reader: ProcReader, events: EventSource | None = None) -> None:
        """Looks at all processes once, for the descendants that the roots have already."""
        self._reader = reader
        self._events = events
        self._members: dict[int, _Member] = {}
        self._listed: set[int] = set()
        for tree, pids in enumerate(roots):
            for pid in pids:
                self._enter(tree, pid)
        self.scan()

    def members(self, tree: int) -> tuple[tuple[int, int], ...]:
        """(pid, start ticks) of a tree's live processes, sorted."""
        return tuple(sorted((pid, m.start_ticks) for pid, m in self._members.items() if m.tree == tree))

    def threads(self, tree: int) -> int:
        """How many threads they had when they were last looked at."""
        return sum(member.threads for member in self._members.values() if member.tree == tree)

    def scan(self) -> None:
        """Look at all processes: the safety net under events and glances."""
        self._listed = set()
        for pid, member in list(self._members.items()):
            stat = self._stat(pid)
            if stat is None or stat.start_ticks != member.start_ticks:
                del self._members[pid]
            else:
                member.threads = stat.threads
        self.glance()

    def glance(self) -> bool:
        """List the pids, and look at those that were not in the last list; True if a tree differs."""
        pids = set(self._reader.pids())
        fresh = [stat for pid in pids - self._listed if pid not in self._members and (stat := self._stat(pid))]
        gone = self._members.keys() - pids
        for pid in gone:
            del self._members[pid]
        size = len(self._members)
        # Parents before their children, as far as start times tell; the rest is found by going through them again.
        fresh.sort(key=lambda stat: (stat.start_ticks, stat.pid))
        found = True
        while found:
            found = False
            for stat in fresh:
                parent = self._members.get(stat.ppid)
                if parent is not None and stat.pid not in self._members:
                    self._members[stat.pid] = _Member(parent.tree, stat.start_ticks, stat.threads)
                    found = True
        self._listed = pids
        return bool(gone) or len(self._members) != size

    def follow(self) -> bool:
        """Take in the events since the last call; True if a tree may differ. Without events nothing is done."""
        if self._events is None:
            return False
        batch = self._events.take()
        if batch.lost:
            self.scan()
            return True
        changed = False
        ours: list[int] = []
        for pid, parent in batch.parents.items():
            owner = self._members.get(parent)
            if owner is not None:
                # What it is exactly is looked up below; its own children, later in the batch, already find their tree.
                self._members[pid] = _Member(owner.tree, -1, 1)
                ours.append(pid)
            elif self._members.pop(pid, None) is not None:
                changed = True  # a stranger got the pid of a process of ours
        for pid in ours:
            member = self._members[pid]
            if pid in batch.exited or not self._identify(pid, member):
                del self._members[pid]
            else:
                changed = True
        for pid in batch.exited:
            known = self._members.get(pid)
            # Its first thread has ended; others may go on.
            if known is not None and not self._identify(pid, known):
                del self._members[pid]
                changed = True
        return changed

    def _enter(self, tree: int, pid: int) -> None:
        stat = self._stat(pid)
        if stat is not None and pid not in self._members:
            self._members[pid] = _Member(tree, stat.start_ticks, stat.threads)

    def _identify(self, pid: int, member: _Member) -> bool:
        """Look who has the pid; False if it is gone, or another than the member was."""
        stat = self._stat(pid)
        if stat is None or member.start_ticks not in (-1, stat.start_ticks):
            return False
        member.start_ticks, member.threads = stat.start_ticks, stat.threads
        return True

    def _stat(self, pid: int) -> Stat | None:
        try:
            stat = parse_stat(pid, self._reader.stat_text(pid))
        except (ProcessGoneError, ProcessHiddenError, OSError, ValueError):
            return None
        return None if stat.ended else stat
