"""What to tell the loop when the orders are these now: nothing, who came and went, or everything. Pure.

The caller always says everything; the difference to what it said before is found here, so that a caller cannot get it
wrong. A complete roster goes out whenever anything but the processes of principals differs, when the loop asks for
one, and after COMPLETE_AFTER deltas: should the two sides ever disagree, it is not for long.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from utilctl_agent.orders import MembersDelta, PrincipalDelta, PrincipalOrder, Roster

COMPLETE_AFTER: Final = 250
"""Deltas between complete rosters. Arbitrary: some ten seconds of a storm."""


class Dispatcher:
    """The sender's memory of what the loop was told."""

    def __init__(self) -> None:
        self.sent: Roster | None = None
        """What the loop controls if it got every message; None: the next message is a complete roster."""
        self._serial = 0
        self._deltas = 0

    def forget(self) -> None:
        """The loop may know something else than it was told: tell it everything the next time."""
        self.sent = None

    def message(self, epoch: int, generation: int, orders: tuple[PrincipalOrder, ...]) -> dict[str, Any] | None:
        """What to send now; None if the loop knows all of it."""
        sent = self.sent
        decision_stands = sent is not None and (sent.epoch, sent.generation) == (epoch, generation)
        if sent is not None and decision_stands and sent.principals == orders:
            return None
        self._serial += 1
        self.sent = Roster(epoch, generation, orders, self._serial)
        if sent is not None and decision_stands and self._deltas < COMPLETE_AFTER:
            changes = difference(sent.principals, orders)
            if changes is not None:
                self._deltas += 1
                return {"op": "members", "members": MembersDelta(self._serial, changes).to_json()}
        self._deltas = 0
        return {"op": "roster", "roster": self.sent.to_json()}


def difference(
    before: tuple[PrincipalOrder, ...], now: tuple[PrincipalOrder, ...]
) -> tuple[PrincipalDelta, ...] | None:
    """How ``now`` differs from ``before`` if only loose processes and parallelism do; else None.

    The first loose process of a principal and its last leaving change what it consists of, which is not a delta.
    """
    if len(before) != len(now):
        return None
    changes: list[PrincipalDelta] = []
    for old, new in zip(before, now, strict=True):
        if old == new:
            continue
        same_kind = bool(old.processes) == bool(new.processes)
        if not same_kind or replace(old, parallelism=new.parallelism, processes=new.processes) != new:
            return None
        had, has = frozenset(old.processes), frozenset(new.processes)
        changes.append(PrincipalDelta(new.name, new.parallelism, tuple(sorted(has - had)), tuple(sorted(had - has))))
    return tuple(changes)


def amended(processes: tuple[tuple[int, int], ...], delta: PrincipalDelta) -> tuple[tuple[int, int], ...]:
    """The receiver's side of ``difference``: processes sorted by pid, as in rosters."""
    return tuple(sorted((set(processes) - set(delta.left)) | set(delta.joined)))
