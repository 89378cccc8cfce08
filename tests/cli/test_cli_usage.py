"""Help, and what every kind of bad input gets: one line, the right exit code, no traceback."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from utilctl_cli.failures import one_line
from utilctl_cli.main import COMMANDS
from utilctl_cli.near import MAX_SUGGESTIONS, near_names

Run = Callable[..., subprocess.CompletedProcess[str]]
NOWHERE = ("--controller", "127.0.0.1:1")


def assert_usage_error(ran: subprocess.CompletedProcess[str], *words: str) -> None:
    assert ran.returncode == 2
    assert ran.stdout == ""
    assert ran.stderr.startswith("utilctl: error: ")
    assert ran.stderr.count("\n") == 1
    assert ran.stderr.endswith("\n")
    for word in words:
        assert word in ran.stderr


@pytest.mark.parametrize("share", ["0", "-1", "-0.5", "-.5", "-1e300", "-inf", "-nan", "-0"])
def test_a_share_that_is_not_positive_is_a_usage_error_and_not_an_unknown_option(utilctl: Run, share: str) -> None:
    assert_usage_error(utilctl("set-share", "svc=web", share), "share", "use a number from")


@pytest.mark.parametrize("share", ["nan", "inf", "1e308", "three", "", "1e-9", "9" * 5000])
def test_a_share_that_is_no_sane_number_is_a_usage_error(utilctl: Run, share: str) -> None:
    assert_usage_error(utilctl("set-share", "svc=web", share), "share", "use a number from")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--floor", "-1"), ("floor -1",)),
        (("--floor", "lots"), ("floor 'lots'",)),
        (("--cap", "-2"), ("cap -2",)),
        (("--cap", "0"), ("cap is 0", "none")),
        (("--cap", "nan"), ("cap 'nan'",)),
        (("--mode", "hard"), ("'hard'", "observe")),
        (("--match", "colour=red"), ("colour", "use one of")),
        (("--match", "user"), ("user", "KEY=VALUE")),
        (("--match", "none", "--match", "user=a"), ("none",)),
        (("--match", "cmdline=("), ("regular expression",)),
        (("--if-version", "-1"), ("version '-1'",)),
        (("--if-version", "9" * 5000), ("version",)),
        (("--if-version", str(2**63)), ("version",)),
        (("--timeout", "5"), ("'5'", "unit")),
        (("--timeout", "0s"), ("not positive",)),
        (("--timeout", "400d"), ("at most 1h",)),
        (("--controller", "here"), ("'here'", "HOST:PORT")),
        (("--controller", "a:1,,b:2"), ("''", "HOST:PORT")),
        (("--controller", "a:99999"), ("a:99999",)),
        (("--reason", "\udcff"), ("reason", "UTF-8")),
        (("--flor", "1"), ("--flor", "--floor")),
        (("-o", "xml"), ("xml", "json")),
        (("4",), ("unexpected", "--help")),
        (("--reason",), ("--reason", "requires an argument")),
    ],
)  # fmt: skip
def test_a_bad_option_is_named_with_what_to_write_instead(
    utilctl: Run, arguments: tuple[str, ...], words: tuple[str, ...]
) -> None:
    assert_usage_error(utilctl("set-share", "svc=web", "3", *arguments), *words)


@pytest.mark.parametrize("name", ["web", "svc=", "=web", "svc=web/", "svc=we b", "svc=" + "w" * 300, "../x=y", ""])
@pytest.mark.parametrize("command", [("get", "share"), ("explain",), ("history",), ("delete",), ("set-share",)])
def test_a_malformed_service_name_is_refused_before_anything_is_asked(
    utilctl: Run, command: tuple[str, ...], name: str
) -> None:
    assert_usage_error(utilctl(*command, name, *NOWHERE), "service name")


def test_nothing_to_set_is_a_usage_error(utilctl: Run) -> None:
    assert_usage_error(utilctl("set-share", "svc=web"), "nothing to set", "utilctl set-share svc=web 3")


def test_a_missing_argument_is_named(utilctl: Run) -> None:
    assert_usage_error(utilctl("explain"), "SERVICE", "utilctl explain --help")


@pytest.mark.parametrize(
    ("typed", "meant"), [("gte", "get"), ("set", "set-share"), ("histroy", "history"), ("SET-SHARE", "set-share")]
)
def test_an_unknown_command_suggests_the_one_that_was_meant(utilctl: Run, typed: str, meant: str) -> None:
    assert_usage_error(utilctl(typed), f"'{typed}'", f"did you mean {meant}", "utilctl --help")


def test_an_unknown_subcommand_of_get_suggests_the_one_that_was_meant(utilctl: Run) -> None:
    assert_usage_error(utilctl("get", "service"), "did you mean services", "utilctl get --help")


def test_get_alone_names_what_it_can_get(utilctl: Run) -> None:
    assert_usage_error(utilctl("get"), "services", "hosts", "share")


def test_a_bad_address_in_the_environment_is_a_usage_error(utilctl: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UTILCTL_CONTROLLER", "http://here")
    assert_usage_error(utilctl("get", "services"), "http://here", "UTILCTL_CONTROLLER")


def test_an_option_before_its_command_is_told_where_it_belongs(utilctl: Run) -> None:
    assert_usage_error(utilctl("-o", "json", "get", "services"), "'-o'", "stand after it")


def test_a_defect_of_utilctl_is_one_line_too_and_a_traceback_only_on_request(
    utilctl: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: object) -> None:
        raise RuntimeError("first\nsecond")

    monkeypatch.setattr("utilctl_cli.client.ControllerClient.services", broken)
    ran = utilctl("get", "services")
    assert ran.returncode == 1
    assert ran.stderr.startswith("utilctl: error: internal error: RuntimeError: first second; set UTILCTL_DEBUG=1")
    assert ran.stderr.count("\n") == 1
    monkeypatch.setenv("UTILCTL_DEBUG", "1")
    with pytest.raises(RuntimeError):
        utilctl("get", "services")


def test_help_lists_every_command_with_its_line(utilctl: Run) -> None:
    ran = utilctl("--help")
    assert ran.returncode == 0
    for name, command in COMMANDS.items():
        assert any(line.split() == [name, *command.short_help.split()] for line in ran.stdout.splitlines())


OWN_COMMANDS = [("set-share",), ("get",), ("get", "services"), ("get", "hosts"), ("get", "share"), ("explain",),
                ("history",), ("delete",), ("plan",), ("apply",), ("diff",), ("export",), ("hold",), ("release",),
                ("disable",), ("enable",),]  # fmt: skip


@pytest.mark.parametrize("command", OWN_COMMANDS)
def test_help_of_a_command_shows_examples_line_by_line_within_80_columns(
    utilctl: Run, command: tuple[str, ...]
) -> None:
    ran = utilctl(*command, "--help")
    assert ran.returncode == 0
    examples = ran.stdout.partition("Examples:\n")[2].splitlines()
    assert examples
    assert all(line.startswith(f"    utilctl {' '.join(command)}") for line in examples)
    assert max(map(len, ran.stdout.splitlines())) <= 80


@pytest.mark.parametrize("command", OWN_COMMANDS[:1] + OWN_COMMANDS[2:])
def test_every_command_can_print_json(utilctl: Run, command: tuple[str, ...]) -> None:
    assert "[table|json]" in utilctl(*command, "--help").stdout


def test_version_prints_the_version(utilctl: Run) -> None:
    ran = utilctl("--version")
    assert (ran.returncode, ran.stdout.split()[0]) == (0, "utilctl")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_of_the_table_exists(name: str) -> None:
    assert COMMANDS[name].load().name == name


@given(st.text())
def test_an_error_is_one_printable_line_whatever_is_in_it(text: str) -> None:
    assert one_line(text).isprintable()


@given(st.text(max_size=20), st.lists(st.text(min_size=1, max_size=20)))
def test_suggestions_are_few_and_known(wrong: str, known: list[str]) -> None:
    near = near_names(wrong, known)
    assert len(near) <= MAX_SUGGESTIONS
    assert set(near) <= set(known)


def test_a_known_name_typed_right_is_the_first_suggestion() -> None:
    assert near_names("svc=web", ["svc=wed", "svc=web", "svc=webs"])[0] == "svc=web"


@pytest.mark.parametrize("command", [command for command in OWN_COMMANDS if command != ("get",)])
def test_the_reference_page_has_every_command_and_option(utilctl: Run, command: tuple[str, ...]) -> None:
    page = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()
    assert f"\n## {' '.join(command)}\n" in page
    for option in re.findall(r"--[a-z-]+", utilctl(*command, "--help").stdout.partition("Examples:")[0]):
        assert option in page
