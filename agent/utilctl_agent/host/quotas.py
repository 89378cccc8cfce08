"""A cgroup with a quota of CPU time: ``cpu.cfs_quota_us`` in version 1, ``cpu.max`` in version 2.

For cgroups of our own making only, which begin without a quota. What it used and how long it waited for a CPU, held
back by the quota or by others, comes from ``cpu.stat`` and ``cpu.pressure`` (PSI, the ``full`` line) of a version 2
cgroup that holds the same processes; where version 2 has the cpu controller it is the same one. The quota is noted in
the journal before it is set, so that guard, next start and ``utilctl thaw --all`` lift it after a crash.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Final

from utilctl_agent.alps.model import Reading
from utilctl_agent.host.cgroup import cgroup2_mount
from utilctl_agent.host.cgroupfile import opening, translated
from utilctl_agent.host.hierarchies import probe
from utilctl_agent.host.port import ForeignWeightError, GroupGoneError, Ledger, MechanismError
from utilctl_agent.host.weights import weight_mount
from utilctl_agent.safety.journal import NO_QUOTA, quota_in
from utilctl_common.errors import FailedError
from utilctl_common.quantities import NS_PER_US

QUOTA_V1: Final = "cpu.cfs_quota_us"
PERIOD_V1: Final = "cpu.cfs_period_us"
QUOTA_V2: Final = "cpu.max"
PRESSURE: Final = "cpu.pressure"


def quota_mounts() -> tuple[Path, ...]:
    """Where a program needs cgroups to have a quota and be measured: one of the cpu controller, one of version 2.

    They may be the same. Empty where that is not possible.
    """
    held, unified = weight_mount(), cgroup2_mount()
    return () if held is None or unified is None else tuple(dict.fromkeys((held, unified)))


def quota_refusal() -> str | None:
    """Why this process cannot give cgroups a quota here, in a few words; None if it can."""
    mounts = quota_mounts()
    if not mounts:
        return "no cgroup hierarchy has the cpu controller, or version 2 is not mounted"
    knob, value = (QUOTA_V2, "max") if mounts[0] == mounts[-1] else (QUOTA_V1, "-1")
    return probe(mounts[0], knob, value) or probe(mounts[-1], PRESSURE, None)


class QuotaGroup:
    """One cgroup with a quota. Implements host.port.Group but for pauses, which it refuses."""

    def __init__(self, path: Path, measured: Path, ledger: Ledger) -> None:
        """path: the cgroup with the cpu controller. measured: the one of version 2, with the same processes.

        Raises GroupGoneError if they do not exist, MechanismError if there is no quota to set.
        """
        self.path = path
        self._ledger = ledger
        self._slot: int | None = None
        self._fds: list[int] = []
        self._knob = QUOTA_V2 if (path / QUOTA_V2).exists() else QUOTA_V1
        with opening(path, self._close_files):
            self._quota = self._open(path / self._knob, os.O_RDWR)
            self._period = self._open(path / PERIOD_V1, os.O_RDWR) if self._knob == QUOTA_V1 else -1
            self._throttled = self._open(path / "cpu.stat", os.O_RDONLY)
            self._stat = self._open(measured / "cpu.stat", os.O_RDONLY)
            self._pressure = self._open(measured / PRESSURE, os.O_RDONLY)
            if self._value() != NO_QUOTA:
                self._close_files()
                raise MechanismError(f"cgroup {path} has a quota already", hint="use --mode freezer or signal")
            self._slot = ledger.enter_weight(str(path), path.stat().st_ino, self._knob, NO_QUOTA)
        self._set = (NO_QUOTA, 0)  # quota and period in microseconds
        self._periods = self._throttled_periods()
        self._held_ns = 0

    def _open(self, path: Path, flags: int) -> int:
        self._fds.append(os.open(path, flags | os.O_CLOEXEC))
        return self._fds[-1]

    @property
    def mechanism(self) -> str:
        """See host.port.Group."""
        return "quota"

    def read(self, *, observe: bool = True) -> Reading:
        """See host.port.Group. Includes what has ended; ``wait_ns`` is exact between readings some jiffies apart."""
        if not self._fds:
            raise GroupGoneError(f"cgroup {self.path} is closed")
        try:
            stat = os.pread(self._stat, 64, 0)
            cpu_ns = int(stat[11 : stat.index(b"\n")]) * NS_PER_US  # "usage_usec N"
            if not observe:
                return Reading(cpu_ns)
            pressure = os.pread(self._pressure, 256, 0)
        except OSError as error:
            raise translated(self.path, error) from None
        return Reading(cpu_ns, int(pressure[pressure.rindex(b"=") + 1 :]) * NS_PER_US)

    def cpu_ns(self) -> int:
        """See host.port.Group."""
        return self.read(observe=False).cpu_ns

    def held_ns(self) -> int:
        """Time by the periods at whose end the quota held somebody back: a count over all CPUs, true to a period.

        PSI knows it exactly, but of each CPU for itself, and shows the average: of a program that changes CPUs, or
        whose children run on others, too little.
        """
        if not self._fds:
            raise GroupGoneError(f"cgroup {self.path} is closed")
        try:
            periods = self._throttled_periods()
        except OSError as error:
            raise translated(self.path, error) from None
        self._held_ns += (periods - self._periods) * self._set[1] * NS_PER_US
        self._periods = periods
        return self._held_ns

    def _throttled_periods(self) -> int:
        content = os.pread(self._throttled, 1024, 0)
        return int(content[content.index(b"nr_throttled ") + 13 :].split(None, 1)[0])

    def set_quota(self, quota_ns: int, period_ns: int) -> None:
        """So much CPU time in every period. Raises ForeignWeightError, GroupGoneError or MechanismError."""
        self.check()
        quota_us, period_us = quota_ns // NS_PER_US, period_ns // NS_PER_US
        if (quota_us, period_us) == self._set or self._slot is None:
            return
        self._ledger.change(self._slot, self._set[0], quota_us)
        try:
            if self._knob == QUOTA_V2:
                os.pwrite(self._quota, b"%d %d" % (quota_us, period_us), 0)
            else:
                if period_us != self._set[1]:
                    self.held_ns()  # of the old period
                    os.pwrite(self._quota, b"-1", 0)  # no period fits every quota
                    os.pwrite(self._period, b"%d" % period_us, 0)
                os.pwrite(self._quota, b"%d" % quota_us, 0)
        except OSError as error:
            self._set = (self._value(), 0)
            raise translated(self.path, error) from None
        self._set = (quota_us, period_us)

    def check(self) -> None:
        """Raise ForeignWeightError if somebody else has set the quota, GroupGoneError if the cgroup is gone."""
        if not self._fds:
            raise GroupGoneError(f"cgroup {self.path} is closed")
        try:
            value = self._value()
        except OSError as error:
            raise translated(self.path, error) from None
        if value != self._set[0]:
            raise ForeignWeightError(
                f"{self._knob} of {self.path} was set by somebody else", hint="it is left as it is"
            )

    def pause(self) -> None:
        """Refused: the kernel does the pausing."""
        raise MechanismError(f"cgroup {self.path} is held back by its quota and never paused by us")

    def resume(self) -> None:
        """Lift the quota, unless it is somebody else's. Raises MechanismError."""
        try:
            self.check()
            os.pwrite(self._quota, b"max" if self._knob == QUOTA_V2 else b"-1", 0)
        except (GroupGoneError, ForeignWeightError):
            pass  # nothing of ours is left to lift
        except OSError as error:
            raise MechanismError(f"{self._knob} of {self.path} cannot be lifted: {error.strerror}") from None
        self._set = (NO_QUOTA, self._set[1])
        if self._slot is not None:
            self._ledger.end(self._slot)

    def close(self) -> None:
        """See host.port.Group. A quota that cannot be lifted stays in the journal, for the guard."""
        with contextlib.suppress(FailedError):
            self.resume()
            if self._slot is not None:
                self._ledger.leave(self._slot)
                self._slot = None
        self._close_files()

    def _value(self) -> int:
        return quota_in(os.pread(self._quota, 32, 0))

    def _close_files(self) -> None:
        while self._fds:
            os.close(self._fds.pop())
