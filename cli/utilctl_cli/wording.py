"""Policies and their changes in words, for tables and the answers to writes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from utilctl_cli.documents import (
    ApplyDocument,
    DeleteDocument,
    HistoryEntryDocument,
    HoldDocument,
    PolicyDocument,
    ReleaseDocument,
    SetShareDocument,
    SwitchDocument,
)
from utilctl_cli.failures import one_line
from utilctl_common.matchers import matcher_from_mapping


def number_words(value: float) -> str:
    """A number as an operator would type it: ``3``, ``0.5``, ``1000000``."""
    return f"{value:.10g}"


def cap_words(cap_cores: float | None) -> str:
    """``none``, or the number of cores."""
    return "none" if cap_cores is None else number_words(cap_cores)


def match_words(match: list[dict[str, str]]) -> str:
    """Matchers as typed after --match, joined by ``or``; ``its label`` for the default ones."""
    return " or ".join(str(matcher_from_mapping(entry)) for entry in match) or "its label"


def _fields(policy: PolicyDocument) -> Mapping[str, str]:
    return {
        "share": number_words(policy["share"]),
        "floor": number_words(policy["floor_cores"]),
        "cap": cap_words(policy["cap_cores"]),
        "mode": policy["mode"],
        "match": match_words(policy["match"]),
        "hold": hold_words(policy["held_until_at"]),
    }


_USUAL: Final = {"floor": "0", "cap": "none", "mode": "auto", "match": "its label", "hold": "none"}


def hold_words(until: str | None) -> str:
    """``none``, or until when, to the second."""
    return "none" if until is None else f"until {until[:19].replace('T', ' ')}"


def policy_words(policy: PolicyDocument) -> str:
    """The share, and whatever is not as usual: ``share 3, cap 2``."""
    return ", ".join(f"{name} {word}" for name, word in _fields(policy).items() if _USUAL.get(name) != word)


def change_words(old: PolicyDocument | None, new: PolicyDocument | None) -> str:
    """What changed: ``share 1 -> 3, cap none -> 2``; or ``created``, ``deleted``, each with the policy."""
    if new is None:
        return "deleted" if old is None else f"deleted: {policy_words(old)}"
    if old is None:
        return f"created: {policy_words(new)}"
    before, after = _fields(old), _fields(new)
    changes = [f"{name} {before[name]} -> {after[name]}" for name in after if before[name] != after[name]]
    return ", ".join(changes) or "unchanged"


def set_share_words(document: SetShareDocument) -> str:
    """One sentence on what a write did, or on a dry run would do, then a line for each warning."""
    return "\n".join([_write_words(document), *(f"warning: {warning}" for warning in document["warnings"])])


def _write_words(document: SetShareDocument) -> str:
    record, previous = document["record"], document["previous"]
    prefix = "dry run, nothing stored: " if document["dry_run"] else ""
    if not document["changed"]:
        return f"{prefix}{document['see']} unchanged: {policy_words(record)} (version {record['version']})"
    version = "" if document["dry_run"] else f" (version {record['version']})"
    return f"{prefix}{document['see']} {change_words(previous, record)}{version}"


def delete_words(document: DeleteDocument) -> str:
    """One sentence on what a deletion removed, or on a dry run would remove."""
    prefix = "dry run, nothing deleted: " if document["dry_run"] else ""
    previous = document["previous"]
    return f"{prefix}{document['see']} deleted: {policy_words(previous)} (was version {previous['version']})"


def entry_words(entry: HistoryEntryDocument) -> str:
    """What a change in the history changed."""
    if entry["fleet_disabled"] is not None:
        return "shares disabled" if entry["fleet_disabled"] else "shares enabled"
    return change_words(entry["old"], entry["new"])


def apply_words(document: ApplyDocument) -> str:
    """A line for each change, marked as in a diff, then how many there are and what stays as it is."""
    signs = {"create": "+", "update": "~", "delete": "-"}
    lines = [
        one_line(f"{signs[change['action']]} {change['see']} {change_words(change['old'], change['new'])}")
        for change in document["changes"]
    ]
    counted = count_words(len(document["changes"]), "change")
    said = "dry run, nothing stored: " if document["dry_run"] else ""
    summary = f"{said}{counted}, {document['unchanged']} unchanged (revision {document['revision']})"
    if document["unnamed"]:
        names, rest = document["unnamed"][:_LISTED], len(document["unnamed"]) - _LISTED
        more = f" and {rest} more" if rest > 0 else ""
        summary += f"\nnot in the file, left alone: {', '.join(names)}{more}; --prune deletes them"
    return "\n".join([*lines, summary])


_LISTED: Final = 10
"""Names listed before the rest is only counted."""


def count_words(number: int, what: str) -> str:
    """``no change``, ``1 change``, ``2 changes``."""
    return f"{number or 'no'} {what}{'' if number == 1 else 's'}"


def hold_document_words(document: HoldDocument) -> str:
    """One sentence on what is held."""
    prefix = "dry run, nothing stored: " if document["dry_run"] else ""
    hosts = count_words(len(document["held"]), "host")
    until = hold_words(document["record"]["held_until_at"])
    return f"{prefix}{document['see']} held {until} UTC on {hosts}"


def release_words(document: ReleaseDocument) -> str:
    """One sentence on what a release did."""
    prefix = "dry run, nothing stored: " if document["dry_run"] else ""
    return f"{prefix}{document['see']} {'released' if document['changed'] else 'was not held'}"


def switch_words(document: SwitchDocument) -> str:
    """One sentence on whether shares hold."""
    state = "disabled: nobody is held back" if document["disabled"] else "enabled"
    already = "" if document["changed"] else " already"
    told = f"; {count_words(document['hosts'], 'connected host')} told" if document["changed"] else ""
    return f"shares are{already} {state}{told}"
