"""Where readings lag, on several CPUs: what was probably used and is not seen yet, and accounting for it once it is.

A process that runs on another CPU is known up to the last scheduler tick only. So whoever's turn has ended is read once
more when it is off the CPU, and cycles that ended with it wait for that (module ``unsettled``). Where the reader shares
the one CPU, readings are exact, and all of this does nothing.
"""

from __future__ import annotations

from typing import Final

from utilctl_agent.alps.accounts import Accounts
from utilctl_agent.alps.carry import fills
from utilctl_agent.alps.lead import Lead
from utilctl_agent.alps.model import CoreSettings, CycleRecord, Switch
from utilctl_agent.alps.principal import TRUSTED, Principal, proven
from utilctl_agent.alps.unsettled import Unsettled

IDLING: Final = 0.9
"""A principal that used less than this of its time in a turn, alone on its cores, is observed at once."""


def prove(principal: Principal, lead: Lead, cores: int, *, elapsed_ns: int, used_ns: int, planned: bool) -> None:
    """A turn was used to the full: that needs no observation, and tells what the loop itself takes."""
    lead.learn(elapsed_ns - used_ns // cores, planned=planned)
    proven(principal)
    principal.rate_cores = max(principal.rate_cores, used_ns / max(1, elapsed_ns))


class Lagging:
    """The turns that have ended and are not known in full. ``on``: whether readings lag at all."""

    def __init__(self, settings: CoreSettings, accounts: Accounts, lead: Lead) -> None:
        self.on = settings.reading_error_ns > 0
        self.unsettled = Unsettled()
        self._cores = settings.cores
        self._most_ns = settings.reading_error_ns * settings.cores
        self._accounts = accounts
        self._lead = lead
        self._next: Principal | None = None  # whom the next switch of the plan reads

    def plan_begins(self) -> None:
        """The first switch of a plan reads the one whose turn ended last."""
        self._next = next(iter(self.unsettled.names.values()), None)

    def settle_last(self, principal: Principal, switch: Switch) -> list[CycleRecord]:
        """At the end of the turn of ``principal``, account for the turn before it; returns cycles completed by that."""
        closed: list[CycleRecord] = []
        if self._next is not None:
            self.settle(self._next, switch.cpu_ns)
            closed += self.unsettled.completed()
        self._next = principal
        turn_ns = switch.now_ns - principal.turn_began_ns - self._lead.planned_ns
        principal.pending_ns = max(0, turn_ns * self._cores - principal.used_ns + principal.turn_used_ns)
        return closed

    def settle(self, principal: Principal, cpu_ns: int) -> None:
        """Account for all that ``principal`` has used in the turn that ended some time ago."""
        if principal.spec.name not in self.unsettled.names:
            return
        used_ns = self._accounts.charge(principal, principal.ineligible_since_ns, cpu_ns)
        principal.pending_ns = 0
        turn_ns = principal.ineligible_since_ns - principal.turn_began_ns
        turn_used_ns = principal.used_ns - principal.turn_used_ns
        if principal.hungry:
            if turn_used_ns + self._lead.most_ns * self._cores < IDLING * principal.rate_cores * turn_ns:
                principal.observe_at_ns = 0
            elif principal.streak >= TRUSTED and fills(principal, self._cores):
                planned = principal.due_ns > 0
                prove(principal, self._lead, self._cores, elapsed_ns=turn_ns, used_ns=turn_used_ns, planned=planned)
        self.unsettled.settle(principal, used_ns)

    def unseen_ns(self, principal: Principal, now_ns: int) -> int:
        """What ``principal``, in its turn, has probably used beyond what was read."""
        if not self.on:
            return 0
        expected_ns = round((now_ns - principal.turn_began_ns) * principal.rate_cores)
        return min(self._most_ns, max(0, expected_ns - principal.used_ns + principal.turn_used_ns))
