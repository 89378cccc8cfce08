"""A core that watches and never acts: ``--algorithm none`` and ``--mode observe``.

It closes cycles after the same amount of CPU time as the others, so that an uncontrolled run is measured with the
same ruler.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from utilctl_agent.alps.allotment import allotments_ns
from utilctl_agent.alps.model import CoreSettings, CycleRecord, Decision, PrincipalSpec, Reading, Switch


class ObservingScheduler:
    """Implements model.Scheduler; everybody is always eligible."""

    def __init__(self, settings: CoreSettings) -> None:
        self._settings = settings
        self._specs: dict[str, PrincipalSpec] = {}
        self._last_ns: dict[str, int] = {}
        self._cycle_cpu_ns: dict[str, int] = {}
        self._cycle_ns = 0
        self._cycles = 0

    @property
    def stretch(self) -> float:
        """See model.Scheduler. This core knows nothing of what switching takes."""
        return 1.0

    def put(self, spec: PrincipalSpec, now_ns: int, reading: Reading) -> None:
        """See model.Scheduler."""
        if spec.name not in self._specs:
            self._last_ns[spec.name] = reading.cpu_ns
            self._cycle_cpu_ns[spec.name] = 0
        self._specs[spec.name] = spec
        self._cycle_ns = sum(allotments_ns(list(self._specs.values()), self._settings).values())

    def remove(self, name: str) -> None:
        """See model.Scheduler."""
        del self._specs[name], self._last_ns[name], self._cycle_cpu_ns[name]
        self._cycle_ns = sum(allotments_ns(list(self._specs.values()), self._settings).values())

    def follow(self, switches: Sequence[Switch], *, failed: bool) -> tuple[CycleRecord, ...]:
        """See model.Scheduler. This core never plans."""
        return ()

    def due(self, now_ns: int) -> Mapping[str, bool]:
        """Everybody, once a quantum."""
        return dict.fromkeys(self._specs, False)

    def decide(self, now_ns: int, readings: Mapping[str, Reading]) -> Decision:
        """Count, and close the cycle once enough has been consumed."""
        for name, reading in readings.items():
            if name in self._specs:
                self._cycle_cpu_ns[name] += max(0, reading.cpu_ns - self._last_ns[name])
                self._last_ns[name] = reading.cpu_ns
        closed: tuple[CycleRecord, ...] = ()
        if self._specs and sum(self._cycle_cpu_ns.values()) >= self._cycle_ns:
            closed = (CycleRecord(self._cycles, now_ns, dict(self._cycle_cpu_ns)),)
            self._cycles += 1
            self._cycle_cpu_ns = dict.fromkeys(self._specs, 0)
        return Decision((), (), now_ns + self._settings.quantum_ns, closed)
