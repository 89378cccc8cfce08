"""A group that is a cgroup of the version 1 freezer hierarchy: one write to ``freezer.state`` stops all of it.

``freezer.state`` says THAWED, FREEZING (some of it still runs: it takes until the next tick at most) or FROZEN; what
was *asked* for stands in ``freezer.self_freezing``, and ``freezer.parent_freezing`` tells of a frozen ancestor. See
Documentation/admin-guide/cgroup-v1/freezer-subsystem.rst. The hierarchy knows nothing of CPU time: that comes from
the cgroup of the same path in the cpuacct hierarchy (module ``cputime``).
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from pathlib import Path

from utilctl_agent.alps.model import Reading
from utilctl_agent.host.cgroup import PRESSURE_EVERY_NS
from utilctl_agent.host.cputime import CpuTime, open_cpu_time
from utilctl_agent.host.hierarchies import FREEZER_V1, probe, v1_mount
from utilctl_agent.host.members import SampledThreads
from utilctl_agent.host.port import ForeignStopError, GroupGoneError, Ledger, MechanismError
from utilctl_agent.safety.journal import JournalError
from utilctl_common.errors import FailedError


def freezer_v1_refusal() -> str | None:
    """Why this process cannot freeze cgroups of version 1 here, in a few words; None if it can."""
    mount = v1_mount(FREEZER_V1)
    return "no freezer hierarchy of cgroup v1 is mounted" if mount is None else probe(mount, "freezer.state", "THAWED")


class FreezerV1Group:
    """One directory of the freezer hierarchy. Implements host.port.Group."""

    def __init__(self, path: Path, ledger: Ledger) -> None:
        """Open the cgroup. Raises GroupGoneError if it does not exist, MechanismError if it cannot be controlled."""
        self.path = path
        self._ledger = ledger
        self._slot: int | None = None
        self._frozen = False
        self._fds: list[int] = []
        self._cpu: CpuTime | None = None
        self._threads = SampledThreads(path)
        self._looked_ns = 0
        try:
            self._state = self._open("freezer.state", os.O_RDWR)
            self._self_freezing = self._open("freezer.self_freezing", os.O_RDONLY)
            self._parent_freezing = self._open("freezer.parent_freezing", os.O_RDONLY)
            self._cpu = open_cpu_time(path)
            self._slot = ledger.enter_cgroup(str(path), path.stat().st_ino, v1=True)
        except FileNotFoundError:
            self._close_files()
            raise GroupGoneError(f"cgroup {path} does not exist") from None
        except JournalError as error:
            self._close_files()
            raise MechanismError(f"cgroup {path} cannot be journalled: {error}") from None
        except OSError as error:
            self._close_files()
            raise MechanismError(
                f"cgroup {path} cannot be controlled: {error.strerror}", hint="run the agent as root or use signals"
            ) from None

    def _open(self, name: str, flags: int) -> int:
        fd = os.open(self.path / name, flags | os.O_CLOEXEC)
        self._fds.append(fd)
        return fd

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
            raise self._translated(error) from None

    def pause(self) -> None:
        """See host.port.Group."""
        if self._frozen or self._slot is None:
            return
        try:
            if os.pread(self._self_freezing, 1, 0) != b"0":
                raise ForeignStopError(f"cgroup {self.path} was frozen by somebody else", hint="it is left frozen")
            if os.pread(self._parent_freezing, 1, 0) != b"0":
                raise ForeignStopError(f"a cgroup above {self.path} was frozen by somebody else", hint="thaw that one")
            self._ledger.begin(self._slot, time.monotonic_ns())
            os.pwrite(self._state, b"FROZEN", 0)
        except OSError as error:
            self._ledger.end(self._slot)
            raise self._translated(error) from None
        self._frozen = True

    def resume(self) -> None:
        """See host.port.Group."""
        if not self._frozen or self._slot is None:
            return
        try:
            os.pwrite(self._state, b"THAWED", 0)
        except OSError as error:
            if error.errno != errno.ENODEV:  # removed meanwhile: nothing is left to resume
                raise self._translated(error) from None
        self._frozen = False
        self._ledger.end(self._slot)

    def close(self) -> None:
        """See host.port.Group."""
        with contextlib.suppress(FailedError):
            self.resume()
        self._close_files()
        if self._slot is not None and not self._frozen:
            self._ledger.leave(self._slot)
            self._slot = None

    def _close_files(self) -> None:
        self._threads.close()
        if self._cpu is not None:
            self._cpu.close()
            self._cpu = None
        while self._fds:
            os.close(self._fds.pop())

    def _translated(self, error: OSError) -> FailedError:
        if error.errno in (errno.ENODEV, errno.ENOENT, errno.EBADF):
            return GroupGoneError(f"cgroup {self.path} was removed")
        return MechanismError(f"cgroup {self.path}: {error.strerror}", hint="is it mounted read-only?")
