"""The parts without I/O: defaults, purity, static shares, ceilings, demand, edits."""

from __future__ import annotations

import ast
import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import utilctl_controller
from support.fleet_values import hello, policies, reading
from utilctl_common.errors import UsageError
from utilctl_common.policy import SeePolicy
from utilctl_common.quantities import NS_PER_MS, NS_PER_S
from utilctl_controller.demand import DemandWindow
from utilctl_controller.edits import PolicyEdit, WriteTerms, apply_edit, unknown
from utilctl_controller.reports import MAX_PODS, MAX_WAITING, clean_report
from utilctl_controller.settings import ControllerSettings
from utilctl_controller.shares import ShareTree
from utilctl_controller.targets import TINY_RATIO, host_caps

PURE = (
    "demand", "edits", "explain", "fleet", "learning", "rebalance", "reports", "settings", "shares", "status",
    "targets",
)  # fmt: skip
FORBIDDEN = {"asyncio", "grpc", "logging", "opentelemetry", "os", "random", "socket", "subprocess", "threading", "time"}
NAMES = ("svc=a", "svc=b", "svc=b/x=1", "svc=b/x=2", "svc=c/x=1")


@pytest.mark.parametrize("name", PURE)
def test_the_core_imports_no_io_clock_or_logging(name: str) -> None:
    source = (Path(str(utilctl_controller.__file__)).parent / f"{name}.py").read_text()
    imported = {
        (alias.name if isinstance(node, ast.Import) else node.module or "").split(".")[0]
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    assert not imported & FORBIDDEN


def test_the_defaults_are_these() -> None:
    assert ControllerSettings() == ControllerSettings(
        listen="127.0.0.1:7400",
        report_interval_ns=NS_PER_S,
        lease_ns=15 * NS_PER_S,
        mode="fleet",
        learning_intervals=2,
        return_ns=2 * NS_PER_S,
        stale_intervals=3,
        renewals_per_lease=3,
        coalesce_ns=20 * NS_PER_MS,
        forget_ns=3600 * NS_PER_S,
        probe_ns=2 * NS_PER_S,
        keepalive_ns=10 * NS_PER_S,
        max_message_bytes=67_108_864,
        series_limit=1000,
    )


@given(
    st.fixed_dictionaries({name: st.floats(0.01, 100) for name in NAMES}),
    st.sets(st.sampled_from(NAMES), min_size=1),
)
def test_static_parts_of_those_that_compete_add_up_to_one(shares: dict[str, float], active: set[str]) -> None:
    fractions = ShareTree(policies(*(SeePolicy(name, share) for name, share in shares.items()))).fractions(active)
    assert set(fractions) == set(NAMES)
    assert sum(fractions[name] for name in active) == pytest.approx(1)
    assert all(0 < part <= 1 + 1e-9 for part in fractions.values())


def test_an_idle_services_static_part_is_what_it_would_have_if_it_were_busy() -> None:
    tree = ShareTree(policies(*(SeePolicy(name, 2) for name in NAMES)))
    for name in NAMES:
        others = {other for other in NAMES if other != name}
        assert tree.fractions(others)[name] == pytest.approx(tree.fractions(NAMES)[name])


@given(
    st.dictionaries(st.sampled_from(NAMES), st.floats(0.1, 8), min_size=1),
    st.dictionaries(st.sampled_from(("h1", "h2", "h3")), st.floats(0.5, 64), min_size=1),
    st.data(),
)
def test_ceilings_on_all_hosts_together_are_the_cap(
    capped: dict[str, float], capacity: dict[str, float], data: st.DataObject
) -> None:
    entries = policies(*(SeePolicy(name, 1, cap_cores=capped.get(name)) for name in NAMES))
    present = {host: data.draw(st.sets(st.sampled_from(NAMES))) for host in capacity}
    ceilings = host_caps(entries, {}, present, capacity)
    for name, cap in capped.items():
        below = [
            cores
            for row in ceilings.values()
            for see, cores in row.items()
            if see == name or see.startswith(f"{name}/")
        ]
        assert math.fsum(below) <= cap * (1 + 1e-9) + TINY_RATIO


def test_demand_is_the_largest_of_three_reports() -> None:
    window = DemandWindow()
    for cores in (0.5, 2.0, 0.1, 0.1):
        window.add([("svc=a", cores, 1)])
    assert window.cores() == {"svc=a": 2.0}
    window.add([("svc=a", 0.1, 1)])
    assert window.cores() == {"svc=a": 0.1}
    window.add([("svc=a", 5.0, 0)])
    assert window.cores() == {}, "no processes, no demand"


@given(st.lists(st.one_of(st.floats(), st.floats(-10, 10)), min_size=4, max_size=4))
def test_whatever_a_report_says_what_is_believed_is_sane(numbers: list[float]) -> None:
    said = reading(2, {"svc=a": numbers[0], "svc=b": numbers[1]}, cores=numbers[2], unclaimed=numbers[3])
    believed, _ = clean_report(hello("a", 4.0), said, 1, None, {})
    assert believed is not None
    assert math.isfinite(believed.capacity_cores)
    assert believed.capacity_cores > 0
    for cores in (believed.unclaimed_cores, *(entry.demand_cores for entry in believed.sees)):
        assert 0 <= cores <= believed.capacity_cores


def test_of_services_that_pods_wait_for_only_names_and_counts_that_can_be_are_believed() -> None:
    waiting = (("svc=foo", 3), ("svc=foo", 4), ("\x1b[31m", 1), ("svc=none", 0), ("svc=much", 10**9))
    said = replace(reading(2, {}), waiting=waiting)
    believed, problems = clean_report(hello("a", 4.0), said, 1, None, {})
    assert believed is not None
    assert believed.waiting == (("svc=foo", 3), ("svc=much", MAX_PODS))
    assert [problem.reason for problem in problems] == ["duplicate", "not_a_name", "too_large"]
    many = tuple((f"svc=s{number}", 1) for number in range(MAX_WAITING + 1))
    believed, problems = clean_report(hello("a", 4.0), replace(said, waiting=many), 1, None, {})
    assert believed is not None
    assert len(believed.waiting) == MAX_WAITING
    assert [problem.reason for problem in problems] == ["too_large"]


def test_an_edit_keeps_what_it_does_not_name() -> None:
    stored = SeePolicy("svc=a", 2, floor_cores=1, cap_cores=4, mode="signal")
    terms = WriteTerms("ada", "", None, dry_run=False)
    edit = PolicyEdit("svc=a", 3, None, None, False, None, None, terms)
    assert apply_edit(stored, edit) == SeePolicy("svc=a", 3, floor_cores=1, cap_cores=4, mode="signal")
    with pytest.raises(UsageError, match="needs a share"):
        apply_edit(None, PolicyEdit("svc=a", None, 1, None, False, None, None, terms))


def test_an_unknown_name_without_a_neighbour_says_how_to_list() -> None:
    assert "utilctl get services" in str(unknown("service", "svc=zzz", ["svc=a"]))
