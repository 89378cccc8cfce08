"""The transaction benchmark: streams and ideals against what is known of queues; a short run on real processes."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import pytest

from bench import recorder, transactions
from bench.harness import has_kernel_shares, unified_root
from bench.transaction_servers import alps, kernel_shares, running, sandbox, serve, uncontrolled
from bench.transaction_streams import (
    Stream,
    alone,
    backlog,
    batch_sums,
    capped,
    fairly,
    in_order,
    modelled_ns,
    poisson,
    ratio,
    replay,
    responses_ns,
    schedule,
    streams,
)
from bench.transaction_tables import transactions as tables
from utilctl_common.responsetime import Machine, predict

S_NS = 1e9
LONG_NS = 4_000 * S_NS


def mean(values: list[float]) -> float:
    return math.fsum(values) / len(values)


def weighted(parts: tuple[float, ...], times: list[list[float]]) -> float:
    return sum(u * mean(column) for u, column in zip(parts, times, strict=True)) / sum(parts)


# -- streams ------------------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_stream_and_another_one_another() -> None:
    first = poisson(1, 0, utilization=0.5, service_ns=2e7, run_ns=10 * S_NS)
    assert first == poisson(1, 0, utilization=0.5, service_ns=2e7, run_ns=10 * S_NS)
    assert first != poisson(2, 0, utilization=0.5, service_ns=2e7, run_ns=10 * S_NS)
    assert first != poisson(1, 1, utilization=0.5, service_ns=2e7, run_ns=10 * S_NS)


def test_a_stream_is_the_same_whatever_its_shares_and_whoever_else_is_there() -> None:
    two = streams(transactions.guarantees((0.24, 0.47), (1, 9)), 7, 30 * S_NS)
    three = streams(transactions.guarantees((0.24, 0.47, 0.1), (1, 1, 1)), 7, 30 * S_NS)
    assert two == three[:2]


def test_a_stream_has_the_utilization_and_the_randomness_that_were_asked_for() -> None:
    stream = poisson(3, 0, utilization=0.4, service_ns=2e7, run_ns=LONG_NS)
    count = len(stream.arrivals_ns)
    assert count == pytest.approx(0.4 / 0.02 * 4_000, rel=0.02)
    assert sum(stream.services_ns) / LONG_NS == pytest.approx(0.4, rel=0.02)
    gaps = [after - before for before, after in pairwise(stream.arrivals_ns)]
    for values in (gaps, list(stream.services_ns)):
        middle = mean([float(value) for value in values])
        spread = mean([(value - middle) ** 2 for value in values])
        assert spread / middle**2 == pytest.approx(1, rel=0.05), "exponential: as wide as its mean"
    assert list(stream.arrivals_ns) == sorted(stream.arrivals_ns)
    assert stream.arrivals_ns[-1] < LONG_NS


def test_all_jobs_of_a_batch_are_there_from_the_beginning() -> None:
    stream = backlog(1, 0, service_ns=2e7, count=50)
    assert stream.arrivals_ns == (0,) * 50
    assert alone(stream)[-1] == sum(stream.services_ns)


def test_transactions_are_sent_as_they_arrive_and_a_workloads_jobs_in_their_order() -> None:
    assert schedule([Stream((0, 0, 7), (9, 5, 1)), Stream((0, 3), (4, 2))]) == [
        (0, 0, 9),
        (0, 0, 5),
        (0, 1, 4),
        (3, 1, 2),
        (7, 0, 1),
    ]


# -- ideals -------------------------------------------------------------------------------------------------------


def test_a_workload_that_is_alone_is_served_as_lindley_says_however_the_cpu_is_divided() -> None:
    stream = poisson(5, 0, utilization=0.7, service_ns=2e7, run_ns=60 * S_NS)
    machine = transactions.guarantees((0.7,), (1,))
    for rates in (in_order([0]), fairly(machine.nodes), capped([1.0])):
        assert replay([stream], rates)[0] == pytest.approx([float(end) for end in alone(stream)], abs=1_000)


def test_a_capped_workload_is_served_as_lindley_says_of_longer_service_times() -> None:
    stream = poisson(5, 0, utilization=0.3, service_ns=2e7, run_ns=60 * S_NS)
    longer = Stream(stream.arrivals_ns, tuple(2 * service for service in stream.services_ns))
    assert replay([stream], capped([0.5]))[0] == pytest.approx([float(end) for end in alone(longer)], abs=1_000)


def test_who_is_ahead_of_all_does_not_feel_the_others() -> None:
    served = streams(transactions.guarantees((0.3, 0.4), (1, 1)), 2, 60 * S_NS)
    for first in (0, 1):
        ends = replay(served, in_order([first, 1 - first]))
        assert ends[first] == pytest.approx([float(end) for end in alone(served[first])], abs=1_000)


def test_work_is_conserved_however_the_cpu_is_divided() -> None:
    """The CPU is busy at the same instants: every order ends the last transaction at the same moment."""
    used = (0.14, 0.21, 0.39)
    machine = transactions.guarantees(used, (1, 3, 1))
    served = streams(machine, 4, LONG_NS / 4)
    ways = [in_order([0, 1, 2]), in_order([2, 0, 1]), in_order([1, 2, 0]), fairly(machine.nodes)]
    runs = [replay(served, way) for way in ways]
    last = [max(column[-1] for column in ends) for ends in runs]
    assert last == pytest.approx([last[0]] * len(ways), abs=1_000)
    assert [transactions.unserved(served, ends) for ends in runs] == pytest.approx([0.0] * len(ways), abs=1e-6)
    means = [weighted(used, [responses_ns(*one) for one in zip(served, ends, strict=True)]) for ends in runs]
    assert means == pytest.approx([means[0]] * len(ways), rel=0.03), "sum of u R"


@pytest.mark.parametrize(
    "machine",
    [transactions.guarantees((0.24, 0.47), (1, 3)), transactions.tree()],
    ids=["two workloads", "tree"],
)
def test_the_model_on_a_long_stream_is_the_formula(machine: Machine) -> None:
    served = streams(machine, 6, LONG_NS)
    slowdowns = [mean(column) / (transactions.SERVICE_S * S_NS) for column in modelled_ns(machine, served)]
    expected = [one.slowdown for one in predict(machine).workloads]
    assert slowdowns == pytest.approx(expected, rel=0.06)


def test_fair_sharing_divides_a_group_first_and_what_is_inside_then() -> None:
    rates = fairly(transactions.tree().nodes)
    assert rates([0, 1, 2]) == pytest.approx([100 / 101 * 10_000 / 10_001, 100 / 101 / 10_001, 1 / 101])
    assert rates([1, 2]) == pytest.approx([100 / 101, 1 / 101]), "2 has what 1 leaves to the group"
    assert rates([2]) == [1.0]


def test_batches_add_up_and_an_interval_comes_from_how_much_they_differ() -> None:
    assert batch_sums([0, 4, 5, 99], [1.0, 2.0, 3.0, 4.0], 5, 2) == [3.0, 7.0]
    assert ratio([2.0, 4.0, 6.0], [1.0, 2.0, 3.0]) == (2.0, 0.0), "always the same ratio"
    value, half = ratio([1.0, 3.0], [1.0, 1.0])
    assert value == 2.0
    assert half == pytest.approx(1.96)
    assert math.isinf(ratio([1.0], [1.0])[1])


# -- real processes -----------------------------------------------------------------------------------------------


def need_root_and_cgroups() -> None:
    why = recorder.refusal()
    if why is not None or not has_kernel_shares() or unified_root() is None:
        pytest.skip(f"no kernel shares and cgroups of both versions, or no recorder here: {why}")


@pytest.mark.root
@pytest.mark.kernel
def test_real_servers_serve_every_transaction_in_turn_and_use_what_it_asked_for() -> None:
    need_root_and_cgroups()
    machine = transactions.guarantees((0.2, 0.3), (1, 3))
    served = streams(machine, 1, 2 * S_NS)
    with running(machine.nodes) as servers:
        for control in (uncontrolled, kernel_shares, alps("freezer")):
            seen = serve(servers, served, control, 2.0)
            for stream, ends, used in zip(served, seen.ends_ns, seen.used, strict=True):
                assert len(ends) == len(stream.arrivals_ns)
                assert ends == sorted(ends)
                # Never before a CPU of its own could have done it; clocks of two CPUs and a started quantum aside.
                assert all(end > earliest - 5e6 for end, earliest in zip(ends, alone(stream), strict=True))
                assert used > 0.97
        pids = [server.pid for server in servers.servers]
        folders = [*servers.cpu.values(), *servers.unified.values()]
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    assert not any(folder.exists() for folder in folders)


@pytest.mark.quiet
@pytest.mark.root
@pytest.mark.kernel
def test_a_capped_server_is_slower_and_a_row_of_it_makes_a_table(tmp_path: Path) -> None:
    need_root_and_cgroups()
    setting = transactions.Setting(
        transactions.caps([0.2], [0.4]), {"uncapped": uncontrolled, "utilctl sandbox": sandbox}
    )
    row = transactions.run_once("B3, cap 0.4", setting, seed=1, run_s=4.0, jobs=1_000)
    free, held = (sum(row["controls"][name]["response_s"][0]) for name in ("uncapped", "utilctl sandbox"))
    assert held > 1.5 * free
    assert "B3, cap 0.4" in tables({"B3, cap 0.4, run 1": row})
    transactions.plot({"B3, cap 0.4, run 1": row}, tmp_path / "plot.png")
