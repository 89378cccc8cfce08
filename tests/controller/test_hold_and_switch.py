"""Holding one service, and the emergency switch of the fleet, over real gRPC, a real store and scripted agents."""

from __future__ import annotations

import time
from pathlib import Path

import grpc
import pytest

from support.controller_server import RunningController, eventually
from support.rpc import refused, wire_policy
from utilctl_common.quantities import NS_PER_MS, NS_PER_S
from utilctl_controller.store.sqlite import SqliteStore
from utilctl_proto.v1 import control_pb2
from utilctl_proto.v1.control_pb2 import ApplyRequest, HoldRequest, ReleaseRequest, SetEnabledRequest, SetShareRequest

HOUR_NS = 3600 * NS_PER_S


def explained(controller: RunningController, see: str) -> control_pb2.ExplainResponse:
    """Why the SEE gets what it gets."""
    return controller.control.Explain(control_pb2.ExplainRequest(see=see))


def test_a_held_service_keeps_its_weight_while_others_move_until_it_is_released(
    controller: RunningController,
) -> None:
    controller.set_share("svc=web", 3)
    controller.set_share("svc=etl", 1)
    busy = {"svc=web": 1.0, "svc=etl": 1.0}
    with controller.agent("a") as agent:
        agent.reporting_until(
            busy, lambda: abs(agent.newest()["svc=web"].entitlement_cores - 0.75) < 0.01, "the split of three to one"
        )
        response = controller.control.Hold(
            HoldRequest(see="svc=web", duration_ns=HOUR_NS, changed_by="ada", reason="test")
        )
        kept = agent.newest()["svc=web"].weight
        assert [held.host for held in response.held] == ["a"]
        assert response.held[0].weight_ratio == pytest.approx(kept)
        controller.set_share("svc=web", 100)
        controller.set_share("svc=new", 1)
        everybody = {**busy, "svc=new": 1.0}
        agent.reporting_until(
            everybody,
            lambda: abs(agent.newest()["svc=etl"].entitlement_cores - 0.125) < 0.01,
            "the others share out the rest",
        )
        held = agent.newest()
        assert held["svc=web"].weight == pytest.approx(kept)
        assert held["svc=web"].policy.share == 100
        assert held["svc=web"].policy.held_until_unix_ns > time.time_ns()
        assert held["svc=etl"].weight == pytest.approx(0.125, abs=0.01)
        told = explained(controller, "svc=web")
        assert told.binding_constraint == "hold"
        assert "is held at 0.75 cores, all on a, until" in told.sentence
        assert told.service.entitlement_cores == pytest.approx(0.75, abs=0.01)
        released = controller.control.Release(ReleaseRequest(see="svc=web", reason="done"))
        assert released.changed
        agent.reporting_until(everybody, lambda: agent.newest()["svc=web"].weight > 0.95, "its new share counts")
        assert not controller.control.Release(ReleaseRequest(see="svc=web")).changed
    reasons = [
        entry.reason for entry in controller.control.ListHistory(control_pb2.ListHistoryRequest(see="svc=web")).entries
    ]
    assert reasons == ["done", "", "test", ""]


def test_a_hold_ends_by_itself(controller: RunningController) -> None:
    controller.set_share("svc=web", 3)
    controller.set_share("svc=etl", 1)
    busy = {"svc=web": 1.0, "svc=etl": 1.0}
    with controller.agent("a") as agent:
        agent.reporting_until(busy, lambda: abs(agent.newest()["svc=web"].entitlement_cores - 0.75) < 0.01, "the split")
        controller.control.Hold(HoldRequest(see="svc=web", duration_ns=700 * NS_PER_MS))
        controller.set_share("svc=web", 1)
        agent.reporting_until(busy, lambda: abs(agent.newest()["svc=web"].weight - 0.5) < 0.01, "it is over")
        assert explained(controller, "svc=web").binding_constraint != "hold"


def test_a_hold_outlasts_the_controller_and_a_policy_file(store_path: Path) -> None:
    busy = {"svc=web": 1.0, "svc=etl": 1.0}
    with RunningController(SqliteStore(store_path)) as controller:
        controller.set_share("svc=web", 3)
        controller.set_share("svc=etl", 1)
        with controller.agent("a") as agent:
            agent.reporting_until(
                busy, lambda: abs(agent.newest()["svc=web"].entitlement_cores - 0.75) < 0.01, "the split"
            )
            controller.control.Hold(HoldRequest(see="svc=web", duration_ns=HOUR_NS))
            controller.control.Apply(ApplyRequest(policies=[wire_policy("svc=web", 1), wire_policy("svc=etl", 1)]))
    with RunningController(SqliteStore(store_path)) as controller, controller.agent("a") as agent:
        agent.reporting_until(
            busy, lambda: abs(agent.newest()["svc=etl"].weight - 0.25) < 0.01, "the new controller's decision"
        )
        target = agent.newest()["svc=web"]
        assert target.weight == pytest.approx(0.75, abs=0.01)
        assert target.policy.share == 1


def test_bad_holds_are_refused_and_change_nothing(controller: RunningController) -> None:
    code, details = refused(lambda: controller.control.Hold(HoldRequest(see="svc=x", duration_ns=HOUR_NS)))
    assert (code, "svc=x" in details) == (grpc.StatusCode.NOT_FOUND, True)
    controller.set_share("svc=web", 1)
    eventually(lambda: not controller.controller().degraded_reason, "the end of learning")
    for duration_ns in (0, -1, 366 * 24 * HOUR_NS, 2**63 - 1):
        code, _ = refused(lambda: controller.control.Hold(HoldRequest(see="svc=web", duration_ns=duration_ns)))  # noqa: B023
        assert code is grpc.StatusCode.INVALID_ARGUMENT
    code, _ = refused(lambda: controller.control.Hold(HoldRequest(see="svc=web", duration_ns=HOUR_NS, if_version=7)))
    assert code is grpc.StatusCode.ABORTED
    assert controller.control.Hold(HoldRequest(see="svc=web", duration_ns=HOUR_NS, dry_run=True)).dry_run
    assert controller.service("svc=web").record.version == 1
    assert refused(lambda: controller.control.Release(ReleaseRequest(see="svc=x")))[0] is grpc.StatusCode.NOT_FOUND


def test_a_disabled_fleet_is_told_at_once_says_so_and_is_enabled_again(controller: RunningController) -> None:
    controller.set_share("svc=web", 1)
    with controller.agent("a") as agent:
        agent.until(lambda targets: "svc=web" in targets, "a first set")
        before = agent.sets[-1]
        response = controller.control.SetEnabled(
            SetEnabledRequest(enabled=False, changed_by="ada", reason="incident 7")
        )
        assert (response.changed, response.fleet_switch.disabled, response.hosts) == (True, True, 1)
        eventually(lambda: agent.sets[-1].disabled, "the order to let everybody go")
        assert agent.sets[-1].generation > before.generation
        assert not controller.control.SetEnabled(SetEnabledRequest(enabled=False)).changed
        state = controller.controller()
        assert "shares are disabled" in state.degraded_reason
        assert "by ada (incident 7)" in state.degraded_reason
        assert (state.fleet_switch.disabled, state.fleet_switch.changed_by) == (True, "ada")
        told = explained(controller, "svc=web")
        assert (told.binding_constraint, "disabled" in told.sentence) == ("disabled", True)
        controller.control.SetShare(SetShareRequest(see="svc=web", share=5))
        eventually(lambda: agent.newest()["svc=web"].policy.share == 5, "policies go on")
        assert agent.sets[-1].disabled
        assert controller.control.SetEnabled(SetEnabledRequest(enabled=True, reason="over")).changed
        eventually(lambda: not agent.sets[-1].disabled, "shares hold again")
        assert "disabled" not in controller.controller().degraded_reason
    entries = controller.control.ListHistory(control_pb2.ListHistoryRequest()).entries
    assert [(entry.see, entry.HasField("fleet_disabled"), entry.fleet_disabled, entry.reason) for entry in entries] == [
        ("", True, False, "over"),
        ("svc=web", False, False, ""),
        ("", True, True, "incident 7"),
        ("svc=web", False, False, ""),
    ]


def test_disabled_outlasts_the_controller_and_reaches_hosts_that_keep_earlier_targets(store_path: Path) -> None:
    with RunningController(SqliteStore(store_path)) as controller:
        controller.set_share("svc=web", 1)
        controller.control.SetEnabled(SetEnabledRequest(enabled=False))
        epoch = controller.controller().epoch
    with RunningController(SqliteStore(store_path)) as controller, controller.agent("a", epoch=epoch) as agent:
        eventually(lambda: bool(agent.sets), "a set")
        assert agent.sets[0].disabled


def test_enabling_a_fleet_that_was_never_disabled_changes_nothing(controller: RunningController) -> None:
    response = controller.control.SetEnabled(SetEnabledRequest(enabled=True))
    assert (response.changed, response.HasField("fleet_switch")) == (False, False)
    assert len(controller.control.ListHistory(control_pb2.ListHistoryRequest()).entries) == 0


def test_history_may_leave_out_what_is_older(controller: RunningController) -> None:
    controller.set_share("svc=web", 1)
    between = controller.service("svc=web").record.changed_unix_ns + 1
    controller.set_share("svc=web", 2)
    entries = controller.control.ListHistory(control_pb2.ListHistoryRequest(since_unix_ns=between)).entries
    assert [entry.new.share for entry in entries] == [2]
    future = control_pb2.ListHistoryRequest(see="svc=web", since_unix_ns=2**62)
    assert len(controller.control.ListHistory(future).entries) == 0
