"""What principals use in their breaths (module ``alps.pauses``), and whether they have got a CPU in them at all."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

from utilctl_agent.alps.model import Reading
from utilctl_agent.alps.pauses import PauseGovernor
from utilctl_agent.host.port import Group
from utilctl_common.errors import FailedError


class Breaths:
    """Beside the governor, which decides when they begin and end."""

    def __init__(self, governor: PauseGovernor) -> None:
        self._governor = governor
        self._cpu_ns: dict[str, int] = {}  # consumption when the breath that goes on began

    def begin(self, name: str, group: Group) -> None:
        """``name`` is about to be let go; nothing is noted unless it is for a breath."""
        if self._governor.breathes(name):
            with contextlib.suppress(FailedError):
                self._cpu_ns[name] = group.cpu_ns()

    def over(self, groups: Mapping[str, Group], now_ns: int) -> dict[str, Reading]:
        """Readings of those whose breath ends now: before they are paused again. Who has not got a CPU breathes on.

        Raises GroupGoneError and MechanismError as readings do.
        """
        readings: dict[str, Reading] = {}
        for name in self._governor.ending(now_ns):
            reading = groups[name].read(observe=False)
            began_cpu_ns = self._cpu_ns.pop(name, None)
            if reading.cpu_ns == began_cpu_ns and self._governor.prolong(name, now_ns):
                self._cpu_ns[name] = reading.cpu_ns
            else:
                readings[name] = reading
        return readings

    def forget(self, name: str) -> None:
        """It is gone."""
        self._cpu_ns.pop(name, None)
