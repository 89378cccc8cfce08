"""Requests to change a policy, and what they make of the stored one. Pure: the store is asked elsewhere."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from utilctl_common.errors import FailedError, UsageError
from utilctl_common.matchers import Matcher
from utilctl_common.names import parse_see_name
from utilctl_common.policy import Hold, SeePolicy
from utilctl_controller.store.port import Change, PolicyWrite, Record

MAX_REASON = 1000
"""Longest reason or author kept, in characters. Arbitrary."""


class NotFoundError(FailedError):
    """No SEE or host of that name exists."""


@dataclass(frozen=True, slots=True)
class WriteTerms:
    """Who asks for a change, why, and under which terms.

    ``if_version`` (None: whatever is there) refuses it unless the stored version is this one, 0 meaning that the SEE
    must not exist. ``dry_run`` only checks it and says what would change.
    """

    who: str
    reason: str
    if_version: int | None
    dry_run: bool

    def change(self, at_unix_ns: int) -> Change:
        """What the history is to say."""
        return Change(self.who, self.reason, at_unix_ns)


@dataclass(frozen=True, slots=True)
class PolicyEdit:
    """A change asked for: fields that are None keep what is stored. ``clear_cap`` removes the cap."""

    see: str
    share: float | None
    floor_cores: float | None
    cap_cores: float | None
    clear_cap: bool
    mode: str | None
    matchers: tuple[Matcher, ...] | None
    terms: WriteTerms


@dataclass(frozen=True, slots=True)
class DeleteEdit:
    """A deletion asked for."""

    see: str
    terms: WriteTerms


@dataclass(frozen=True, slots=True)
class ApplyEdit:
    """A whole policy file to be stored: each policy as it is to be, not as it is to change.

    ``prune`` also deletes what is not named; ``groups`` are named without a policy. The version in ``terms`` is the
    store's revision after which nobody may have changed anything.
    """

    policies: tuple[SeePolicy, ...]
    groups: frozenset[str]
    prune: bool
    terms: WriteTerms


@dataclass(frozen=True, slots=True)
class HoldEdit:
    """A hold asked for, ``duration_ns`` from now on."""

    see: str
    duration_ns: int
    terms: WriteTerms


@dataclass(frozen=True, slots=True)
class SwitchEdit:
    """Asks that shares hold on the fleet, or that they do not."""

    disabled: bool
    who: str
    reason: str


@dataclass(frozen=True, slots=True)
class PolicyChange:
    """One SEE before and after; None: there is none."""

    see: str
    old: SeePolicy | None
    new: SeePolicy | None


@dataclass(frozen=True, slots=True)
class ApplyPlan:
    """What applying a file does: ``changes`` by SEE, as many ``writes``, and what stays as it is.

    ``unnamed`` are SEEs that are stored, not named in the file, and left alone.
    """

    changes: tuple[PolicyChange, ...]
    writes: tuple[PolicyWrite, ...]
    unchanged: int
    unnamed: tuple[str, ...]


def check_words(who: str, reason: str) -> None:
    """Raise UsageError unless author and reason are short lines of text."""
    for what, text in (("author", who), ("reason", reason)):
        if len(text) > MAX_REASON:
            raise UsageError(f"the {what} has {len(text)} characters", hint=f"use at most {MAX_REASON}")
        if any(ord(char) < 0x20 or ord(char) == 0x7F for char in text):
            raise UsageError(f"the {what} holds a control character", hint="write one line of text")


def apply_edit(stored: SeePolicy | None, edit: PolicyEdit) -> SeePolicy:
    """The policy that ``edit`` makes of ``stored`` (None: a new SEE). Raises UsageError if that is none."""
    parse_see_name(edit.see)
    if edit.clear_cap and edit.cap_cores is not None:
        raise UsageError(f"both a new cap and no cap are asked for {edit.see}", hint="give one of them")
    share = edit.share if edit.share is not None else stored.share if stored else None
    if share is None:
        raise UsageError(f"{edit.see} does not exist yet and needs a share", hint="give one, for example 3")
    cap = edit.cap_cores if edit.cap_cores is not None else stored.cap_cores if stored else None
    return SeePolicy(
        name=edit.see,
        share=share,
        floor_cores=edit.floor_cores if edit.floor_cores is not None else stored.floor_cores if stored else 0.0,
        cap_cores=None if edit.clear_cap else cap,
        mode=edit.mode if edit.mode is not None else stored.mode if stored else "auto",
        matchers=edit.matchers if edit.matchers is not None else stored.matchers if stored else (),
        hold=stored.hold if stored else None,
    )


def apply_hold(stored: SeePolicy | None, hold: Hold | None) -> SeePolicy:
    """``stored`` with ``hold`` (None: released). The caller has looked whether it exists."""
    assert stored is not None
    return replace(stored, hold=hold)


def plan_apply(stored: Mapping[str, Record], edit: ApplyEdit) -> ApplyPlan:
    """What ``edit`` makes of what is ``stored``. A hold stays: a file says nothing of it.

    Raises UsageError for a name that stands twice.
    """
    named: dict[str, SeePolicy | None] = {}
    for policy in edit.policies:
        if policy.name in named:
            raise UsageError(f"{policy.name} is listed twice", hint="list it once")
        record = stored.get(policy.name)
        named[policy.name] = replace(policy, hold=record.policy.hold if record else None)
    unnamed = sorted(set(stored) - set(named) - edit.groups)
    if edit.prune:
        named |= dict.fromkeys(unnamed)
        unnamed = []
    changes: list[PolicyChange] = []
    writes: list[PolicyWrite] = []
    for see, new in sorted(named.items()):
        record = stored.get(see)
        old = record.policy if record else None
        if old != new:
            changes.append(PolicyChange(see, old, new))
            writes.append(PolicyWrite(see, new, record.version if record else 0))
    return ApplyPlan(tuple(changes), tuple(writes), len(named) - len(changes), tuple(unnamed))


def unknown(kind: str, name: str, known: Iterable[str]) -> NotFoundError:
    """The error for a ``kind`` (service, host) that does not exist, naming those that look like it."""
    near = difflib.get_close_matches(name, list(known), n=3, cutoff=0.75)
    hint = f"did you mean {' or '.join(near)}?" if near else f"list them with utilctl get {kind}s"
    return NotFoundError(f"no {kind} {name}", hint=hint)
