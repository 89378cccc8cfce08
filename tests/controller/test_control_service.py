"""What the command line may ask, over real gRPC and a real store, bad input included."""

from __future__ import annotations

import math

import grpc
import pytest

from support.controller_server import RunningController, eventually
from support.rpc import refused
from utilctl_proto.v1 import common_pb2, control_pb2
from utilctl_proto.v1.control_pb2 import DeleteSeeRequest, SetShareRequest


def matcher(key: str, value: str) -> common_pb2.Matcher:
    """A matcher of one condition."""
    return common_pb2.Matcher(conditions=[common_pb2.Condition(key=key, value=value)])


def test_a_new_share_is_stored_and_told_with_author_and_reason(controller: RunningController) -> None:
    response = controller.control.SetShare(
        SetShareRequest(see="svc=web", share=3, floor_cores=0.5, changed_by="ada", reason="launch")
    )
    assert response.changed
    assert not response.HasField("previous")
    record = controller.service("svc=web").record
    assert record == response.record
    assert (record.version, record.policy.share, record.policy.floor_cores) == (1, 3, 0.5)
    assert (record.changed_by, record.reason, record.policy.mode) == ("ada", "launch", "auto")
    assert record.changed_unix_ns > 0


def test_absent_fields_keep_what_is_stored(controller: RunningController) -> None:
    controller.control.SetShare(
        SetShareRequest(
            see="svc=web", share=3, floor_cores=0.5, cap_cores=2, mode="signal",
            matchers=[matcher("user", "www-data")], set_matchers=True,
        )
    )  # fmt: skip
    controller.control.SetShare(SetShareRequest(see="svc=web", share=4))
    policy = controller.service("svc=web").record.policy
    assert (policy.share, policy.floor_cores, policy.cap_cores, policy.mode) == (4, 0.5, 2, "signal")
    assert list(policy.matchers) == [matcher("user", "www-data")]
    controller.control.SetShare(SetShareRequest(see="svc=web", clear_cap=True, set_matchers=True))
    policy = controller.service("svc=web").record.policy
    assert (policy.share, policy.HasField("cap_cores"), len(policy.matchers)) == (4, False, 0)


def test_a_share_that_is_set_already_is_no_change(controller: RunningController) -> None:
    controller.set_share("svc=web", 3)
    again = controller.set_share("svc=web", 3)
    assert not again.changed
    assert again.record.version == 1
    assert len(controller.control.ListHistory(control_pb2.ListHistoryRequest()).entries) == 1


@pytest.mark.parametrize(
    "request_",
    [
        SetShareRequest(see="web", share=1),
        SetShareRequest(see="", share=1),
        SetShareRequest(see="svc=web\n", share=1),
        SetShareRequest(see="svc=" + "x" * 400, share=1),
        SetShareRequest(see="svc=web"),
        SetShareRequest(see="svc=web", share=0),
        SetShareRequest(see="svc=web", share=-1),
        SetShareRequest(see="svc=web", share=math.nan),
        SetShareRequest(see="svc=web", share=math.inf),
        SetShareRequest(see="svc=web", share=1e9),
        SetShareRequest(see="svc=web", share=1, floor_cores=math.nan),
        SetShareRequest(see="svc=web", share=1, floor_cores=-1),
        SetShareRequest(see="svc=web", share=1, cap_cores=0),
        SetShareRequest(see="svc=web", share=1, floor_cores=2, cap_cores=1),
        SetShareRequest(see="svc=web", share=1, cap_cores=1, clear_cap=True),
        SetShareRequest(see="svc=web", share=1, mode="magic"),
        SetShareRequest(see="svc=web", share=1, matchers=[matcher("colour", "red")], set_matchers=True),
        SetShareRequest(see="svc=web", share=1, matchers=[matcher("cmdline", "(")], set_matchers=True),
        SetShareRequest(see="svc=web", share=1, matchers=[common_pb2.Matcher()], set_matchers=True),
        SetShareRequest(see="svc=web", share=1, matchers=[matcher("user", "www-data")]),
        SetShareRequest(see="svc=web", share=1, reason="two\nlines"),
        SetShareRequest(see="svc=web", share=1, changed_by="x" * 2000),
    ],
)
def test_a_bad_request_is_refused_and_nothing_is_stored(
    controller: RunningController, request_: SetShareRequest
) -> None:
    code, _ = refused(lambda: controller.control.SetShare(request_))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert not controller.control.ListServices(control_pb2.ListServicesRequest()).services
    assert not controller.control.ListHistory(control_pb2.ListHistoryRequest()).entries


def test_a_stale_version_is_a_conflict_that_names_both(controller: RunningController) -> None:
    controller.set_share("svc=web", 1)
    controller.set_share("svc=web", 2)
    for call in (
        lambda: controller.control.SetShare(SetShareRequest(see="svc=web", share=9, if_version=1)),
        lambda: controller.control.DeleteSee(DeleteSeeRequest(see="svc=web", if_version=1)),
    ):
        code, details = refused(call)
        assert code is grpc.StatusCode.ABORTED
        assert "version 2" in details
        assert "version 1" in details
    assert controller.service("svc=web").record.policy.share == 2
    assert controller.control.SetShare(SetShareRequest(see="svc=web", share=9, if_version=2)).changed


def test_version_zero_asks_that_the_service_is_new(controller: RunningController) -> None:
    assert controller.control.SetShare(SetShareRequest(see="svc=web", share=1, if_version=0)).changed
    code, _ = refused(lambda: controller.control.SetShare(SetShareRequest(see="svc=web", share=2, if_version=0)))
    assert code is grpc.StatusCode.ABORTED
    code, _ = refused(lambda: controller.control.SetShare(SetShareRequest(see="svc=x", share=2, if_version=3)))
    assert code is grpc.StatusCode.ABORTED


def test_a_dry_run_shows_the_outcome_and_changes_nothing(controller: RunningController) -> None:
    controller.set_share("svc=web", 1)
    response = controller.control.SetShare(SetShareRequest(see="svc=web", share=5, dry_run=True))
    assert (response.dry_run, response.changed) == (True, True)
    assert (response.record.policy.share, response.record.version) == (5, 2)
    assert response.previous.policy.share == 1
    assert controller.control.DeleteSee(DeleteSeeRequest(see="svc=web", dry_run=True)).dry_run
    record = controller.service("svc=web").record
    assert (record.policy.share, record.version) == (1, 1)
    assert len(controller.control.ListHistory(control_pb2.ListHistoryRequest()).entries) == 1


def test_a_deleted_service_is_gone_and_its_history_stays(controller: RunningController) -> None:
    controller.set_share("svc=web", 1)
    deleted = controller.control.DeleteSee(DeleteSeeRequest(see="svc=web", changed_by="bob", reason="retired"))
    assert deleted.previous.policy.share == 1
    assert refused(lambda: controller.service("svc=web"))[0] is grpc.StatusCode.NOT_FOUND
    entries = controller.control.ListHistory(control_pb2.ListHistoryRequest(see="svc=web")).entries
    assert [(entry.changed_by, entry.HasField("old"), entry.HasField("new")) for entry in entries] == [
        ("bob", True, False),
        ("ada", False, True),
    ]


def test_an_unknown_service_is_not_found_with_a_hint_of_near_names(controller: RunningController) -> None:
    controller.set_share("svc=billing", 1)
    for call in (
        lambda: controller.service("svc=biling"),
        lambda: controller.control.Explain(control_pb2.ExplainRequest(see="svc=biling")),
        lambda: controller.control.DeleteSee(DeleteSeeRequest(see="svc=biling")),
        lambda: controller.control.ListHistory(control_pb2.ListHistoryRequest(see="svc=biling")),
    ):
        code, details = refused(call)
        assert code is grpc.StatusCode.NOT_FOUND
        assert "svc=billing" in details


def test_an_unknown_host_is_not_found(controller: RunningController) -> None:
    controller.set_share("svc=web", 1)
    code, details = refused(
        lambda: controller.control.Explain(control_pb2.ExplainRequest(see="svc=web", host="nowhere"))
    )
    assert code is grpc.StatusCode.NOT_FOUND
    assert "nowhere" in details


@pytest.mark.parametrize("see", ["", "web", "svc=web\x00", "svc=" + "x" * 400])
def test_malformed_names_are_bad_requests_everywhere(controller: RunningController, see: str) -> None:
    calls = [
        lambda: controller.service(see),
        lambda: controller.control.Explain(control_pb2.ExplainRequest(see=see)),
        lambda: controller.control.DeleteSee(DeleteSeeRequest(see=see)),
    ]
    if see:
        calls.append(lambda: controller.control.ListHistory(control_pb2.ListHistoryRequest(see=see)))
    for call in calls:
        assert refused(call)[0] is grpc.StatusCode.INVALID_ARGUMENT


def test_history_is_newest_first_and_limited(controller: RunningController) -> None:
    for share in (1, 2, 3):
        controller.set_share("svc=web", share)
    entries = controller.control.ListHistory(control_pb2.ListHistoryRequest(limit=2)).entries
    assert [(entry.old.share, entry.new.share) for entry in entries] == [(2, 3), (1, 2)]


def test_concurrent_writers_without_a_version_all_succeed(controller: RunningController) -> None:
    controller.set_share("svc=web", 1)
    calls = [
        controller.control.SetShare.future(SetShareRequest(see="svc=web", share=2 + number)) for number in range(8)
    ]
    assert all(call.result().changed for call in calls)
    assert controller.service("svc=web").record.version == 9


def test_explain_says_who_gets_what_and_why(controller: RunningController) -> None:
    for see, share in (("svc=web", 3), ("svc=etl", 1), ("svc=batch", 2)):
        controller.set_share(see, share)
    with controller.agent("host-a") as a, controller.agent("host-b") as b:

        def settled() -> bool:
            a.report({"svc=web": 1.0, "svc=batch": 1.0})
            return abs(controller.service("svc=batch").entitlement_cores - 2 / 3) < 0.01

        b.reporting_until({"svc=etl": 1.0, "svc=batch": 1.0}, settled, "the entitlements of the example")
        web = controller.control.Explain(control_pb2.ExplainRequest(see="svc=web"))
        assert web.sentence.startswith("svc=web gets 1.00 of 1.00 cores it wants, all of host-a")
        assert (web.service.demand_cores, web.service.consumption_cores) == (1.0, 0.5)
        assert web.service.consumed_total_ns > 0
        assert web.service.hosts == 1
        assert web.decided_unix_ns > 0
        assert len(web.trace_id) == 32
        batch = controller.control.Explain(control_pb2.ExplainRequest(see="svc=batch"))
        assert "host-b" in batch.binding_constraint
        assert list(batch.borrowers) == ["svc=web"], "web has more than its static 0.6 of host-a"
        assert [row.host for row in batch.service.per_host] == ["host-a", "host-b"]
        one = controller.control.Explain(control_pb2.ExplainRequest(see="svc=batch", host="host-a"))
        assert [row.host for row in one.service.per_host] == ["host-a"]
    eventually(lambda: not controller.host("host-a").connected, "the agents are gone")


def test_explain_names_lenders(controller: RunningController) -> None:
    controller.set_share("svc=web", 1)
    controller.set_share("svc=etl", 1)
    with controller.agent("host-a") as agent:
        agent.reporting_until(
            {"svc=web": 1.0, "svc=etl": 0.2},
            lambda: controller.service("svc=web").entitlement_cores == pytest.approx(0.8, abs=0.01),
            "what etl does not use",
        )
        response = controller.control.Explain(control_pb2.ExplainRequest(see="svc=web"))
        assert list(response.lenders) == ["svc=etl"]
        lender = controller.control.Explain(control_pb2.ExplainRequest(see="svc=etl"))
        assert list(lender.borrowers) == ["svc=web"]
        assert "it can use no more" in lender.sentence


def test_a_service_nobody_runs_is_explained_too(controller: RunningController) -> None:
    controller.set_share("svc=web", 1)
    eventually(lambda: not controller.controller().degraded_reason, "the end of learning")
    eventually(
        lambda: "runs on no host" in controller.control.Explain(control_pb2.ExplainRequest(see="svc=web")).sentence,
        "a sentence",
    )
