"""Where readings lag: who has to be read again now that it is off the CPU, and which cycles wait for that."""

from __future__ import annotations

from utilctl_agent.alps.model import CycleRecord
from utilctl_agent.alps.principal import Principal


class Unsettled:
    """Those who were made ineligible and not read since, by name, and the cycles that ended with them."""

    def __init__(self) -> None:
        self.names: dict[str, Principal] = {}
        self._late: list[tuple[CycleRecord, set[str]]] = []

    def add(self, principal: Principal) -> None:
        """It was just made ineligible."""
        self.names[principal.spec.name] = principal

    def remove(self, name: str) -> None:
        """It is gone; cycles that wait for it are as complete as they will be."""
        self.names.pop(name, None)
        for _, missing in self._late:
            missing.discard(name)

    def settle(self, principal: Principal, used_ns: int) -> None:
        """It was read: ``used_ns`` belong to the cycle at whose end it was made ineligible, if one ended then."""
        name = principal.spec.name
        del self.names[name]
        for record, missing in self._late:
            if name in missing:
                missing.discard(name)
                principal.cycle_start_used_ns += used_ns
                record.cpu_ns[name] += used_ns
                return

    def complete(self, records: tuple[CycleRecord, ...]) -> tuple[CycleRecord, ...]:
        """Of the cycles that end now those whose figures are complete; the others wait."""
        if not self.names:
            return records
        self._late += [(record, set(self.names)) for record in records]
        return ()

    def completed(self) -> tuple[CycleRecord, ...]:
        """Cycles whose last reading has come in, oldest first."""
        closed: list[CycleRecord] = []
        while self._late and not self._late[0][1]:
            closed.append(self._late.pop(0)[0])
        return tuple(closed)
