"""Agents' streams over real gRPC: the protocol, and what happens to those who do not keep it."""

from __future__ import annotations

import math
import time

import grpc
import pytest

from support.controller_server import FakeAgent, RunningController, eventually
from utilctl_common.quantities import NS_PER_MS, NS_PER_S
from utilctl_proto.v1 import agent_pb2, common_pb2, control_pb2


def test_an_agent_is_welcomed_and_gets_a_complete_set_with_policies_and_matchers(
    controller: RunningController,
) -> None:
    matcher = common_pb2.Matcher(conditions=[common_pb2.Condition(key="user", value="www-data")])
    controller.control.SetShare(
        control_pb2.SetShareRequest(see="svc=web", share=3, cap_cores=0.5, matchers=[matcher], set_matchers=True)
    )
    controller.set_share("svc=etl", 1)
    with controller.agent("host-a", 2.0) as agent:
        targets = agent.newest()
        assert agent.welcome is not None
        assert (agent.welcome.epoch, agent.welcome.report_interval_ns) == (1, 50 * NS_PER_MS)
        assert agent.welcome.controller_id
        assert set(targets) == {"svc=web", "svc=etl"}
        assert targets["svc=web"].policy.share == 3
        assert list(targets["svc=web"].policy.matchers) == [matcher]
        assert targets["svc=web"].weight == pytest.approx(1.5)
        assert targets["svc=web"].cap_cores == pytest.approx(0.5)
        assert not targets["svc=etl"].HasField("cap_cores")
        assert (agent.sets[0].epoch, agent.sets[0].lease_ns) == (1, 3 * NS_PER_S)
        assert agent.sets[0].generation > 0


def test_the_worked_example_reaches_the_agents(controller: RunningController) -> None:
    for see, share in (("svc=web", 3), ("svc=etl", 1), ("svc=batch", 2)):
        controller.set_share(see, share)
    with controller.agent("a") as a, controller.agent("b") as b:

        def settled() -> bool:
            a.report({"svc=web": 1.0, "svc=batch": 1.0})
            web, batch = a.newest()["svc=web"], b.newest()["svc=batch"]
            return bool(web.entitlement_cores > 0.99 and abs(batch.entitlement_cores - 2 / 3) < 0.01)

        b.reporting_until({"svc=etl": 1.0, "svc=batch": 1.0}, settled, "the entitlements of the example")
        assert b.newest()["svc=etl"].entitlement_cores == pytest.approx(1 / 3, abs=0.01)


def test_a_lease_is_renewed_under_the_same_generation(controller: RunningController) -> None:
    controller.set_share("svc=web", 1)
    with controller.agent("host-a") as agent:
        agent.reporting_until({"svc=web": 1.0}, lambda: len(agent.sets) >= 4, "renewals")
        assert agent.sets[-1].generation == agent.sets[-2].generation
        assert agent.sets[-1] == agent.sets[-2], "a renewal repeats everything, the trace context included"


def test_a_host_that_only_says_that_nothing_has_changed_keeps_its_lease(controller: RunningController) -> None:
    controller.set_share("svc=web", 1)
    with controller.agent("host-a") as agent:
        agent.reporting_until({"svc=web": 1.0}, lambda: bool(agent.sets), "a set")
        count = len(agent.sets)

        def renewed() -> bool:
            agent.say_unchanged()
            return len(agent.sets) >= count + 6

        eventually(renewed, "renewals")
        assert not agent.ended.is_set()


def test_nothing_has_changed_since_a_report_that_was_not_the_last_one_counts_for_nothing(
    controller: RunningController,
) -> None:
    controller.set_share("svc=web", 1)
    with controller.agent("host-a") as agent:
        agent.reporting_until({"svc=web": 1.0}, lambda: bool(agent.sets), "a set")

        def silent() -> bool:
            agent.say_unchanged(sequence=1_000_000)
            count = len(agent.sets)
            time.sleep(0.5)
            return len(agent.sets) == count

        eventually(silent, "the renewals end")


def test_a_second_agent_of_the_same_name_is_refused_and_the_first_goes_on(
    controller: RunningController,
) -> None:
    controller.set_share("svc=web", 1)
    with controller.agent("host-a") as first:
        first.reporting_until({"svc=web": 1.0}, lambda: bool(first.sets), "a set")
        with controller.agent("host-a", instance="second") as second:
            code, details = second.status()
        assert code is grpc.StatusCode.ALREADY_EXISTS
        assert "host-a" in details
        assert "--host" in details
        count = len(first.sets)
        first.reporting_until({"svc=web": 1.0}, lambda: len(first.sets) > count, "further renewals")
        assert not first.ended.is_set()


def test_a_second_agent_takes_over_when_the_first_has_fallen_silent(controller: RunningController) -> None:
    with controller.agent("host-a") as first:
        first.newest()

        def taken_over() -> bool:
            with controller.agent("host-a", instance="second") as second:
                eventually(lambda: second.ended.is_set() or second.welcome is not None, "an answer")
                return second.welcome is not None

        eventually(taken_over, "the second agent is let in")
        assert first.status()[0] is grpc.StatusCode.ABORTED


def test_the_same_agent_may_connect_again_while_its_old_stream_lingers(controller: RunningController) -> None:
    with controller.agent("host-a") as old, controller.agent("host-a") as new:
        eventually(lambda: old.ended.is_set() or new.ended.is_set(), "one of the streams ends")
        eventually(lambda: controller.host("host-a").connected, "the other stays")


def test_an_agent_of_a_newer_epoch_is_told_that_this_controller_is_superseded(
    controller: RunningController,
) -> None:
    with controller.agent("host-a", epoch=99) as agent:
        code, details = agent.status()
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    assert "epoch 99" in details


@pytest.mark.parametrize(
    ("hello", "part"),
    [
        (agent_pb2.Hello(host="", capacity_cores=1, instance_id="x"), "host name"),
        (agent_pb2.Hello(host="a b\n", capacity_cores=1, instance_id="x"), "host name"),
        (agent_pb2.Hello(host="a" * 300, capacity_cores=1, instance_id="x"), "host name"),
        (agent_pb2.Hello(host="a", capacity_cores=math.nan, instance_id="x"), "capacity"),
        (agent_pb2.Hello(host="a", capacity_cores=-1, instance_id="x"), "capacity"),
        (agent_pb2.Hello(host="a", capacity_cores=math.inf, instance_id="x"), "capacity"),
        (agent_pb2.Hello(host="a", capacity_cores=0, instance_id="x"), "capacity"),
        (agent_pb2.Hello(host="a", capacity_cores=1), "instance"),
    ],
)
def test_a_bad_hello_is_refused_with_one_clear_line(
    controller: RunningController, hello: agent_pb2.Hello, part: str
) -> None:
    with FakeAgent(controller.address) as agent:
        agent.send(hello=hello)
        code, details = agent.status()
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert part in details
    assert "\n" not in details
    assert not controller.control.ListHosts(control_pb2.ListHostsRequest()).hosts


def test_a_stream_that_begins_with_something_else_is_refused(controller: RunningController) -> None:
    with FakeAgent(controller.address) as agent:
        agent.report({"svc=web": 1.0})
        assert agent.status()[0] is grpc.StatusCode.INVALID_ARGUMENT
    with FakeAgent(controller.address) as agent:
        agent.send()
        assert agent.status()[0] is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("second_hello", [True, False])
def test_a_message_that_makes_no_sense_ends_that_stream_alone(
    controller: RunningController, second_hello: bool
) -> None:
    with controller.agent("host-a") as bad, controller.agent("host-b") as good:
        bad.newest()
        good.newest()
        if second_hello:
            bad.send(hello=agent_pb2.Hello(host="host-b", capacity_cores=1, instance_id="first"))
        else:
            bad.send()
        assert bad.status()[0] is grpc.StatusCode.INVALID_ARGUMENT
        assert controller.host("host-b").connected
        eventually(lambda: not controller.host("host-a").connected, "host-a is seen to be gone")


def test_bad_values_in_a_report_are_refused_and_the_rest_of_it_counts(controller: RunningController) -> None:
    controller.set_share("svc=web", 1)
    controller.set_share("svc=etl", 1)
    with controller.agent("host-a", 2.0) as agent:
        agent.reporting_until(
            {"svc=web": 1.0, "svc=etl": 1.0},
            lambda: controller.service("svc=web").entitlement_cores > 0.9,
            "an entitlement",
            cores=2.0,
        )
        for _ in range(5):
            agent.report({"svc=web": math.nan, "svc=etl": 1e300}, cores=math.inf)
        agent.report({"svc=web": -5.0, "svc=etl": 0.5}, cores=-2.0)
        eventually(lambda: controller.service("svc=etl").consumption_cores == 0.25, "the good part arrives")
        web = controller.service("svc=web")
        assert (web.demand_cores, web.consumption_cores) == (1.0, 0.5), "what was known before stays"
        assert controller.host("host-a").capacity_cores == 2.0
        assert controller.service("svc=etl").demand_cores == 2.0, "bounded by the host's capacity"
        assert not agent.ended.is_set()


def test_a_replayed_report_changes_nothing(controller: RunningController) -> None:
    controller.set_share("svc=web", 1)
    with controller.agent("host-a", 2.0) as agent:
        agent.newest()
        agent.report({"svc=web": 1.0}, cores=2.0, sequence=10)
        eventually(lambda: controller.service("svc=web").consumption_cores == 0.5, "the report arrives")
        agent.report({"svc=web": 2.0}, cores=2.0, sequence=10)
        agent.report({"svc=web": 2.0}, cores=2.0, sequence=3)
        agent.send(applied=agent_pb2.Applied(epoch=1, generation=agent.sets[0].generation))
        eventually(lambda: controller.host("host-a").applied_generation > 0, "the messages after them arrive")
        assert controller.service("svc=web").consumption_cores == 0.5


def test_a_change_of_policy_reaches_connected_agents_with_a_higher_generation(
    controller: RunningController,
) -> None:
    controller.set_share("svc=web", 1)
    with controller.agent("host-a") as agent:
        before = agent.newest()["svc=web"].policy.share, agent.sets[-1].generation
        controller.set_share("svc=web", 4)
        agent.until(lambda targets: targets["svc=web"].policy.share == 4, "the new share")
        assert before[0] == 1
        assert agent.sets[-1].generation > before[1]


def test_hosts_show_what_was_sent_applied_and_reported(controller: RunningController) -> None:
    controller.set_share("svc=web", 1)
    with controller.agent("host-a", 2.0) as agent:
        agent.newest()
        agent.report({"svc=web": 1.0}, cores=2.0)
        agent.send(applied=agent_pb2.Applied(epoch=1, generation=agent.sets[0].generation))
        eventually(lambda: controller.host("host-a").applied_generation == agent.sets[0].generation, "applied")
        host = controller.host("host-a")
        assert (host.connected, host.capacity_cores, host.sees, host.consumption_cores) == (True, 2.0, 1, 0.5)
        assert (host.mechanism, host.mechanism_reason) == ("signal", "not root")
        assert host.pushed_generation >= host.applied_generation
        assert host.last_report_unix_ns > 0
    eventually(lambda: not controller.host("host-a").connected, "the host is seen to be gone")
