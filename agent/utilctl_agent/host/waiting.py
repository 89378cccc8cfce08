"""How long a thread has waited for a CPU, up to this instant, from the counters of /proc/PID/schedstat."""

from __future__ import annotations


class WaitCounter:
    """The kernel counts a wait only once it is over, when the thread gets a CPU (sched-stats.rst).

    A thread that is ready and whose counters stand still has waited since the last look: that much is counted ahead,
    and not again when the wait is over. Times in nanoseconds.
    """

    def __init__(self, counters: tuple[int, int], now_ns: int) -> None:
        """counters: time run, time waited."""
        self._counters = counters
        self._looked_ns = now_ns
        self._ahead_ns = 0

    def waited_ns(self, counters: tuple[int, int], now_ns: int, *, ready: bool) -> int:
        """How long it has waited since the last look. ready: it waits or runs at this instant."""
        waited_ns = 0
        if counters != self._counters:
            waited_ns = max(0, counters[1] - self._counters[1] - self._ahead_ns)
            self._ahead_ns = 0
        elif ready:
            waited_ns = now_ns - self._looked_ns
            self._ahead_ns += waited_ns
        self._counters, self._looked_ns = counters, now_ns
        return waited_ns


def parse_schedstat(content: bytes) -> tuple[int, int]:
    """Time run and time waited, of the first two fields."""
    ran, waited, _ = content.split()
    return int(ran), int(waited)
