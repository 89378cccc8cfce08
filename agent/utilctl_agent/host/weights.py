"""A cgroup whose weight is moved: ``cpu.shares`` in version 1, ``cpu.weight`` in version 2 with the cpu controller.

Nobody is paused. The weight that was found is noted in the journal before the first write and put back on closing; the
guard, the next start and ``utilctl thaw --all`` do it after a crash. A knob that does not hold what we wrote has been
written by somebody else: from then on it is theirs, and neither moved nor put back.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Final

from utilctl_agent.alps.model import Reading
from utilctl_agent.alps.weights import CPU_SHARES, CPU_WEIGHT, Knob
from utilctl_agent.host.cgroup import cgroup2_mount
from utilctl_agent.host.cgroupfile import opening, translated
from utilctl_agent.host.cputime import CpuTime, open_cpu_time
from utilctl_agent.host.hierarchies import CPU_V1, probe, v1_mount
from utilctl_agent.host.members import SampledThreads
from utilctl_agent.host.port import ForeignWeightError, GroupGoneError, Ledger, MechanismError
from utilctl_common.errors import FailedError

KNOBS: Final = {"cpu.shares": CPU_SHARES, "cpu.weight": CPU_WEIGHT}


def has_weight(path: Path) -> bool:
    """Whether the directory is a cgroup with a weight of its own."""
    return any((path / name).exists() for name in KNOBS)


def weight_mount() -> Path | None:
    """Where cgroups with weights can be made: the version 2 mount if it has the cpu controller, else version 1's."""
    mount = cgroup2_mount()
    if mount is not None:
        with contextlib.suppress(OSError):
            # What stands here is what directories right below the mount have.
            if "cpu" in (mount / "cgroup.subtree_control").read_text().split():
                return mount
    return v1_mount(CPU_V1)


def weight_refusal() -> str | None:
    """Why this process cannot weigh cgroups here, in a few words; None if it can."""
    mount = weight_mount()
    if mount is None:
        return "no cgroup hierarchy has the cpu controller"
    name, knob = ("cpu.weight", CPU_WEIGHT) if mount == cgroup2_mount() else ("cpu.shares", CPU_SHARES)
    return probe(mount, name, str(knob.usual))


class WeightGroup:
    """One cgroup directory with a weight. Implements host.port.Group but for pauses, which it refuses."""

    def __init__(self, path: Path, ledger: Ledger) -> None:
        """Open the cgroup. Raises GroupGoneError if it does not exist, MechanismError if it cannot be weighed."""
        self.path = path
        self._ledger = ledger
        self._slot: int | None = None
        self._fd = -1
        self._cpu: CpuTime | None = None
        self._threads = SampledThreads(path)
        self._foreign = False
        name = next((name for name in KNOBS if (path / name).exists()), None)
        if name is None:
            if not path.is_dir():
                raise GroupGoneError(f"cgroup {path} does not exist")
            raise MechanismError(
                f"cgroup {path} has no weight", hint="name a cgroup of a hierarchy with the cpu controller"
            )
        self.knob: Knob = KNOBS[name]
        self.knob_name = name
        with opening(path, self._close_files):
            self._fd = os.open(path / name, os.O_RDWR | os.O_CLOEXEC)
            self._found = self._last = self._value()
            self._cpu = open_cpu_time(path)
            self._slot = ledger.enter_weight(str(path), path.stat().st_ino, name, self._found)

    @property
    def mechanism(self) -> str:
        """See host.port.Group."""
        return "weight"

    @property
    def weight(self) -> int:
        """The weight that we know it to have."""
        return self._last

    def cpu_ns(self) -> int:
        """See host.port.Group."""
        return self.read(observe=False).cpu_ns

    def read(self, *, observe: bool = True) -> Reading:
        """See host.port.Group. ``wait_ns`` is that of a few threads."""
        if self._cpu is None:
            raise GroupGoneError(f"cgroup {self.path} is closed")
        try:
            if not observe:
                return Reading(self._cpu.read_ns())
            self._value()  # the cpuacct cgroup may outlive this one
            wait_ns, blocked = self._threads.look()
            return Reading(self._cpu.read_ns(), wait_ns, blocked)
        except OSError as error:
            raise translated(self.path, error) from None

    def check(self) -> None:
        """Raise ForeignWeightError if somebody else has written the weight, GroupGoneError if the cgroup is gone."""
        if self._fd < 0:
            raise GroupGoneError(f"cgroup {self.path} is closed")
        try:
            value = self._value()
        except OSError as error:
            raise translated(self.path, error) from None
        if value != self._last and not self._foreign:
            self._foreign = True
            if self._slot is not None:
                self._ledger.end(self._slot)
        if self._foreign:
            raise ForeignWeightError(
                f"{self.knob_name} of {self.path} was set by somebody else", hint="it is left as it is"
            )

    def set_weight(self, weight: int) -> None:
        """Write a weight. Raises what ``check`` raises, or MechanismError; then the weight is as before."""
        self.check()
        if weight == self._last or self._slot is None:
            return
        before = self._last
        self._ledger.change(self._slot, before, weight)
        try:
            os.pwrite(self._fd, b"%d" % weight, 0)
        except OSError as error:
            if before == self._found:
                self._ledger.end(self._slot)
            raise translated(self.path, error) from None
        self._last = weight

    def restore(self) -> None:
        """Write the weight that was found. Raises what ``set_weight`` raises."""
        self.set_weight(self._found)
        if self._slot is not None:
            self._ledger.end(self._slot)

    def pause(self) -> None:
        """Refused: a group under weights is never paused."""
        raise MechanismError(f"cgroup {self.path} is held back by its weight and never paused")

    def resume(self) -> None:
        """Nothing to do."""

    def close(self) -> None:
        """Put the weight back and release file descriptors. Idempotent, never raises."""
        restored = False
        if self._fd >= 0:
            try:
                self.restore()
                restored = True
            except (GroupGoneError, ForeignWeightError):
                restored = True  # nothing is left to put back
            except FailedError:
                restored = self._last == self._found
        self._close_files()
        if restored and self._slot is not None:
            self._ledger.leave(self._slot)
            self._slot = None

    def _value(self) -> int:
        return int(os.pread(self._fd, 32, 0))

    def _close_files(self) -> None:
        self._threads.close()
        if self._cpu is not None:
            self._cpu.close()
            self._cpu = None
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
