"""A group that is one process and all that descend from it, whatever becomes of them.

Children may live for less time than lies between two looks, so they are looked for at every reading and at every pause
(/proc/PID/task/TID/children), and what those have used that nobody saw is found where the kernel hands it up to
(module ``alps.handed_up``). Who leaves is told by the kernel alone: one that has ended and was not waited for yet still
holds what it has used.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from itertools import cycle, islice
from typing import Final

from utilctl_agent.alps.handed_up import LATE_TICKS, HandedUp
from utilctl_agent.alps.model import Reading
from utilctl_agent.host.children import children
from utilctl_agent.host.port import Ledger
from utilctl_agent.host.processes import BLOCKED_STATES, ProcessGroup
from utilctl_agent.host.procstat import TICK_NS, ProcessId, identify, parse_handed_up_ns
from utilctl_common.quantities import NS_PER_S

MOST_PARENTS: Final = 16
"""Members whose children are looked for at once; the next time it is the next ones'. Arbitrary: 10 us each."""
THOROUGH_NS: Final = NS_PER_S
"""How often one that seems to be alone is looked at as if it were not: orphans, children of other threads."""
PAUSE_ROUNDS: Final = 4
"""How often children are looked for while pausing: those that were forked before their parent was stopped."""
COMPANY_NS: Final = NS_PER_S
"""Who had children so lately may have some at any time: what is known of waiting is then that of one of several."""


class FamilyGroup(ProcessGroup):
    """Implements host.port.Group. It goes on when all have ended, and then says what they have used."""

    def __init__(self, processes: Iterable[ProcessId], ledger: Ledger, *, reaper: ProcessId | None = None) -> None:
        """``reaper``: the process that adopts orphans of the family; what is handed to it counts, itself does not."""
        self._account: HandedUp[ProcessId] = HandedUp(TICK_NS)
        self._ended_since: list[tuple[ProcessId, int]] = []
        self._reaper = reaper
        self._reaper_stat = -1
        self._company_ns = -COMPANY_NS
        self._look_at = 0
        self._thorough_ns = 0  # when the next thorough look is due
        if reaper is not None:
            self._follow_reaper(reaper)
        super().__init__(processes, ledger, keep_empty=True)

    def _follow_reaper(self, reaper: ProcessId) -> None:
        try:
            self._reaper_stat = os.open(f"/proc/{reaper.pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
            self._account.begin(reaper, parse_handed_up_ns(os.pread(self._reaper_stat, 1024, 0)))
        except OSError:  # it has ended, and the family with it
            self._close_reaper()

    def amend(self, joined: Iterable[ProcessId], left: Iterable[ProcessId]) -> None:
        """See ProcessGroup.amend. Who is said to have left is found to be gone when it is."""
        super().amend(joined, ())

    def _join(self, process: ProcessId) -> None:
        super()._join(process)
        member = self._members.get(process)
        if member is None:
            return
        # One that is counted from its birth is so with its children.
        handed_ns = 0
        if self._seen_ns[process]:
            try:
                handed_ns = member.handed_up_ns()
            except OSError:
                handed_ns = 0
        self._account.begin(process, handed_ns)

    def _counts_from_birth(self, process: ProcessId) -> bool:
        """However late it is found: whoever is born into the family belongs to it."""
        return self._since_ticks <= process.start_ticks

    def _drop(self, process: ProcessId) -> None:
        before_ns = self._past_ns
        super()._drop(process)
        self._ended_since.append((process, self._past_ns - before_ns))

    def cpu_ns(self) -> int:
        """See host.port.Group. Late by up to two clock ticks for what has ended."""
        handed_ns: dict[ProcessId, int] = {}
        for process, member in self._members.items():
            try:
                handed_ns[process] = member.handed_up_ns()
            except OSError:
                continue  # it is gone: so says its clock, too
        if self._reaper is not None and self._reaper_stat >= 0:
            try:
                handed_ns[self._reaper] = parse_handed_up_ns(os.pread(self._reaper_stat, 1024, 0))
            except OSError:
                self._close_reaper()
        total_ns = super().cpu_ns()
        ended, self._ended_since = self._ended_since, []
        gone = {process for process, _ in ended}
        unseen_ns = self._account.look({p: ns for p, ns in handed_ns.items() if p not in gone}, ended)
        if unseen_ns or len(self._members) > 1:
            self._company_ns = time.monotonic_ns()
        self._past_ns += unseen_ns
        return total_ns + unseen_ns

    def read(self, *, observe: bool = True) -> Reading:
        """See host.port.Group."""
        if observe:
            alone = self._read_alone()
            if alone is not None:
                return alone
            self._adopt()
            self._thorough_ns = time.monotonic_ns() + THOROUGH_NS
        return super().read(observe=observe)

    def _read_alone(self) -> Reading | None:
        """The reading of a process without children, at the least cost; None if it is, or may be, something else."""
        now_ns = time.monotonic_ns()
        if len(self._members) != 1 or now_ns >= self._thorough_ns or now_ns - self._company_ns < COMPANY_NS:
            return None
        ((process, member),) = self._members.items()
        try:
            letter, handed_ns = member.glance()
            if member.threads != 1 or handed_ns != self._account.handed_ns(process) or member.has_children():
                return None
            cpu_ns = self._seen_ns[process] = member.cpu_ns()
            wait_ns = member.wait_ns(letter)
        except OSError:
            return None
        if wait_ns is None:
            return None
        return Reading(self._past_ns + cpu_ns, wait_ns, letter in BLOCKED_STATES if self.tells_state else None)

    def _with_waiting(self, cpu_ns: int) -> Reading:
        if time.monotonic_ns() - self._company_ns >= COMPANY_NS:
            return super()._with_waiting(cpu_ns)
        try:
            blocked = all(member.state() in BLOCKED_STATES for member in self._members.values())
        except OSError:
            blocked = True
        return Reading(cpu_ns, None, blocked, late_ns=LATE_TICKS * TICK_NS)

    def pause(self) -> None:
        """See host.port.Group."""
        if self._paused:
            return
        super().pause()
        for _ in range(PAUSE_ROUNDS):
            if not self._may_have_children() or not self._adopt():
                return

    def _may_have_children(self) -> bool:
        if len(self._members) != 1 or time.monotonic_ns() - self._company_ns < COMPANY_NS:
            return True
        (member,) = self._members.values()
        try:
            return member.threads != 1 or member.has_children()
        except OSError:
            return True

    def _adopt(self) -> bool:
        """Let children join that are not known yet; True if there were any."""
        found: set[int] = set()
        count = len(self._members)
        if self._reaper_stat >= 0 and self._reaper is not None:
            found.update(children(self._reaper.pid, 1))
        first = self._look_at % count if count else 0
        self._look_at = first + MOST_PARENTS
        for process, member in islice(cycle(self._members.items()), first, first + min(MOST_PARENTS, count)):
            offspring = children(process.pid, member.threads)
            if offspring and not member.ended():  # the pid was still its own
                found.update(offspring)
        found.difference_update(process.pid for process in self._members)
        fresh = [child for pid in sorted(found) if (child := identify(pid)) is not None]
        for child in fresh:
            self._join(child)
        return bool(fresh)

    def close(self) -> None:
        """See host.port.Group."""
        super().close()
        self._close_reaper()

    def _close_reaper(self) -> None:
        if self._reaper_stat >= 0:
            os.close(self._reaper_stat)
            self._reaper_stat = -1
