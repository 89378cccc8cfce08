"""The offline planner: the JSON it gives and what it says about mistakes in the file."""

from __future__ import annotations

from pathlib import Path

import pytest

from utilctl_common.errors import UsageError
from utilctl_controller.plan import load_fleet, plan

FLEET = """\
mode: fleet
hosts:
  - {name: a, cores: 1}
  - {name: b, cores: 1.5, unclaimed: 0.5}
services:
  - {name: web, share: 3, demand: {a: 1}}
  - name: etl
    share: 1
    demand: {b: 1}
  - {name: batch, share: 2, demand: {a: 1, b: 1}}
"""


@pytest.fixture
def fleet_file(tmp_path: Path) -> Path:
    path = tmp_path / "fleet.yaml"
    path.write_text(FLEET)
    return path


def test_the_plan_has_the_documented_shape(fleet_file: Path) -> None:
    assert plan(load_fleet(fleet_file)) == {
        "mode": "fleet",
        "services": [
            {
                "name": "batch",
                "total": 0.666666667,
                "hosts": {"a": 0.0, "b": 0.666666667},
                "bottleneck": "capacity of a, b",
            },
            {"name": "etl", "total": 0.333333333, "hosts": {"b": 0.333333333}, "bottleneck": "capacity of b"},
            {"name": "web", "total": 1.0, "hosts": {"a": 1.0}, "bottleneck": "demand"},
        ],
        "min_max_ratio": 1.0,
        "notes": [],
    }


def test_a_host_that_others_use_up_has_nothing_to_give(fleet_file: Path) -> None:
    fleet_file.write_text(FLEET.replace("unclaimed: 0.5", "unclaimed: 9"))
    by_name = {service["name"]: service for service in plan(load_fleet(fleet_file))["services"]}
    assert by_name["etl"]["total"] == 0.0
    assert by_name["etl"]["bottleneck"] == "capacity of b"


@pytest.mark.parametrize(
    ("old", "new", "line", "says"),
    [
        ("share: 1", "share: -1", 8, "services.1.share: share -1 is not positive"),
        ("share: 1", "share: lots", 8, "services.1.share: Input should be a valid number"),
        ("share: 1", "share: true", 8, "services.1.share: Input should be a valid number"),
        ("share: 1", "shares: 1", 8, "services.1.shar"),
        ("{b: 1}", "{b: .nan}", 9, "services.1.demand.b: nan is not a number of cores"),
        ("{b: 1}", "{c: 1}", 9, "services.1.demand.c: host 'c' is not listed"),
        ("name: etl", "name: web", 7, "services.1.name: 'web' is listed twice"),
        ("name: etl", "name: svc=x//y", 7, "services.1.name: service name 'svc=x//y' has an empty part"),
        ("name: b", "name: a", 4, "hosts.1.name: 'a' is listed twice"),
        ("mode: fleet", "mode: fair", 1, "mode: Input should be"),
        ("share: 1", "share: 1\n    floor: 2\n    cap: 1", 10, "services.1.cap: cap 1 is below the floor 2"),
        ("cores: 1.5", "cores: .inf", 4, "hosts.1.cores: inf is not a number of cores"),
    ],
)
def test_mistakes_are_named_by_file_line_and_field(fleet_file: Path, old: str, new: str, line: int, says: str) -> None:
    fleet_file.write_text(FLEET.replace(old, new, 1))
    with pytest.raises(UsageError) as raised:
        load_fleet(fleet_file)
    assert str(raised.value).startswith(f"{fleet_file}:{line}: {says}")
    assert "\n" not in str(raised.value)
