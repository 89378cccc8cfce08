"""Groups that are cgroups (version 2, also on hybrid mounts): one write pauses any number of processes.

The freezer is invisible to the application (no signals, no EINTR). CPU time comes from ``cpu.stat``, the time in
which the group was ready and nothing of it ran from ``cpu.pressure`` (PSI, the ``full`` line). See
Documentation/admin-guide/cgroup-v2.rst. Pausing is in module ``freezing``.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import Final

from utilctl_agent.alps.model import Reading
from utilctl_agent.host.cgroupfile import opening, translated
from utilctl_agent.host.freezing import FreezableCgroup, FreezerState
from utilctl_agent.host.port import ForeignStopError, Ledger
from utilctl_agent.host.procstat import read_state
from utilctl_common.quantities import NS_PER_MS, NS_PER_S, NS_PER_US


def cgroup2_mount() -> Path | None:
    """Where the version 2 hierarchy is mounted, from /proc/self/mountinfo; None if it is not."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/mountinfo").read_text().splitlines():
            before, _, after = line.partition(" - ")
            if after.startswith("cgroup2 "):
                return Path(before.split()[4])
    return None


def freezer_refusal() -> str | None:
    """Why this process cannot freeze cgroups here, in a few words; None if it can."""
    mount = cgroup2_mount()
    if mount is None:
        return "no cgroup v2 hierarchy is mounted"
    probe = mount / f"utilctl-probe-{os.getpid()}-{os.urandom(4).hex()}"
    try:
        probe.mkdir()
    except OSError as error:
        return f"cgroups cannot be made in {mount}: {error.strerror}"
    try:
        (probe / "cgroup.freeze").write_text("0")
    except OSError as error:
        return f"cgroup.freeze cannot be written: {error.strerror}"
    finally:
        probe.rmdir()
    return None


PRESSURE_EVERY_NS: Final = 12 * NS_PER_MS
"""Least time between readings of ``cpu.pressure``. The kernel weighs what it adds up at each reading by whole jiffies
of non-idle time (collect_percpu_times in kernel/sched/psi.c), so that readings closer than a jiffy lose time. Two
jiffies at HZ=250, one at HZ=100."""


SAMPLED_MEMBERS: Final = 8
"""Processes whose state is looked at to tell whether the group is ready at this instant. Arbitrary: 3 us each."""
MEMBERS_EVERY_NS: Final = NS_PER_S
CLOCK_TOLERANCE_NS: Final = 200 * NS_PER_US
"""By how much usage and CPU clock may drift apart, by rounding and by the time between the two readings."""


class CgroupGroup(FreezableCgroup):
    """One cgroup directory. Implements host.port.Group."""

    FROZEN = b"1"
    THAWED = b"0"
    THREADS = "cgroup.threads"
    UNINTERRUPTIBLE = b"D"

    def __init__(self, path: Path, ledger: Ledger) -> None:
        """Open the cgroup. Raises GroupGoneError if it does not exist, MechanismError if it cannot be controlled."""
        super().__init__(path, ledger)
        self._pressure: int | None = None
        self._pressure_read_ns = 0
        self._members: list[bytes] = []
        self._members_read_ns = 0
        self._clock: int | None = None  # the CPU clock of its only process
        self._clock_base_ns = 0  # the cgroup's usage before that clock began to count
        with opening(path, self._close_files):
            self._stat = self._open("cpu.stat", os.O_RDONLY)
            self._switch = self._open("cgroup.freeze", os.O_RDWR)
            self._events = self._open("cgroup.events", os.O_RDONLY)
            with contextlib.suppress(OSError):
                self._pressure = self._open("cpu.pressure", os.O_RDONLY)
            self._enter()

    @property
    def mechanism(self) -> str:
        """See host.port.Group."""
        return "freezer"

    def read(self, *, observe: bool = True) -> Reading:
        """See host.port.Group. All but ``cpu_ns`` is known every PRESSURE_EVERY_NS."""
        cpu_ns = self._usage_ns()
        if self._clock is not None:
            self._check_clock(cpu_ns)
        if not observe:
            return Reading(cpu_ns)
        try:
            wait_ns: int | None = None
            queued_ns: int | None = None
            blocked: bool | None = None
            now_ns = time.monotonic_ns()
            if now_ns - self._members_read_ns >= MEMBERS_EVERY_NS:
                self._members_read_ns = now_ns
                self._read_members(cpu_ns)
            if now_ns - self._pressure_read_ns >= PRESSURE_EVERY_NS:
                self._pressure_read_ns = now_ns
                blocked = self._blocked()
                if self._pressure is not None:
                    pressure = os.pread(self._pressure, 256, 0)
                    # "some ... total=N", "full ... total=N"
                    wait_ns = int(pressure[pressure.rindex(b"=") + 1 :]) * NS_PER_US
                    some = pressure[: pressure.index(b"\n")]
                    queued_ns = int(some[some.rindex(b"=") + 1 :]) * NS_PER_US
        except OSError as error:
            raise translated(self.path, error) from None
        return Reading(cpu_ns, wait_ns, blocked, queued_ns)

    def cpu_ns(self) -> int:
        """See host.port.Group. Of a lone process by its CPU clock: once the caches are cold, a third of the cost."""
        if self._clock is not None:
            try:
                return time.clock_gettime_ns(self._clock) + self._clock_base_ns
            except OSError:
                self._clock = None
        return self._usage_ns()

    def _check_clock(self, usage_ns: int) -> None:
        """Align the clock of the lone process with the cgroup's usage; without it if somebody else used CPU time."""
        assert self._clock is not None
        try:
            base_ns = usage_ns - time.clock_gettime_ns(self._clock)
        except OSError:
            self._clock = None
            return
        if abs(base_ns - self._clock_base_ns) > CLOCK_TOLERANCE_NS:
            self._clock = None
        self._clock_base_ns = base_ns

    def _read_members(self, usage_ns: int) -> None:
        self._members = (self.path / "cgroup.procs").read_bytes().split()
        if len(self._members) != 1:
            self._clock = None
        elif self._clock is None:
            with contextlib.suppress(OSError):
                clock = (~int(self._members[0]) << 3) | 2  # its process CPU clock, clock_getcpuclockid(3)
                self._clock_base_ns = usage_ns - time.clock_gettime_ns(clock)
                self._clock = clock

    def _usage_ns(self) -> int:
        try:
            stat = os.pread(self._stat, 64, 0)
            return int(stat[11 : stat.index(b"\n")]) * NS_PER_US  # "usage_usec N"
        except OSError as error:
            raise translated(self.path, error) from None

    def _blocked(self) -> bool | None:
        """Whether none of the members is ready or running; None if there are too many to look at."""
        for pid in self._members[:SAMPLED_MEMBERS]:
            found = read_state(int(pid))
            if found is not None and found[0] == b"R":
                return False
        return True if len(self._members) <= SAMPLED_MEMBERS else None

    def _refuse_foreign(self) -> None:
        if os.pread(self._switch, 1, 0) != b"0":
            raise ForeignStopError(f"cgroup {self.path} was frozen by somebody else", hint="it is left frozen")

    def _state(self) -> FreezerState:
        # What the kernel has reached; the switch says what was asked for. Below a frozen cgroup all are frozen.
        if b"frozen 1" in os.pread(self._events, 64, 0):
            return "frozen"
        return "thawed" if os.pread(self._switch, 1, 0) == b"0" else "freezing"

    def _close_files(self) -> None:
        super()._close_files()
        self._stat = self._events = -1
        self._pressure = self._clock = None
