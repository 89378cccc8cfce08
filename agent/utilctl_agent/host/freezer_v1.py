"""A group that is a cgroup of the version 1 freezer hierarchy: one write to ``freezer.state`` stops all of it.

``freezer.state`` says THAWED, FREEZING (some of it still runs: it takes until the next tick at most) or FROZEN; what
was *asked* for stands in ``freezer.self_freezing``, and ``freezer.parent_freezing`` tells of a frozen ancestor. See
Documentation/admin-guide/cgroup-v1/freezer-subsystem.rst. The hierarchy knows nothing of CPU time: that comes from
the cgroup of the same path in the cpuacct hierarchy (module ``cputime``).
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from utilctl_agent.alps.model import Reading
from utilctl_agent.host.cgroup import PRESSURE_EVERY_NS
from utilctl_agent.host.cgroupfile import opening, translated
from utilctl_agent.host.cputime import CpuTime, open_cpu_time
from utilctl_agent.host.freezing import FreezableCgroup, FreezerState
from utilctl_agent.host.hierarchies import FREEZER_V1, probe, v1_mount
from utilctl_agent.host.members import SampledThreads
from utilctl_agent.host.port import ForeignStopError, GroupGoneError, Ledger


def freezer_v1_refusal() -> str | None:
    """Why this process cannot freeze cgroups of version 1 here, in a few words; None if it can."""
    mount = v1_mount(FREEZER_V1)
    return "no freezer hierarchy of cgroup v1 is mounted" if mount is None else probe(mount, "freezer.state", "THAWED")


class FreezerV1Group(FreezableCgroup):
    """One directory of the freezer hierarchy. Implements host.port.Group."""

    FROZEN = b"FROZEN"
    THAWED = b"THAWED"
    THREADS = "tasks"
    UNINTERRUPTIBLE = None  # frozen by this version shows as state D

    def __init__(self, path: Path, ledger: Ledger) -> None:
        """Open the cgroup. Raises GroupGoneError if it does not exist, MechanismError if it cannot be controlled."""
        super().__init__(path, ledger)
        self._cpu: CpuTime | None = None
        self._threads = SampledThreads(path)
        self._looked_ns = 0
        with opening(path, self._close_files):
            self._switch = self._open("freezer.state", os.O_RDWR)
            self._self_freezing = self._open("freezer.self_freezing", os.O_RDONLY)
            self._parent_freezing = self._open("freezer.parent_freezing", os.O_RDONLY)
            self._cpu = open_cpu_time(path)
            self._enter(v1=True)

    @property
    def mechanism(self) -> str:
        """See host.port.Group."""
        return "freezer-v1"

    def cpu_ns(self) -> int:
        """See host.port.Group."""
        return self.read(observe=False).cpu_ns

    def read(self, *, observe: bool = True) -> Reading:
        """See host.port.Group. ``wait_ns`` is known of a single thread, ``blocked`` every PRESSURE_EVERY_NS."""
        if self._cpu is None:
            raise GroupGoneError(f"cgroup {self.path} is closed")
        try:
            if not observe:
                return Reading(self._cpu.read_ns())
            os.pread(self._self_freezing, 1, 0)  # the cpuacct cgroup may outlive this one
            now_ns = time.monotonic_ns()
            wait_ns: int | None = None
            blocked: bool | None = None
            if now_ns - self._looked_ns >= PRESSURE_EVERY_NS:
                self._looked_ns = now_ns
                waited_ns, blocked = self._threads.look()
                # Of several threads one may run while others wait: their sum says nothing about the group.
                wait_ns = waited_ns if self._threads.single else None
            return Reading(self._cpu.read_ns(), wait_ns, blocked)
        except OSError as error:
            raise translated(self.path, error) from None

    def _refuse_foreign(self) -> None:
        if os.pread(self._self_freezing, 1, 0) != b"0":
            raise ForeignStopError(f"cgroup {self.path} was frozen by somebody else", hint="it is left frozen")
        if os.pread(self._parent_freezing, 1, 0) != b"0":
            raise ForeignStopError(f"a cgroup above {self.path} was frozen by somebody else", hint="thaw that one")

    def _state(self) -> FreezerState:
        state = os.pread(self._switch, 16, 0)  # the kernel looks at every task when asked
        return "frozen" if state == b"FROZEN\n" else "freezing" if state == b"FREEZING\n" else "thawed"

    def _close_files(self) -> None:
        super()._close_files()
        self._threads.close()
        if self._cpu is not None:
            self._cpu.close()
            self._cpu = None
        self._self_freezing = self._parent_freezing = -1
