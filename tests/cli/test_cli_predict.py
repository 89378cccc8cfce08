"""``utilctl predict``: its output, sweeps, goals, and every kind of mistake in the file and on the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from utilctl_cli.main import main

Run = Callable[..., subprocess.CompletedProcess[str]]

WORKLOADS = """\
semantics: guarantee
cores: 1
workloads:
  - {name: svc=web, share: 7, utilization: 0.3, service_time_s: 1}
  - {name: svc=etl, share: 4, utilization: 0.6, service_time_s: 1}
"""
TREE = """\
semantics: guarantee
workloads:
  - {name: g, share: 10000}
  - {name: g/1, share: 10000, utilization: 0.215}
  - {name: g/2, share: 1, utilization: 0.210}
  - {name: "3", share: 100, utilization: 0.176}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "workloads.yaml"
    path.write_text(WORKLOADS)
    return path


def document(ran: subprocess.CompletedProcess[str]) -> Any:
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


def assert_one_line(ran: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    assert ran.returncode == code
    assert ran.stdout == ""
    assert ran.stderr.startswith("utilctl: error: ")
    assert ran.stderr.count("\n") == 1
    for word in words:
        assert word in ran.stderr


def test_json_has_the_promised_keys_and_figures(utilctl: Run, file: Path) -> None:
    assert document(utilctl("predict", "-f", str(file), "-o", "json")) == {
        "workloads": [
            {"name": "svc=web", "response_time_s": pytest.approx(10), "slowdown": pytest.approx(10)},
            {"name": "svc=etl", "response_time_s": pytest.approx(10), "slowdown": pytest.approx(10)},
        ],
        "mean_response_time_s": pytest.approx(10),
        "notes": [],
    }


def test_the_table_has_a_row_for_each_workload_and_the_mean(utilctl: Run, file: Path) -> None:
    ran = utilctl("predict", "-f", str(file))
    lines = ran.stdout.splitlines()
    assert lines[0].split() == ["WORKLOAD", "RESPONSE", "SLOWDOWN"]
    assert lines[1].split() == ["svc=web", "10", "s", "10"]
    assert lines[-1] == "mean by CPU used: 10 s"


def test_children_by_path_make_a_tree(utilctl: Run, file: Path) -> None:
    file.write_text(TREE)
    times = {
        one["name"]: one["response_time_s"]
        for one in document(utilctl("predict", "-f", str(file), "-o", "json"))["workloads"]
    }
    assert times == {
        "g/1": pytest.approx(1.281, abs=1e-3),
        "g/2": pytest.approx(2.234, abs=1e-3),
        "3": pytest.approx(4.328, abs=1e-3),
    }


def test_slowdown_is_the_response_time_over_the_service_time(utilctl: Run, file: Path) -> None:
    file.write_text(WORKLOADS.replace("service_time_s: 1", "service_time_s: 0.02"))
    for one in document(utilctl("predict", "-f", str(file), "-o", "json"))["workloads"]:
        assert one["response_time_s"] == pytest.approx(0.2)
        assert one["slowdown"] == pytest.approx(10)


def test_a_workload_over_its_cap_has_no_response_time_and_a_note(utilctl: Run, file: Path) -> None:
    file.write_text(WORKLOADS.replace("guarantee", "cap"))
    ran = document(utilctl("predict", "-f", str(file), "-o", "json"))
    assert [one["response_time_s"] for one in ran["workloads"]] == [pytest.approx(1 / (7 / 11 - 0.3)), None]
    assert ran["mean_response_time_s"] is None
    assert "svc=etl" in ran["notes"][0]
    assert "unbounded" in utilctl("predict", "-f", str(file)).stdout


def test_a_sweep_has_the_ends_of_its_range_and_conserves_the_mean(utilctl: Run, file: Path) -> None:
    swept = document(utilctl("predict", "-f", str(file), "--sweep", "svc=web=0.1..5", "--points", "8", "-o", "json"))
    assert (swept["name"], swept["field"]) == ("svc=web", "share")
    assert [swept["points"][place]["value"] for place in (0, -1)] == [0.1, 5]
    assert len(swept["points"]) == 8
    times = [point["workloads"][0]["response_time_s"] for point in swept["points"]]
    assert times == sorted(times, reverse=True)
    assert [point["mean_response_time_s"] for point in swept["points"]] == pytest.approx([10.0] * 8)


def test_a_sweep_is_a_table_with_a_column_for_each_workload(utilctl: Run, file: Path) -> None:
    lines = utilctl("predict", "-f", str(file), "--sweep", "svc=web=1..7", "--points", "2").stdout.splitlines()
    assert lines[0].split() == ["SHARE", "svc=web", "svc=etl", "MEAN"]
    assert lines[2].split() == ["7", "10", "s", "10", "s", "10", "s"]


def test_a_sweep_of_a_cap_goes_through_what_has_no_bound(utilctl: Run, file: Path, tmp_path: Path) -> None:
    file.write_text(WORKLOADS.replace("guarantee", "cap").replace("share: 7", "cap: 0.35"))
    plot = tmp_path / "caps.png"
    swept = document(
        utilctl("predict", "-f", str(file), "--sweep", "svc=web=0.2..0.39", "--plot", str(plot), "-o", "json")
    )
    times = [point["workloads"][0]["response_time_s"] for point in swept["points"]]
    assert swept["field"] == "cap"
    assert times[0] is None
    assert times[-1] == pytest.approx(1 / 0.09)
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_a_goal_names_the_smallest_share_and_what_it_does_to_everybody(utilctl: Run, file: Path) -> None:
    ran = document(utilctl("predict", "-f", str(file), "--goal", "svc=web<5s", "-o", "json"))
    (setting,) = ran["settings"]
    assert (setting["name"], setting["field"]) == ("svc=web", "share")
    file.write_text(WORKLOADS.replace("share: 7", f"share: {setting['value']}"))
    again = document(utilctl("predict", "-f", str(file), "-o", "json"))
    assert again["workloads"] == ran["workloads"]
    assert 4.99 < again["workloads"][0]["response_time_s"] < 5


def test_a_goal_out_of_reach_fails_with_the_reason(utilctl: Run, file: Path) -> None:
    assert_one_line(utilctl("predict", "-f", str(file), "--goal", "svc=web<1200ms"), 1, "svc=web", "1.429 s")


@pytest.mark.parametrize(
    ("old", "new", "line", "named"),
    [
        ("utilization: 0.6", "utilization: -1", 5, "svc=etl: workloads.1.utilization: -1 is not a number of cores"),
        ("utilization: 0.6", "utilization: lots", 5, "svc=etl: workloads.1.utilization"),
        ("utilization: 0.6", "utilisation: 0.6", 5, "svc=etl: workloads.1.utilisation: unknown key"),
        ("utilization: 0.6, ", "", 5, "svc=etl: workloads.1.utilization: this key is missing"),
        ("share: 4", "share: 0", 5, "svc=etl: workloads.1.share: share 0 is not positive"),
        ("share: 4, ", "", 5, "svc=etl: workloads.1.share: it has no share"),
        ("share: 4", "cap: 0.4", 5, "svc=etl: workloads.1.cap: a cap among guarantees has no formula"),
        ("share: 4", "floor: 0.4, cap: 0.5", 5, "svc=etl: workloads.1.cap: a floor and a cap together"),
        ("share: 4", "floor: 0", 5, "svc=etl: workloads.1.floor: 0 is not positive"),
        ("share: 4", "share: 4, floor: 0.4", 5, "svc=etl: workloads.1.share"),
        ("0.3, service_time_s: 1", "0.3, service_time_s: 0", 4, "svc=web: workloads.0.service_time_s"),
        ("svc=etl", "svc=web", 5, "svc=web is listed twice"),
        ("svc=etl", "svc=x/a=b", 5, "parent of svc=x/a=b is not in the file"),
        ("svc=etl", "svc=web/a=b", 4, "svc=web: workloads.0.utilization: it has children"),
        ("utilization: 0.6", "utilization: 0.6, batch: true", 5, "svc=etl: workloads.1.utilization: batch"),
        ("utilization: 0.6", "utilization: 0.6, semantics: cap", 5, "svc=etl: workloads.1.semantics: only a group"),
        ("cores: 1", "cores: 0", 2, "cores: 0 is out of range"),
        ("cores: 1", "cores: .nan", 2, "cores: nan is out of range"),
        ("guarantee", "hope", 1, "semantics"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_with_line_workload_and_field(
    utilctl: Run, file: Path, old: str, new: str, line: int, named: str
) -> None:
    file.write_text(WORKLOADS.replace(old, new, 1))
    assert_one_line(utilctl("predict", "-f", str(file)), 2, f"{file}:{line}: ", named)


def test_more_work_than_cores_is_explained(utilctl: Run, file: Path) -> None:
    for utilization in ("0.7", "0.9"):
        file.write_text(WORKLOADS.replace("0.6", utilization))
        assert_one_line(utilctl("predict", "-f", str(file)), 2, "svc=etl", "the machine has 1", "without bound")


def test_transactions_beside_batch_work_have_no_formula(utilctl: Run, file: Path) -> None:
    file.write_text(WORKLOADS.replace("utilization: 0.6", "batch: true"))
    assert_one_line(utilctl("predict", "-f", str(file)), 2, "svc=etl: batch", "give each a cap")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), ("-f",)),
        (("--sweep", "svc=web"), ("svc=web=0.1..5",)),
        (("--sweep", "svc=web=5..1"), ("smaller value first",)),
        (("--sweep", "svc=web=0..1"), ("share 0 is not positive",)),
        (("--sweep", "svc=wbe=1..2"), ("svc=wbe", "svc=web, svc=etl")),
        (("--points", "5"), ("--sweep",)),
        (("--plot", "x.png"), ("--sweep",)),
        (("--goal", "svc=web"), ("svc=web<2s",)),
        (("--goal", "svc=web<2"), ("'2'", "unit")),
        (("--goal", "svc=wbe<2s"), ("svc=wbe",)),
        (("--goal", "svc=web<2s", "--sweep", "svc=web=1..2"), ("not both",)),
    ],
)
def test_a_bad_option_is_named_with_what_to_write_instead(
    utilctl: Run, file: Path, arguments: tuple[str, ...], words: tuple[str, ...]
) -> None:
    given_file = ("-f", str(file)) if arguments else ()
    assert_one_line(utilctl("predict", *given_file, *arguments), 2, *words)


def test_a_plot_without_matplotlib_says_what_to_install(
    utilctl: Run, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    plot = tmp_path / "x.png"
    ran = utilctl("predict", "-f", str(file), "--sweep", "svc=web=1..2", "--plot", str(plot))
    assert_one_line(ran, 1, "utilctl[plot]")
    assert not plot.exists()


def test_a_plot_that_cannot_be_written_is_one_line(utilctl: Run, file: Path, tmp_path: Path) -> None:
    plot = tmp_path / "none" / "x.png"
    assert_one_line(utilctl("predict", "-f", str(file), "--sweep", "svc=web=1..2", "--plot", str(plot)), 1, str(plot))


def test_a_file_on_standard_input_is_read(utilctl_process: Callable[..., Any], file: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "utilctl_cli.main", "predict", "-f", "-"],
        input=WORKLOADS,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0
    assert "svc=etl" in ran.stdout


VALUES = st.one_of(st.floats(), st.integers(), st.text(max_size=5), st.none(), st.booleans(), st.just([]), st.just({}))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.dictionaries(
        st.sampled_from(["name", "share", "utilization", "service_time_s", "batch", "floor", "cap", "semantics"]),
        VALUES,
    )
)
def test_any_entry_gives_an_answer_or_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], entry: dict[str, Any]
) -> None:
    path = tmp_path / "any.yaml"
    path.write_text(json.dumps({"semantics": "guarantee", "workloads": [entry]}))
    code = main(["predict", "-f", str(path)])
    out, err = capsys.readouterr()
    assert (code, err) == (0, "") if code == 0 else (code, out, err.count("\n")) == (2, "", 1)
