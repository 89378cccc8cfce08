"""Groups that share a planned turn, switched as one."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from utilctl_agent.host.port import Group
from utilctl_common.errors import FailedError


class Gang:
    """Several groups, in the part of ``host.port.Group`` that a planned switch needs. Not thread-safe."""

    def __init__(self, groups: Sequence[Group]) -> None:
        self._groups = tuple(groups)
        self.taken: list[tuple[int, ...]] = []
        """What each had consumed at every call of ``cpu_ns``, oldest first."""

    def cpu_ns(self) -> int:
        """Their consumption together. Raises GroupGoneError if one of them has ended."""
        each_ns = tuple(group.cpu_ns() for group in self._groups)
        self.taken.append(each_ns)
        return sum(each_ns)

    def resume(self) -> None:
        """Resume all, or none. Raises what the first refusal raised."""
        self._switch(pause=False)

    def pause(self) -> None:
        """Pause all, or none. Raises what the first refusal raised."""
        self._switch(pause=True)

    def _switch(self, *, pause: bool) -> None:
        done: list[Group] = []
        try:
            for group in self._groups:
                (group.pause if pause else group.resume)()
                done.append(group)
        except FailedError:
            for group in done:
                with contextlib.suppress(FailedError):
                    (group.resume if pause else group.pause)()
            raise
