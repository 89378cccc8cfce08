"""The watcher's side of this process: starts it, and reads what it saw as pauses."""

from __future__ import annotations

import json
import mmap
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final

from chaos.targets import Target
from support.processes import WAIT_S
from utilctl_common.quantities import NS_PER_MS, NS_PER_S

INTERVAL_NS: Final = 2 * NS_PER_MS
_RECORD: Final = struct.Struct("<QIi")
_GAP: Final = 0xFFFFFFFF
_WATCHER: Final = Path(__file__).with_name("watcher.py")


@dataclass(frozen=True, slots=True)
class Pause:
    """One continuous pause of a unit, as seen from outside. end_ns: None while it lasts."""

    unit: int
    begin_ns: int
    end_ns: int | None


class Observer:
    """Use it in ``with``. A unit is a cgroup, or a process of a target without one; ``names`` has their names."""

    def __init__(self, targets: Sequence[Target]) -> None:
        self.targets = targets
        self.names: list[str] = []
        self.longest_gap_ns = 0
        self._ended: list[Pause] = []
        self._since_ns: dict[int, int] = {}  # by unit, of those that are paused now
        self._gone: set[int] = set()

    def __enter__(self) -> Observer:
        units: list[tuple[str, str | int, int]] = []
        for target in self.targets:
            if target.cgroup is not None:
                units.append((target.kind, str(target.cgroup), target.pids[0]))
                self.names.append(target.name)
            else:
                units += [("process", pid, pid) for pid in target.pids]
                self.names += [f"{target.name}/{pid}" for pid in target.pids]
        self._folder = tempfile.TemporaryDirectory(prefix="utilctl-chaos-")
        clock, log = Path(self._folder.name, "clock"), Path(self._folder.name, "log")
        clock.write_bytes(bytes(8))
        log.touch()
        self._log = log.open("rb")
        with clock.open("r+b") as file:
            self._clock = mmap.mmap(file.fileno(), 8)
        self._watcher = subprocess.Popen(
            [sys.executable, "-S", str(_WATCHER), str(clock), str(log), str(INTERVAL_NS)], stdin=subprocess.PIPE
        )
        assert self._watcher.stdin is not None
        self._watcher.stdin.write(json.dumps(units).encode() + b"\n")
        self._watcher.stdin.flush()
        self.see_until(time.monotonic_ns())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._watcher.stdin is not None
        self._watcher.stdin.close()
        try:
            self._watcher.wait(WAIT_S)
        except subprocess.TimeoutExpired:
            self._watcher.kill()
            self._watcher.wait()
        self._clock.close()
        self._log.close()
        self._folder.cleanup()

    @property
    def watcher_pid(self) -> int:
        """The process that watches."""
        return self._watcher.pid

    def see_until(self, instant_ns: int) -> None:
        """Wait until everything up to then is known."""
        deadline_ns = time.monotonic_ns() + int(WAIT_S * NS_PER_S)
        while int.from_bytes(self._clock[:8], "little") < instant_ns:
            assert self._watcher.poll() is None, "the watcher ended"
            assert time.monotonic_ns() < deadline_ns, "the watcher does not watch"
            time.sleep(INTERVAL_NS / NS_PER_S)
        self._read()

    def _read(self) -> None:
        for instant_ns, unit, state in _RECORD.iter_unpack(self._log.read()):
            if unit == _GAP:
                self.longest_gap_ns = max(self.longest_gap_ns, state * 1000)
                continue
            if state == 1:
                self._since_ns[unit] = instant_ns
            elif unit in self._since_ns:
                self._ended.append(Pause(unit, self._since_ns.pop(unit), instant_ns))
            if state == -1:
                self._gone.add(unit)

    def paused(self) -> list[str]:
        """Who is paused at this instant, or later."""
        self.see_until(time.monotonic_ns())
        return [self.names[unit] for unit in sorted(self._since_ns)]

    def gone(self) -> list[str]:
        """Who ended, which nobody should."""
        return [self.names[unit] for unit in sorted(self._gone)]

    def pauses(self, since_ns: int) -> list[Pause]:
        """Those that lasted beyond that instant."""
        lasting = [Pause(unit, begin_ns, None) for unit, begin_ns in self._since_ns.items()]
        return [pause for pause in self._ended if pause.end_ns is not None and pause.end_ns > since_ns] + lasting

    def forget(self, before_ns: int) -> None:
        """Drop what ended before that instant."""
        self._ended = [pause for pause in self._ended if pause.end_ns is None or pause.end_ns >= before_ns]
