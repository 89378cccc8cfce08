"""Tables: what they say, that they fit 80 columns, and that stored text cannot drive a terminal."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from utilctl_cli import render, wording
from utilctl_cli.documents import (
    ControllerDocument,
    ExplainDocument,
    HistoryDocument,
    HostDocument,
    HostShareDocument,
    PolicyDocument,
    RecordDocument,
    ServiceDocument,
    WaitingDocument,
    WaitingOnHostDocument,
)
from utilctl_common.quantities import NS_PER_S

NOW_NS = 1_700_000_000 * NS_PER_S
CONTROLLER: ControllerDocument = {
    "controller_id": "c1", "epoch": 1, "store_revision": 1, "store_available": True, "degraded_reason": "",
    "fleet_switch": None,
}  # fmt: skip


def policy(see: str = "svc=web", share: float = 3, cap_cores: float | None = None) -> PolicyDocument:
    return {
        "see": see, "share": share, "floor_cores": 0, "cap_cores": cap_cores, "mode": "auto", "match": [],
        "held_until_at": None, "held_until_unix_ns": None,
    }  # fmt: skip


def record(**fields: Any) -> RecordDocument:
    return {
        **policy(**fields), "version": 7, "store_revision": 1, "changed_at": "2023-11-14T22:13:20.000000Z",
        "changed_unix_ns": NOW_NS, "changed_by": "alice@ops", "reason": "launch",
    }  # fmt: skip


def host_share(host: str = "node-1", problem: str = "") -> HostShareDocument:
    return {
        "host": host, "see": "svc=web", "weight": 0.75, "entitlement_cores": 1.5, "demand_cores": 2.5,
        "consumption_cores": 1.25, "consumed_total_ns": 1, "paused_total_ns": NS_PER_S, "processes": 4,
        "problem": problem,
    }  # fmt: skip


def service(per_host: list[HostShareDocument] | None = None, **fields: Any) -> ServiceDocument:
    return {
        **record(**fields), "entitlement_cores": 1.5, "demand_cores": 2.5, "consumption_cores": 1.25,
        "consumed_total_ns": 1, "hosts": 1, "per_host": [host_share()] if per_host is None else per_host,
    }  # fmt: skip


def host(name: str = "node-1", **fields: Any) -> HostDocument:
    usual: HostDocument = {
        "host": name, "connected": True, "capacity_cores": 64, "unclaimed_cores": 0.5, "consumption_cores": 60,
        "mechanism": "freezer", "mechanism_reason": "", "agent_version": "0.1.0", "pushed_generation": 9,
        "applied_generation": 9, "last_report_at": None, "last_report_unix_ns": NOW_NS,
        "rms_relative_error_ratio": 0.0123, "overhead_ratio": 0.004, "sees": 12, "waiting": {},
    }  # fmt: skip
    return {**usual, **fields}  # type: ignore[typeddict-item] # the test's own overrides


def explained(**fields: Any) -> ExplainDocument:
    usual: ExplainDocument = {
        **service(), "binding_constraint": "capacity of node-1", "lenders": ["svc=etl"], "borrowers": [],
        "decided_at": "2023-11-14T22:13:20.000000Z", "decided_unix_ns": NOW_NS, "trace_id": "ab" * 16,
        "sentence": "svc=web gets 1.50 of 2.50 cores it wants.",
    }  # fmt: skip
    return {**usual, **fields}  # type: ignore[typeddict-item] # the test's own overrides


def cells(text: str, first: str) -> list[str]:
    return next(line.split() for line in text.splitlines() if line.startswith(first))


def test_services_show_policy_and_cores() -> None:
    text = render.services({"services": [service(cap_cores=4)], "waiting": [], "controller": CONTROLLER})
    assert cells(text, "SERVICE") == ["SERVICE", "SHARE", "FLOOR", "CAP", "ENTITLED", "DEMAND", "USED", "HOSTS"]
    assert cells(text, "svc=web") == ["svc=web", "3", "0", "4", "1.50", "2.50", "1.25", "1"]


def test_an_empty_fleet_says_what_to_do_next() -> None:
    assert "utilctl set-share" in render.services({"services": [], "waiting": [], "controller": CONTROLLER})
    assert "utilctl-agent" in render.hosts({"hosts": [], "controller": CONTROLLER})
    assert render.history({"entries": []}) == "no change has been made yet"


def test_a_degraded_controller_and_an_agents_problem_stand_below_the_table() -> None:
    degraded: ControllerDocument = {**CONTROLLER, "degraded_reason": "the store is away"}
    services = [service([host_share(problem="no permission")])]
    text = render.services({"services": services, "waiting": [], "controller": degraded})
    assert "svc=web on node-1: no permission" in text
    assert "controller degraded: the store is away" in text


@pytest.mark.parametrize(
    ("fields", "state"),
    [
        ({}, "up"),
        ({"connected": False}, "lost 5s"),
        ({"connected": False, "last_report_unix_ns": NOW_NS - 200 * NS_PER_S}, "lost 3m"),
        ({"connected": False, "last_report_unix_ns": NOW_NS - 90_000 * NS_PER_S}, "lost 1d"),
        ({"connected": False, "last_report_unix_ns": 0}, "lost"),
        ({"connected": False, "last_report_unix_ns": NOW_NS + 60 * NS_PER_S}, "lost 0s"),
    ],
)
def test_a_host_is_up_or_lost_for_some_time(fields: dict[str, Any], state: str) -> None:
    text = render.hosts({"hosts": [host(**fields)], "controller": CONTROLLER}, now_unix_ns=NOW_NS + 5 * NS_PER_S)
    assert cells(text, "node-1") == [
        "node-1", *state.split(), "64", "60.00", "0.50", "12", "freezer", "1.23%", "0.40%",
    ]  # fmt: skip


def test_a_host_that_lags_behind_its_targets_is_named() -> None:
    text = render.hosts({"hosts": [host(applied_generation=7)], "controller": CONTROLLER}, now_unix_ns=NOW_NS)
    assert "node-1: enforces targets 7, the newest are 9" in text


def test_pods_that_wait_for_a_share_stand_below_the_table() -> None:
    per_host: list[WaitingOnHostDocument] = [{"host": f"node-{number}", "pods": 9 - number} for number in range(1, 8)]
    waiting: list[WaitingDocument] = [
        {"see": "svc=bar", "pods": 100, "hosts": 40, "per_host": per_host},
        {"see": "svc=foo", "pods": 3, "hosts": 1, "per_host": [{"host": "node-1", "pods": 3}]},
    ]
    words = " ".join(render.services({"services": [], "waiting": waiting, "controller": CONTROLLER}).split())
    assert "pods waiting for a share: svc=foo (3 pods on node-1); give it one with 'utilctl set-share'" in words
    assert "svc=bar (8 pods on node-1, 7 pods on node-2" in words
    assert "4 pods on node-5 and 70 pods elsewhere)" in words
    text = render.hosts({"hosts": [host(waiting={"svc=foo": 1})], "controller": CONTROLLER}, now_unix_ns=NOW_NS)
    assert "node-1: 1 pod waiting for a share of svc=foo" in text


def test_explain_begins_with_its_sentence_and_holds_the_figures() -> None:
    text = render.explain(explained())
    assert text.splitlines()[0] == "svc=web gets 1.50 of 2.50 cores it wants."
    for words in ("capacity of node-1", "svc=etl", "nobody", "ab" * 16, "2023-11-14T22:13:20", "alice@ops", "launch"):
        assert words in text


def test_a_service_on_no_host_says_so() -> None:
    assert "on no host" in render.share({**service([]), "controller": CONTROLLER})


def test_history_says_who_changed_what_when_and_why() -> None:
    document: HistoryDocument = {
        "entries": [
            {
                "see": "svc=web", "changed_at": "2023-11-14T22:13:20.123456Z", "changed_unix_ns": NOW_NS,
                "changed_by": "bob", "reason": "why", "old": policy(share=1), "new": policy(share=3),
                "store_revision": 1, "fleet_disabled": None,
            }
        ]
    }  # fmt: skip
    assert render.history(document).splitlines()[1].split() == [
        "2023-11-14", "22:13:20", "svc=web", "bob", "share", "1", "->", "3", "why",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (None, policy(), "created: share 3"),
        (None, policy(share=1e6, cap_cores=0.1), "created: share 1000000, cap 0.1"),
        (policy(cap_cores=2), None, "deleted: share 3, cap 2"),
        (policy(share=1), policy(share=3, cap_cores=0.5), "share 1 -> 3, cap none -> 0.5"),
        (policy(), policy(), "unchanged"),
        (policy(), {**policy(), "match": [{"user": "a", "command": "b"}, {"unit": "c"}]},
         "match its label -> command=b,user=a or unit=c"),
    ],
)  # fmt: skip
def test_a_change_is_told_by_what_differs(old: PolicyDocument | None, new: PolicyDocument | None, words: str) -> None:
    assert wording.change_words(old, new) == words


@pytest.mark.parametrize(
    ("changed", "dry_run", "words"),
    [
        (True, False, "svc=web share 1 -> 3 (version 7)"),
        (False, False, "svc=web unchanged: share 3 (version 7)"),
        (True, True, "dry run, nothing stored: svc=web share 1 -> 3"),
    ],
)
def test_a_write_is_answered_in_one_line(changed: bool, dry_run: bool, words: str) -> None:
    previous = record(share=1) if changed else record()
    assert words == wording.set_share_words(
        {"see": "svc=web", "changed": changed, "dry_run": dry_run, "trace_id": "", "record": record(),
         "previous": previous, "warnings": []}
    )  # fmt: skip


def test_each_warning_of_a_write_has_a_line_of_its_own() -> None:
    words = wording.set_share_words(
        {"see": "svc=web", "changed": False, "dry_run": False, "trace_id": "", "record": record(),
         "previous": record(), "warnings": ["one", "two"]}
    )  # fmt: skip
    assert words == "svc=web unchanged: share 3 (version 7)\nwarning: one\nwarning: two"


def test_a_deletion_is_answered_in_one_line() -> None:
    words = wording.delete_words({"see": "svc=web", "dry_run": False, "previous": record()})
    assert words == "svc=web deleted: share 3 (was version 7)"


NAMES = st.text(min_size=1, max_size=120)


@given(see=NAMES, name=NAMES, reason=st.text(max_size=300), sentence=st.text(max_size=300))
def test_every_table_fits_80_columns_and_holds_no_control_characters(
    see: str, name: str, reason: str, sentence: str
) -> None:
    one = explained(
        see=see, reason=reason, sentence=sentence, per_host=[host_share(name, problem=reason)], lenders=[see, name]
    )
    share: Any = {**one, "controller": {**CONTROLLER, "degraded_reason": reason}}
    entry: Any = {
        "see": see, "changed_at": None, "changed_unix_ns": 0, "changed_by": name, "reason": reason, "old": None,
        "new": policy(see), "store_revision": 0, "fleet_disabled": None,
    }  # fmt: skip
    texts = [
        render.services({"services": [one], "waiting": [], "controller": {**CONTROLLER, "degraded_reason": reason}}),
        render.hosts({"hosts": [host(name, mechanism="signal")], "controller": CONTROLLER}, now_unix_ns=NOW_NS),
        render.share(share),
        render.explain(one),
        render.history({"entries": [entry]}),
    ]
    from rich.cells import cell_len

    for text in texts:
        assert all(line.isprintable() for line in text.split("\n"))
        assert max(cell_len(line) for line in text.split("\n")) <= 80


def test_numbers_stand_right_aligned_below_their_titles() -> None:
    text = render.services(
        {"services": [service(), service(see="svc=longer", share=1000)], "waiting": [], "controller": CONTROLLER}
    )
    header, *rows = text.splitlines()
    end = header.index("SHARE") + len("SHARE")
    assert [row[:end].split()[1] for row in rows] == ["3", "1000"]
    assert all(row[end - 1].isdigit() and row[end] == " " for row in rows)


def test_numbers_are_never_cut_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    wide = service(see="svc=" + "w" * 100, share=123456.5)
    text = render.services({"services": [{**wide, "demand_cores": 123456.78}], "waiting": [], "controller": CONTROLLER})
    assert "123456.5" in text
    assert "123456.78" in text
    assert "1.25" in text
    assert text.count("w") == 100


def test_a_held_service_and_a_disabled_fleet_say_so() -> None:
    held = service([])
    held["held_until_at"], held["held_until_unix_ns"] = "2023-11-14T22:13:20.000000Z", NOW_NS
    reason = "shares are disabled on the whole fleet"
    text = render.share({**held, "controller": {**CONTROLLER, "degraded_reason": reason}})
    assert "until 2023-11-14 22:13:20 UTC" in text
    assert reason in text


def test_history_tells_holds_and_the_switch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    held: PolicyDocument = {**policy(), "held_until_at": "2023-11-14T22:13:20.123456Z", "held_until_unix_ns": NOW_NS}
    common: Any = {"changed_at": None, "changed_unix_ns": 0, "changed_by": "bob", "reason": "", "store_revision": 1}
    entries: Any = [
        {**common, "see": "", "old": None, "new": None, "fleet_disabled": True},
        {**common, "see": "svc=web", "old": policy(), "new": held, "fleet_disabled": None},
    ]
    text = render.history({"entries": entries})
    assert "(fleet)" in text
    assert "shares disabled" in text
    assert "hold none -> until 2023-11-14 22:13:20" in text
