"""What is too much, too large, or a lie: refused or bounded, counted, and nobody else is disturbed."""

from __future__ import annotations

import time
from pathlib import Path

import grpc
import pytest
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from support.controller_server import RunningController, eventually
from support.rpc import refused
from utilctl_common import telemetry
from utilctl_common.quantities import NS_PER_MS
from utilctl_controller import codec, reports
from utilctl_controller.store.sqlite import SqliteStore
from utilctl_proto.v1 import agent_pb2, common_pb2, control_pb2
from utilctl_proto.v1.control_pb2 import ApplyRequest, SetShareRequest

MANY = 10_000
FUTURE = 2**63 - 1
BIGGEST_SEQUENCE = 2**64 - 1


def lie(sequence: int, see: str = "svc=web", **fields: float) -> agent_pb2.Report:
    """A report of one service with these fields, of a host of two cores."""
    entry = agent_pb2.SeeReport(**{"see": see, "processes": 1, **fields})  # type: ignore[arg-type] # names of fields
    return agent_pb2.Report(sequence=sequence, interval_ns=50 * NS_PER_MS, capacity_cores=2.0, sees=[entry])


def matched_by(value: str) -> common_pb2.Matcher:
    """A matcher with one condition."""
    return common_pb2.Matcher(conditions=[common_pb2.Condition(key="cgroup", value=value)])


# Much


def test_ten_thousand_services_come_and_go_and_an_agent_and_an_operator_hardly_notice(
    controller: RunningController,
) -> None:
    controller.set_share("svc=web", 3)
    names = [f"svc=s{number}" for number in range(MANY)]
    file = ApplyRequest(policies=[common_pb2.Policy(see=name, share=2) for name in names])
    with controller.agent("host-a") as agent:
        agent.reporting_until({"svc=web": 1.0}, lambda: bool(agent.sets), "a first set")
        assert len(controller.control.Apply(file).changes) == MANY
        agent.reporting_until(
            {"svc=web": 1.0}, lambda: len(agent.sets[-1].targets) == MANY + 1, "all of them at the agent"
        )
        assert controller.service("svc=web").record.policy.share == 3
        only_web = ApplyRequest(policies=[common_pb2.Policy(see="svc=web", share=4)], prune=True)
        assert len(controller.control.Apply(only_web).changes) == MANY + 1
        agent.reporting_until({"svc=web": 1.0}, lambda: len(agent.sets[-1].targets) == 1, "only one of them")
        assert not agent.ended.is_set()


def test_a_report_of_more_services_than_anybody_has_is_cut_short_and_counted(
    store_path: Path,
) -> None:
    reader = InMemoryMetricReader()
    ours = telemetry.setup("utilctl-controller", always_sdk=True, span_exporters=[], metric_readers=[reader])
    with RunningController(SqliteStore(store_path), ours) as controller:
        controller.set_share("svc=web", 1)
        with controller.agent("liar", 2.0) as liar, controller.agent("host-b", 2.0) as good:
            good.reporting_until({"svc=web": 1.0}, lambda: bool(good.sets), "a first set", cores=2.0)
            flood = lie(1, demand_cores=1.5, consumption_cores=1.0)
            flood.sees.extend(agent_pb2.SeeReport(see=f"svc=no{n}", processes=1) for n in range(reports.MAX_SEES + 500))
            liar.send(report=flood)
            eventually(lambda: controller.host("liar").last_report_unix_ns > 0, "the report arrives")
            assert controller.host("liar").sees == 1, "who has no policy counts for nothing"
            assert _counted(reader, "too_large") == 1, "said once, not once for each"
            sets = len(good.sets)
            good.reporting_until({"svc=web": 1.0}, lambda: len(good.sets) > sets, "the other one's renewals", cores=2.0)
            assert not good.ended.is_set()
    ours.shutdown()


def _counted(reader: InMemoryMetricReader, reason: str) -> float:
    data = reader.get_metrics_data()
    return sum(
        getattr(point, "value", 0.0)
        for resource in (data.resource_metrics if data else ())
        for scope in resource.scope_metrics
        for metric in scope.metrics
        if metric.name == "utilctl_controller_report_problems_total"
        for point in metric.data.data_points
        if (point.attributes or {}).get("reason") == reason
    )


@pytest.mark.parametrize("apply", [True, False])
def test_a_policy_of_ten_megabytes_is_refused_in_one_line_and_nothing_is_stored(
    controller: RunningController, apply: bool
) -> None:
    huge = [matched_by("/" + "x" * 1_000_000) for _ in range(10)]

    def write() -> None:
        if apply:
            policy = common_pb2.Policy(see="svc=web", share=1, matchers=huge)
            controller.control.Apply(ApplyRequest(policies=[policy]))
        else:
            controller.control.SetShare(SetShareRequest(see="svc=web", share=1, matchers=huge, set_matchers=True))

    code, details = refused(write)
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert f"more than {codec.MAX_MATCH_CHARACTERS} characters" in details
    assert "\n" not in details
    assert not controller.control.ListServices(control_pb2.ListServicesRequest()).services


def test_matchers_as_long_as_they_may_be_are_stored(controller: RunningController) -> None:
    longest = [matched_by("/" + "x" * (codec.MAX_MATCH_CHARACTERS - len("cgroup") - 1))]
    assert controller.control.SetShare(
        SetShareRequest(see="svc=web", share=1, matchers=longest, set_matchers=True)
    ).changed


# Lies


def test_totals_and_counts_at_the_end_of_their_range_do_not_keep_anybody_from_listing_the_fleet(
    controller: RunningController,
) -> None:
    controller.set_share("svc=web", 1)
    for child in ("a", "b"):
        controller.set_share(f"svc=web/part={child}", 1)
    most = {"consumed_total_ns": FUTURE, "paused_total_ns": FUTURE, "processes": 2**32 - 1}
    with controller.agent("liar", 2.0) as liar, controller.agent("other", 2.0) as other:
        for agent in (liar, other):
            agent.newest()
            report = lie(1, "svc=web/part=a", **most)
            report.sees.append(lie(1, "svc=web/part=b", **most).sees[0])
            agent.send(report=report)
        eventually(lambda: controller.service("svc=web").hosts == 2, "both reports arrive")
        service = controller.service("svc=web")
        assert service.consumed_total_ns == FUTURE
        assert {row.processes for row in service.per_host} == {2 * reports.MAX_PROCESSES}
        assert len(controller.control.ListServices(control_pb2.ListServicesRequest()).services) == 3


def test_a_report_from_the_far_future_harms_only_its_own_stream_and_a_new_one_mends_that(
    controller: RunningController,
) -> None:
    controller.set_share("svc=web", 1)
    with controller.agent("host-b", 2.0) as good:
        with controller.agent("liar", 2.0) as liar:
            liar.newest()
            liar.send(report=lie(BIGGEST_SEQUENCE, demand_cores=1.0, consumption_cores=0.5))
            eventually(lambda: controller.host("liar").sees == 1, "it is taken")
            liar.send(report=lie(2, demand_cores=2.0, consumption_cores=2.0))
            ahead = agent_pb2.Applied(epoch=1, generation=FUTURE, first_cycle_done=True, at_unix_ns=FUTURE)
            liar.send(applied=ahead)
            liar.send(applied=agent_pb2.Applied(epoch=FUTURE, generation=1, at_unix_ns=FUTURE))
            real = agent_pb2.Applied(epoch=1, generation=liar.sets[-1].generation)
            liar.send(applied=real)
            eventually(lambda: controller.host("liar").applied_generation > 0, "the messages behind it arrive")
            assert controller.host("liar").applied_generation == real.generation
            assert controller.service("svc=web").consumption_cores == 0.5, "later ones count as replayed"
            good.reporting_until({"svc=web": 1.0}, lambda: len(good.sets) >= 2, "the other one's sets", cores=2.0)
        eventually(lambda: not controller.host("liar").connected, "it is gone")
        with controller.agent("liar", 2.0) as mended:
            mended.reporting_until(
                {"svc=web": 2.0}, lambda: controller.host("liar").consumption_cores == 1.0, "believed again", cores=2.0
            )
        assert not good.ended.is_set()


def test_an_interval_of_centuries_is_not_believed(controller: RunningController) -> None:
    controller.set_share("svc=web", 1)
    with controller.agent("liar", 2.0) as liar:
        liar.newest()
        for sequence, interval_ns in enumerate((FUTURE, -FUTURE, 0, 1), start=1):
            report = lie(sequence, demand_cores=1.0, consumption_cores=0.5)
            report.interval_ns = interval_ns
            report.loop.overhead_total_ns = FUTURE
            liar.send(report=report)
        eventually(lambda: controller.service("svc=web").consumption_cores == 0.5, "they arrive")
        assert controller.host("liar").overhead_ratio >= 0
        assert not liar.ended.is_set()


def test_messages_repeated_as_fast_as_a_connection_carries_them_leave_others_their_turn(
    controller: RunningController,
) -> None:
    controller.set_share("svc=web", 1)
    with controller.agent("liar", 2.0) as liar, controller.agent("host-b", 2.0) as good:
        liar.newest()
        good.newest()
        replayed = lie(1, demand_cores=1.0, consumption_cores=0.5)
        for _ in range(5_000):
            liar.send(report=replayed)
        began = time.monotonic()
        good.reporting_until(
            {"svc=web": 1.0}, lambda: controller.host("host-b").consumption_cores == 0.5, "heard", cores=2.0
        )
        assert time.monotonic() - began < 30
        assert controller.host("liar").connected


# Policies that make no sense


def test_floors_above_all_capacity_are_warned_of_and_grant_no_more_than_there_is(
    controller: RunningController,
) -> None:
    controller.set_share("svc=web", 1)
    with controller.agent("host-a", 2.0) as agent:

        def decided(see: str) -> bool:
            agent.report({"svc=web": 2.0, "svc=etl": 2.0}, cores=2.0)
            return controller.service(see).entitlement_cores > 0

        eventually(lambda: decided("svc=web"), "a decision")
        answers = [
            controller.control.SetShare(SetShareRequest(see=see, share=1, floor_cores=1e6))
            for see in ("svc=web", "svc=etl")
        ]
        assert any("floor" in warning for answer in answers for warning in answer.warnings)
        eventually(lambda: decided("svc=etl"), "a decision with both")
        granted = [controller.service(see).entitlement_cores for see in ("svc=web", "svc=etl")]
        assert sum(granted) <= 2.0 + 1e-6
        assert min(granted) > 0.9, "floors that do not fit are cut by one factor"
        assert controller.controller().degraded_reason == ""


def test_a_child_without_a_parent_is_a_service_as_any_other(controller: RunningController) -> None:
    controller.set_share("svc=web/class=gold", 2)
    controller.set_share("svc=etl", 2)
    with controller.agent("host-a", 1.0) as agent:
        agent.reporting_until(
            {"svc=web/class=gold": 1.0, "svc=etl": 1.0},
            lambda: controller.service("svc=web/class=gold").entitlement_cores > 0.3,
            "an entitlement",
        )
        assert {target.policy.see for target in agent.sets[-1].targets} == {"svc=web/class=gold", "svc=etl"}
    code, _ = refused(lambda: controller.service("svc=web"))
    assert code is grpc.StatusCode.NOT_FOUND, "its parent exists no more than before"


@pytest.mark.parametrize("name", ["svc=a//x=b", "/svc=a", "svc=a/", "svc=a\x00", "svc=a\x1b[2J"])
def test_names_that_hide_something_are_refused_in_one_harmless_line(controller: RunningController, name: str) -> None:
    code, details = refused(lambda: controller.set_share(name, 1))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert details.isprintable()
    assert not controller.control.ListServices(control_pb2.ListServicesRequest()).services


def test_a_path_that_repeats_itself_is_no_cycle_but_a_plain_name(controller: RunningController) -> None:
    for name in ("svc=a", "svc=a/svc=a/svc=a"):
        controller.set_share(name, 1)
    with controller.agent("host-a", 1.0) as agent:
        agent.reporting_until(
            {"svc=a/svc=a/svc=a": 1.0},
            lambda: controller.service("svc=a").entitlement_cores > 0.9,
            "what is granted to the inner one counts for the outer one",
        )
