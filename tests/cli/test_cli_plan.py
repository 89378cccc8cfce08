"""``utilctl plan``: the worked examples, and every kind of mistake in the file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from utilctl_cli.main import main

WORKED_1 = """\
mode: fleet
hosts:
  - {name: host-a, cores: 1}
  - {name: host-b, cores: 1}
services:
  - {name: svc=web, share: 3, demand: {host-a: 1}}
  - {name: svc=etl, share: 1, demand: {host-b: 1}}
  - {name: svc=batch, share: 2, demand: {host-a: 1, host-b: 1}}
"""
WORKED_2 = """\
mode: MODE
hosts: [{name: one, cores: 1}, {name: two, cores: 1}]
services:
  - {name: svc=a, share: 1, demand: {one: 1}}
  - {name: svc=b, share: 1, demand: {one: 1, two: 0.2}}
"""


def planned(text: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, float]]:
    file = folder / "fleet.yaml"
    file.write_text(text)
    assert main(["plan", "-f", str(file), "-o", "json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert set(document) == {"mode", "services", "min_max_ratio", "notes"}
    return {service["name"]: {"total": service["total"], **service["hosts"]} for service in document["services"]}


def test_the_first_worked_example_gives_the_figures_of_the_design(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    services = planned(WORKED_1, tmp_path, capsys)
    assert services["svc=web"] == pytest.approx({"total": 1.0, "host-a": 1.0})
    assert services["svc=etl"] == pytest.approx({"total": 1 / 3, "host-b": 1 / 3})
    assert services["svc=batch"] == pytest.approx({"total": 2 / 3, "host-a": 0.0, "host-b": 2 / 3})


def test_per_host_shares_would_have_given_something_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    services = planned(WORKED_1.replace("mode: fleet", "mode: host"), tmp_path, capsys)
    totals = {name: figures["total"] for name, figures in services.items()}
    assert totals == pytest.approx({"svc=web": 0.6, "svc=batch": 0.4 + 2 / 3, "svc=etl": 1 / 3})


@pytest.mark.parametrize(("mode", "a", "b"), [("fleet", 0.6, 0.6), ("fleet-with-floor", 0.5, 0.7)])
def test_the_second_worked_example_depends_on_the_mode(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], mode: str, a: float, b: float
) -> None:
    services = planned(WORKED_2.replace("MODE", mode), tmp_path, capsys)
    assert services["svc=a"]["total"] == pytest.approx(a)
    assert services["svc=b"]["total"] == pytest.approx(b)


@pytest.mark.parametrize(
    ("old", "new", "line", "named"),
    [
        ("share: 3", "shre: 3", 6, "services.0.shre: unknown key"),
        ("share: 3", "share: 0", 6, "not positive"),
        ("share: 3", "share: -1", 6, "not positive"),
        ("share: 3", "share: .nan", 6, "not a finite number"),
        ("share: 3", "share: 1e308", 6, "out of range"),
        ("share: 3", "share: lots", 6, "services.0.share"),
        ("cores: 1}", "cores: -1}", 3, "hosts.0.cores"),
        ("{host-b: 1}", "{host-c: 1}", 7, "'host-c' is not listed"),
        ("name: host-b", "name: host-a", 4, "listed twice"),
        ("mode: fleet", "mode: galaxy", 1, "mode"),
        ("mode: fleet", "mode: fleet\nmode: host", 2, "stands twice"),
        ("share: 3", "share: 3, floor: 2, cap: 1", 6, "below the floor"),
    ],
)
def test_a_mistake_is_one_line_with_file_line_and_field(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, line: int, named: str
) -> None:
    file = tmp_path / "fleet.yaml"
    file.write_text(WORKED_1.replace(old, new, 1))
    assert main(["plan", "-f", str(file)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.startswith(f"utilctl: error: {file}:{line}:")
    assert named in captured.err


@pytest.mark.parametrize("content", ["", "a: [", "- 1", "\t", "&a [*a]", "42"])
def test_a_file_that_is_no_fleet_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str) -> None:
    file = tmp_path / "fleet.yaml"
    file.write_text(content)
    assert main(["plan", "-f", str(file)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"utilctl: error: {file}")
    assert error.count("\n") == 1


def test_a_file_that_is_not_there_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "-f", str(tmp_path / "none.yaml")]) == 2
    assert "none.yaml" in capsys.readouterr().err
