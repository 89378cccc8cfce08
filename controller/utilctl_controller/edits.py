"""Requests to change a policy, and what they make of the stored one. Pure: the store is asked elsewhere."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass

from utilctl_common.errors import FailedError, UsageError
from utilctl_common.matchers import Matcher
from utilctl_common.names import parse_see_name
from utilctl_common.policy import SeePolicy

MAX_REASON = 1000
"""Longest reason or author kept, in characters. Arbitrary."""


class NotFoundError(FailedError):
    """No SEE or host of that name exists."""


@dataclass(frozen=True, slots=True)
class PolicyEdit:
    """A change asked for: fields that are None keep what is stored.

    ``clear_cap`` removes the cap; ``if_version`` (None: whatever is there) refuses the change unless the
    stored version is this one, 0 meaning that the SEE must not exist.
    """

    see: str
    share: float | None
    floor_cores: float | None
    cap_cores: float | None
    clear_cap: bool
    mode: str | None
    matchers: tuple[Matcher, ...] | None
    who: str
    reason: str
    if_version: int | None
    dry_run: bool


@dataclass(frozen=True, slots=True)
class DeleteEdit:
    """A deletion asked for; ``if_version`` as in PolicyEdit."""

    see: str
    who: str
    reason: str
    if_version: int | None
    dry_run: bool


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
    )


def unknown(kind: str, name: str, known: Iterable[str]) -> NotFoundError:
    """The error for a ``kind`` (service, host) that does not exist, naming those that look like it."""
    near = difflib.get_close_matches(name, list(known), n=3, cutoff=0.75)
    hint = f"did you mean {' or '.join(near)}?" if near else f"list them with utilctl get {kind}s"
    return NotFoundError(f"no {kind} {name}", hint=hint)
