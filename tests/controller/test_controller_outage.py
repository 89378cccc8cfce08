"""What fails around the controller: the store is away, the allocation fails or takes for ever. All of it comes back."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import grpc
import pytest

from support.controller_server import Outage, RunningController, eventually
from utilctl_common.quantities import NS_PER_MS
from utilctl_controller.allocation import solver
from utilctl_controller.allocation.model import AllocationError, AllocationProblem
from utilctl_controller.allocation.solver import Solution, solve
from utilctl_controller.store.port import Change, Done
from utilctl_controller.store.sqlite import SqliteStore
from utilctl_proto.v1.control_pb2 import DeleteSeeRequest, ListHistoryRequest, SetShareRequest


def code_of(call: Callable[[], Any]) -> tuple[grpc.StatusCode, str]:
    """Status and message of a call that must fail."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    error = cast("grpc.Call", caught.value)  # what a failed call raises is both; the published types cannot say so
    return error.code(), error.details() or ""


def test_without_its_store_a_controller_reads_and_rebalances_and_refuses_writes(
    controller: RunningController, store_path: Path
) -> None:
    controller.set_share("svc=web", 3)
    controller.set_share("svc=etl", 1)
    with controller.agent("host-a") as agent:
        agent.reporting_until(
            {"svc=web": 1.0, "svc=etl": 1.0},
            lambda: agent.newest()["svc=web"].entitlement_cores == pytest.approx(0.75, abs=0.01),
            "the first split",
        )
        with Outage(store_path):
            for call in (
                lambda: controller.set_share("svc=web", 9),
                lambda: controller.set_share("svc=web", 3),
                lambda: controller.control.DeleteSee(DeleteSeeRequest(see="svc=web")),
                lambda: controller.control.ListHistory(ListHistoryRequest()),
            ):
                code, details = code_of(call)
                assert code is grpc.StatusCode.UNAVAILABLE
                assert details
                assert "\n" not in details
            state = controller.controller()
            assert not state.store_available
            assert "unavailable" in state.degraded_reason
            assert controller.service("svc=web").record.policy.share == 3
            agent.reporting_until(
                {"svc=web": 1.0, "svc=etl": 0.1},
                lambda: agent.newest()["svc=web"].entitlement_cores == pytest.approx(0.9, abs=0.01),
                "the split after the change of demand",
            )
        eventually(lambda: controller.controller().store_available, "the store is back")
        assert controller.set_share("svc=web", 9).changed
        agent.until(lambda targets: targets["svc=web"].policy.share == 9, "the new share")


def test_a_store_that_goes_away_is_noticed_without_any_request(controller: RunningController, store_path: Path) -> None:
    with Outage(store_path):
        eventually(lambda: not controller.controller().store_available, "the outage is noticed")
    eventually(lambda: controller.controller().store_available, "the recovery is noticed")


def test_a_change_that_somebody_else_wrote_arrives_by_the_watch(
    controller: RunningController, store_path: Path
) -> None:
    controller.set_share("svc=web", 1)
    with controller.agent("host-a") as agent:
        agent.newest()
        other = SqliteStore(store_path)
        try:
            stored = other.snapshot().records["svc=web"]
            policy = type(stored.policy)("svc=web", 6.0)
            assert isinstance(other.put(policy, Change("other", "", 1), stored.version), Done)
            agent.until(lambda targets: targets["svc=web"].policy.share == 6, "the share of the other writer")
            assert isinstance(other.delete("svc=web", Change("other", "", 2), 2), Done)
            agent.until(lambda targets: not targets, "the deletion")
        finally:
            other.close()
        code, _ = code_of(lambda: controller.control.SetShare(SetShareRequest(see="svc=web", if_version=1)))
        assert code is grpc.StatusCode.ABORTED


def test_every_start_takes_a_higher_epoch(store_path: Path) -> None:
    epochs: list[int] = []
    for _ in range(2):
        with RunningController(SqliteStore(store_path, deadline_ns=300 * NS_PER_MS)) as running:
            running.set_share("svc=web", 1)
            epochs.append(running.controller().epoch)
            with running.agent("host-a") as agent:
                assert agent.newest()["svc=web"].policy.share == 1
                assert agent.sets[0].epoch == epochs[-1]
    assert epochs == [1, 2]


def test_while_no_allocation_can_be_had_the_last_targets_are_renewed_and_status_says_why(
    store_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release, slow = threading.Event(), threading.Event()

    def faulty(problem: AllocationProblem, before: Solution | None) -> Solution:
        if slow.is_set():
            release.wait(60)
            return solve(problem, before)
        raise AllocationError("the certificate does not hold")

    with RunningController(SqliteStore(store_path)) as controller, controller.agent("host-a") as agent:
        controller.set_share("svc=web", 3)
        agent.reporting_until(
            {"svc=web": 1.0}, lambda: "svc=web" in agent.newest() and controller.host("host-a").sees == 1, "a set"
        )
        monkeypatch.setattr(solver, "solve", faulty)
        for stage in ("failing", "slow"):
            agent.sets.clear()
            agent.reporting_until({"svc=web": 0.5}, lambda: len(agent.sets) >= 2, f"renewals while {stage}")
            if stage == "failing":
                eventually(lambda: "certificate" in controller.controller().degraded_reason, "the reason")
            slow.set()
        monkeypatch.setattr(solver, "solve", solve)
        release.set()
        agent.reporting_until(
            {"svc=web": 0.5},
            lambda: agent.newest()["svc=web"].entitlement_cores == pytest.approx(0.5, abs=0.01),
            "the split after the change of demand",
        )
        eventually(lambda: not controller.controller().degraded_reason, "the end of the trouble")
