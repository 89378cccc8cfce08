"""Several groups acting as one: an SEE that fills some cgroups and has loose processes besides."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from utilctl_agent.alps.model import Reading
from utilctl_agent.host.port import ForeignResumeError, ForeignStopError, Group, GroupGoneError, MechanismError
from utilctl_common.errors import FailedError


class CompositeGroup:
    """Implements host.port.Group over its parts. A part that ends is dropped; the group ends with its last part."""

    def __init__(self, parts: Sequence[Group]) -> None:
        """Raises ValueError without parts."""
        if not parts:
            raise ValueError("a composite group needs parts")
        self._parts = list(parts)
        self._past_ns = 0
        self._last_ns: dict[int, int] = {}

    @property
    def parts(self) -> tuple[Group, ...]:
        """The parts that have not ended."""
        return tuple(self._parts)

    @property
    def mechanism(self) -> str:
        """See host.port.Group; mixed mechanisms are joined by ``+``."""
        return "+".join(sorted({part.mechanism for part in self._parts}))

    def read(self, *, observe: bool = True) -> Reading:
        """See host.port.Group. Waiting times add up, which bounds the true figure from above."""
        waits: list[int | None] = []
        blocks: list[bool | None] = []
        for part in list(self._parts):
            try:
                reading = part.read(observe=observe)
            except GroupGoneError:
                self._drop(part)
                continue
            self._last_ns[id(part)] = reading.cpu_ns
            waits.append(reading.wait_ns)
            blocks.append(reading.blocked)
        if not self._parts:
            raise GroupGoneError("all its parts have ended")
        cpu_ns = self._past_ns + sum(self._last_ns.values())
        known_waits = [wait_ns for wait_ns in waits if wait_ns is not None]
        if len(known_waits) == len(waits):
            return Reading(cpu_ns, sum(known_waits))
        # Some part is known to be awake: so is the whole. Otherwise all must be known to be blocked.
        blocked = False if False in blocks else (None if None in blocks else True)
        return Reading(cpu_ns, None, blocked)

    def cpu_ns(self) -> int:
        """See host.port.Group."""
        return self.read(observe=False).cpu_ns

    def pause(self) -> None:
        """See host.port.Group. Parts stopped by others stay as they are; if a part refuses, all are resumed."""
        foreign: ForeignStopError | None = None
        paused = 0
        for part in list(self._parts):
            try:
                part.pause()
                paused += 1
            except GroupGoneError:
                self._drop(part)
            except ForeignStopError as error:
                foreign = error
            except MechanismError:
                self.resume()
                raise
        if not self._parts:
            raise GroupGoneError("all its parts have ended")
        if foreign is not None and not paused:
            raise foreign

    def resume(self) -> None:
        """See host.port.Group. Every part is tried, whatever the others say."""
        refusal: MechanismError | None = None
        for part in self._parts:
            try:
                part.resume()
            except MechanismError as error:
                refusal = error
        if refusal is not None:
            raise refusal

    def check(self) -> None:
        """See host.port.Group. Every part is looked at; what was resumed by others counts most."""
        found: FailedError | None = None
        for part in list(self._parts):
            try:
                part.check()
            except GroupGoneError:
                self._drop(part)
            except ForeignResumeError as error:
                found = error
            except FailedError as error:
                found = found or error
        if found is not None:
            raise found

    def close(self) -> None:
        """See host.port.Group."""
        for part in self._parts:
            part.close()

    def _drop(self, part: Group) -> None:
        self._past_ns += self._last_ns.pop(id(part), 0)
        self._parts.remove(part)
        with contextlib.suppress(MechanismError):
            part.resume()
        part.close()
