"""Requests to change policies, carried out on the store: read, change, compare and set; again if somebody was faster.

The store's three outcomes become what a caller can use: the result, ConflictError, UnreachableError.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from utilctl_common.errors import ConflictError, UnreachableError
from utilctl_common.policy import SeePolicy
from utilctl_controller.edits import (
    ApplyEdit,
    ApplyPlan,
    DeleteEdit,
    PolicyEdit,
    SwitchEdit,
    WriteTerms,
    apply_edit,
    plan_apply,
    unknown,
)
from utilctl_controller.policies import PolicyKeeper
from utilctl_controller.store.port import (
    Change,
    Committed,
    Done,
    LostRace,
    Record,
    Snapshot,
    SwitchRecord,
    Unavailable,
)

WRITE_ATTEMPTS: Final = 16
"""Times a write without a version is tried against other writers. Arbitrary: each loss means another's
success."""


@dataclass(frozen=True, slots=True)
class Applied:
    """What came of a whole file. ``revision`` is the store's at the commit, or at the comparison if nothing changed."""

    plan: ApplyPlan
    revision: int


class PolicyWriter:
    """Every write that operators ask for. Lives on the keeper's event loop."""

    def __init__(self, keeper: PolicyKeeper) -> None:
        self._keeper = keeper

    async def set(self, edit: PolicyEdit) -> tuple[Record | None, Record]:
        """The records before and after ``edit``; the same one twice if it changes nothing."""
        return await self.change(edit.see, edit.terms, lambda stored: apply_edit(stored, edit))

    async def change(
        self, see: str, terms: WriteTerms, changed: Callable[[SeePolicy | None], SeePolicy]
    ) -> tuple[Record | None, Record]:
        """The records before and after ``changed`` was applied to the stored policy (None: there is none)."""
        stored = self._keeper.records.get(see)
        confirmed = False
        for _ in range(WRITE_ATTEMPTS):
            _check_version(see, terms.if_version, stored)
            policy = changed(stored.policy if stored else None)
            change = terms.change(time.time_ns())
            version = stored.version if stored else 0
            if terms.dry_run:
                unchanged = stored is not None and stored.policy == policy
                record = stored if unchanged else Record(policy, version + 1, self._keeper.revision, change)
                assert record is not None
                return stored, record
            if stored is not None and stored.policy == policy:
                if confirmed:
                    return stored, stored
                # The copy may be a moment behind another controller's write; only the store knows for
                # certain.
                stored, confirmed = (await self._keeper.confirmed()).records.get(see), True
                continue
            outcome = await self._keeper.put(policy, change, version)
            if isinstance(outcome, Done):
                assert outcome.record is not None
                return stored, outcome.record
            stored, confirmed = _after_loss(see, outcome), True
        raise ConflictError(f"{see} is being changed by many writers at once", hint="try again")

    async def delete(self, edit: DeleteEdit) -> Record:
        """The record that was there."""
        stored = self._keeper.records.get(edit.see)
        for _ in range(WRITE_ATTEMPTS):
            if stored is None:
                raise unknown("service", edit.see, self._keeper.records)
            _check_version(edit.see, edit.terms.if_version, stored)
            if edit.terms.dry_run:
                return stored
            outcome = await self._keeper.delete(edit.see, edit.terms.change(time.time_ns()), stored.version)
            if isinstance(outcome, Done):
                return stored
            stored = _after_loss(edit.see, outcome)
        raise ConflictError(f"{edit.see} is being changed by many writers at once", hint="try again")

    async def apply(self, edit: ApplyEdit) -> Applied:
        """Store a whole file as one transaction; compared with the store itself, never with the copy.

        Not repeated for the caller when somebody was faster: what to delete or to overwrite was decided on by looking
        at what was there.
        """
        snapshot = await self._keeper.confirmed()
        plan = plan_apply(snapshot.records, edit)
        wanted = edit.terms.if_version
        if wanted is not None:
            await self._check_revision(wanted, snapshot)
        if edit.terms.dry_run or not plan.writes:
            return Applied(plan, snapshot.revision)
        # What is to be deleted depends on all that is there, so all of it must still be so.
        unchanged_since = wanted if wanted is not None else snapshot.revision if edit.prune else None
        outcome = await self._keeper.commit(plan.writes, edit.terms.change(time.time_ns()), unchanged_since)
        if isinstance(outcome, Committed):
            return Applied(plan, outcome.revision)
        if isinstance(outcome, Unavailable):
            raise _unavailable("the services", outcome)
        raise ConflictError(
            f"{outcome.see or 'another service'} was changed by somebody else meanwhile; nothing was changed",
            hint="look with utilctl diff and try again",
        )

    async def _check_revision(self, wanted: int, snapshot: Snapshot) -> None:
        newest = await self._keeper.history(None, 1)
        if wanted > snapshot.revision or (newest and newest[0].revision > wanted):
            now = newest[0].revision if newest else snapshot.revision
            raise ConflictError(
                f"the newest change is of revision {now}, not of {wanted} or before; nothing was changed",
                hint="look with utilctl diff and try again",
            )

    async def switch(self, edit: SwitchEdit) -> tuple[SwitchRecord | None, bool]:
        """The fleet's switch as it is now (None: never used, so on), and whether that is a change."""
        switch = self._keeper.switch
        for attempt in range(WRITE_ATTEMPTS):
            if (switch is not None and switch.disabled) == edit.disabled:
                if attempt:
                    return switch, False
                switch = (await self._keeper.confirmed()).switch
                continue
            change = Change(edit.who, edit.reason, time.time_ns())
            outcome = await self._keeper.put_switch(edit.disabled, change, 0 if switch is None else switch.version)
            if isinstance(outcome, SwitchRecord):
                return outcome, True
            if isinstance(outcome, Unavailable):
                raise _unavailable("the fleet's switch", outcome)
            switch = (await self._keeper.confirmed()).switch
        raise ConflictError("the fleet's switch is being changed by many writers at once", hint="try again")


def _check_version(see: str, wanted: int | None, stored: Record | None) -> None:
    """Raise ConflictError unless the stored version is the one asked for."""
    found = stored.version if stored else 0
    if wanted is None or wanted == found:
        return
    is_now = f"is at version {found}" if stored else "does not exist (version 0)"
    raise ConflictError(f"{see} {is_now}, not at version {wanted}; nothing was changed", hint="read it and try again")


def _after_loss(see: str, outcome: LostRace | Unavailable) -> Record | None:
    """What is stored after a lost race. Raises UnreachableError if the store did not answer."""
    if isinstance(outcome, Unavailable):
        raise _unavailable(see, outcome)
    return outcome.current


def _unavailable(what: str, outcome: Unavailable) -> UnreachableError:
    known = outcome.reason.startswith("nothing was written")
    rest = "" if known else f", so {what} may or may not have been changed"
    return UnreachableError(
        f"the policy store is unavailable ({outcome.reason}){rest}", hint="look with utilctl get and try again"
    )
