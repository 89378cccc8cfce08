"""A core that caps one program by a quota that the kernel keeps, moved so that its ready periods are as slow as asked.

What is promised is that of module ``progress``: of the time in which the program could run it gets the part ``cap``,
waits are not stretched and earn nothing, and what others took is made up for. The kernel's quota (CFS bandwidth) is
another thing: so much CPU time in every period, whether the program was ready in it or not. A program that computes and
waits in turn gets too much by it, one that others keep from the CPU too little. So the *balance*, ``cap * ready -
used``, is kept here as well, and moves the quota a little now and then, while the kernel does the pausing.

The rule is ``quota = cap - offset + balance / horizon``. The *offset* is by how much the rate over ready time differs
from the quota, as it was seen at the last looks: for the same program it is much the same all the time. A program that
waits has an offset above zero. Below zero it is where the kernel gives less than the quota says: at 75 % of a period of
10 ms, of which its ticks of 4 ms are no part, 68 %. The balance is what is left to be repaid. A look takes a process
with cold caches some 0.2 ms, so looks become rarer as long as they find nothing new. Pure.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from utilctl_agent.alps.model import Reading
from utilctl_common.quantities import NS_PER_MS, NS_PER_S, NS_PER_US

PERIOD_NS: Final = 10 * NS_PER_MS
"""The kernel's period, where the quota is long enough for it. The shorter, the less a program that has just waited can
use at once: bursts of 50 ms under 50 % took 1.8 times as long with 10 ms, 1.2 times with the usual 100 ms."""
LEAST_QUOTA_NS: Final = 1_100 * NS_PER_US
"""A little more than the kernel's least quota of 1 ms, so that there is room below."""
KERNEL_LEAST_NS: Final = NS_PER_MS
LONGEST_PERIOD_NS: Final = NS_PER_S
"""The kernel's bound."""
LEAST_CAP: Final = 0.005
"""Below, the program would stand still for most of a second each time: the kernel notices only at its ticks (4 ms) that
a quota is used up, and makes good for it afterwards."""
FIRST_LOOK_NS: Final = 250 * NS_PER_MS
LAST_LOOK_NS: Final = 4 * NS_PER_S
"""Time between two looks: doubled as long as the rate is as expected."""
SETTLED: Final = 0.02
"""The relative error of a rate between two looks that is nothing new."""
TICK_NS: Final = 8 * NS_PER_MS
"""CPU time by which it may be off for want of finer ticks: two of 4 ms."""
HORIZON_LOOKS: Final = 2
"""A balance is repaid over so many times the time to the next look: one would do, were there no noise."""
MOST_CREDIT_NS: Final = 2 * NS_PER_S
"""Ready time that others have taken and that is made up for later, at most; and as much debt, the other way round."""
LEARNED: Final = 0.5
"""Part of what a look finds the offset to be wrong by that is corrected. One would follow every burst."""
LEAST_READY: Final = 0.05
"""Part of the time between two looks in which it was ready at least, for its rate to say anything."""
MOST_OFFSET: Final = 0.5
"""Of the cap; what others take looks like an offset, too, and is another thing as soon as they are gone."""
LOWEST, HIGHEST = 0.4, 2.5
"""Bounds of the quota, in parts of the cap: what is made up for must not look like no cap at all, or like a halt."""


class Quota(NamedTuple):
    """CPU time in every period, in nanoseconds, and when to look next."""

    quota_ns: int
    period_ns: int
    next_look_ns: int


class QuotaScheduler:
    """Meters one program. Times are arguments and must not decrease."""

    def __init__(self, cap_cores: float, cores: int, now_ns: int, reading: Reading) -> None:
        """cores: CPUs that the program may use."""
        self._cores = cores
        self._cap = cap_cores
        self._balance_ns = 0.0
        self._offset = 0.0
        self._set: float | None = None  # the quota in force, in cores
        self._look_ns = FIRST_LOOK_NS
        self._seen_ns = now_ns
        self._reading = reading
        self._held_ns = 0

    @property
    def balance_ns(self) -> float:
        """CPU time that is due to the program; negative: that it has had too much."""
        return self._balance_ns

    def change(self, cap_cores: float, cores: int) -> None:
        """Another cap from now on; nothing that was owed under the old one is claimed under the new one."""
        self._cores = cores
        if cap_cores != self._cap:
            self._cap = cap_cores
            self._balance_ns = 0.0
            self._offset = 0.0
            self._set = None
            self._look_ns = FIRST_LOOK_NS

    def decide(self, now_ns: int, reading: Reading, held_ns: int = 0) -> Quota:
        """Account for what it used and waited for since the last look (``cpu_ns``, ``wait_ns``), and set the quota.

        ``wait_ns`` is the time in which it was ready and nothing of it ran, held back or not. Without it, all the time
        counts as ready. held_ns: time of the periods at whose end the quota held it back, cumulative; it was ready at
        least then, should ``wait_ns`` say too little (see host.quotas).
        """
        elapsed_ns, self._seen_ns = now_ns - self._seen_ns, now_ns
        used_ns = max(0, reading.cpu_ns - self._reading.cpu_ns)
        ready_ns = elapsed_ns
        if reading.wait_ns is not None and self._reading.wait_ns is not None:
            # Several that run at once make this more than it was; at most it is all the time.
            waited_ns = max(0, reading.wait_ns - self._reading.wait_ns)
            ready_ns = min(elapsed_ns, max(used_ns + waited_ns, held_ns - self._held_ns))
        self._reading, self._held_ns = reading, held_ns
        earned_ns = self._cap * ready_ns - used_ns
        most_ns = self._cap * MOST_CREDIT_NS
        self._balance_ns = max(-most_ns, min(most_ns, self._balance_ns + earned_ns))
        self._learn(used_ns, ready_ns, elapsed_ns)
        self._pace(abs(earned_ns), self._cap * ready_ns, elapsed_ns)
        return self._quota(now_ns)

    def _learn(self, used_ns: int, ready_ns: int, elapsed_ns: int) -> None:
        # Looks that come early (a changed cap) are too short to tell anything.
        if self._set is None or elapsed_ns < FIRST_LOOK_NS // 2 or ready_ns < LEAST_READY * elapsed_ns:
            return
        wrong = used_ns / ready_ns - self._set - self._offset
        most = MOST_OFFSET * self._cap
        self._offset = max(-most, min(most, self._offset + LEARNED * wrong))

    def _pace(self, off_ns: float, due_ns: float, elapsed_ns: int) -> None:
        if off_ns <= SETTLED * due_ns + TICK_NS:
            # Looks that come early (a changed cap) say nothing about those that are due.
            if elapsed_ns >= self._look_ns // 2:
                self._look_ns = min(LAST_LOOK_NS, 2 * self._look_ns)
        else:
            self._look_ns = max(FIRST_LOOK_NS, self._look_ns // 2)

    def _quota(self, now_ns: int) -> Quota:
        most = min(HIGHEST * self._cap, max(self._cap, float(self._cores)))
        wanted = self._cap - self._offset + self._balance_ns / (HORIZON_LOOKS * self._look_ns)
        cores = max(LOWEST * self._cap, min(most, wanted))
        period_ns = min(LONGEST_PERIOD_NS, max(PERIOD_NS, round(LEAST_QUOTA_NS / self._cap)))
        quota_ns = max(KERNEL_LEAST_NS, round(cores * period_ns))
        self._set = quota_ns / period_ns
        return Quota(quota_ns, period_ns, now_ns + self._look_ns)
