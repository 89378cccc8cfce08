"""Who of the principals of a default core stands where, each in the order of arrival. Pure."""

from __future__ import annotations

from typing import get_args

from utilctl_agent.alps.carry import DONE_NS, threshold_ns
from utilctl_agent.alps.principal import Principal, Role


class Roles:
    """Principals by name and role; newcomers are light. ``moved``: whose eligibility may have changed in a decision."""

    def __init__(self) -> None:
        self._at: dict[Role, dict[str, Principal]] = {role: {} for role in get_args(Role)}
        self.turn, self.queue, self.lights = self._at["turn"], self._at["queue"], self._at["light"]
        self.spent, self.shut = self._at["spent"], self._at["shut"]
        self.moved: list[Principal] = []

    def enter(self, principal: Principal) -> None:
        """A newcomer."""
        self._at[principal.role][principal.spec.name] = principal

    def leave(self, principal: Principal) -> None:
        """It is gone."""
        del self._at[principal.role][principal.spec.name]
        self.moved[:] = [other for other in self.moved if other is not principal]

    def move(self, principal: Principal, role: Role) -> None:
        """It stands there from now on, behind the others."""
        name = principal.spec.name
        del self._at[principal.role][name]
        self._at[role][name] = principal
        principal.role = role
        principal.together = False
        if role == "turn":
            principal.pending_ns = 0
        self.moved.append(principal)

    def classified(self, principal: Principal) -> None:
        """Put it where it belongs by its class and its allowance."""
        if principal.hungry:
            self.move(principal, "queue" if principal.allowance_ns > threshold_ns(principal) else "spent")
        else:
            self.move(principal, "light" if principal.allowance_ns > DONE_NS else "shut")
