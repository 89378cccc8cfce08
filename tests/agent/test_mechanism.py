"""Which mechanism is chosen, and why."""

from __future__ import annotations

import pytest

from utilctl_agent.mechanism import MODES, HostAbilities, Mode, SandboxMode, Wanted, choose, choose_for_sandbox

EVERYTHING = HostAbilities(None, None, None)
NOTHING = HostAbilities("no v2", "no v1", "no cpu controller")


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode != "auto"])
def test_what_is_asked_for_and_possible_is_taken(mode: Mode) -> None:
    choice = choose(mode, EVERYTHING)
    assert (choice.mechanism, choice.refused) == (mode, False)
    assert choice.reason


def test_auto_takes_the_freezer_and_else_signals_and_says_why() -> None:
    assert choose("auto", EVERYTHING).mechanism == "freezer"
    choice = choose("auto", NOTHING)
    assert (choice.mechanism, choice.reason, choice.refused) == ("signal", "no v2", False)


@pytest.mark.parametrize(("mode", "why"), [("freezer", "no v2"), ("freezer-v1", "no v1"), ("weight", "no cpu")])
def test_what_is_not_possible_is_replaced_by_what_auto_takes_with_the_reason(mode: Mode, why: str) -> None:
    choice = choose(mode, NOTHING)
    assert (choice.mechanism, choice.refused) == ("signal", True)
    assert f"{mode} is not possible: {why}" in choice.reason
    only_freezer = HostAbilities(None, "no v1", "no cpu controller")
    if mode != "freezer":
        assert choose(mode, only_freezer).mechanism == "freezer"


@pytest.mark.parametrize("mode", ["signal", "observe"])
def test_signals_and_measuring_are_always_possible(mode: Mode) -> None:
    assert choose(mode, NOTHING).mechanism == mode


def test_auto_weighs_services_and_whoever_shares_several_cpus_unless_the_algorithm_pauses() -> None:
    assert choose("auto", EVERYTHING, Wanted(cpus=1, weighable=True)).mechanism == "freezer"
    assert choose("auto", EVERYTHING, Wanted(cpus=2, weighable=True)).mechanism == "weight"
    assert choose("auto", EVERYTHING, Wanted(cpus=1, weighable=True, services=True)).mechanism == "weight"
    assert choose("auto", EVERYTHING, Wanted(cpus=2, weighable=True, paused=True)).mechanism == "freezer"
    assert choose("auto", EVERYTHING, Wanted(cpus=2, weighable=False)).mechanism == "freezer"
    assert choose("auto", NOTHING, Wanted(cpus=2, weighable=True)).mechanism == "signal"


@pytest.mark.parametrize(
    ("asked", "quota", "freezer", "no_cgroup", "mechanism", "reason"),
    [
        ("auto", None, "no", None, "quota", "the kernel keeps a quota"),
        ("auto", "no controller", None, None, "freezer", "no quota: no controller"),
        ("auto", "no controller", "read-only", None, "signal", "no quota: no controller; no freezer: read-only"),
        ("quota", "no controller", None, None, "freezer", "no quota: no controller"),
        ("freezer", None, None, None, "freezer", "cgroup.freeze is writable"),
        ("freezer", None, "read-only", None, "signal", "no freezer: read-only"),
        ("signal", None, None, None, "signal", "signals were asked for"),
        ("auto", None, None, "it was taken", "signal", "it was taken"),
        ("quota", None, None, "it was taken", "signal", "it was taken"),
    ],
)
def test_a_sandbox_takes_the_first_that_the_host_allows_and_says_why(
    asked: SandboxMode, quota: str | None, freezer: str | None, no_cgroup: str | None, mechanism: str, reason: str
) -> None:
    choice = choose_for_sandbox(asked, quota=quota, freezer=freezer, no_cgroup=no_cgroup)
    assert choice.mechanism == mechanism
    assert reason in choice.reason
