"""A whole policy file over real gRPC and a real store: all of it or nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import grpc
import pytest

from support.controller_server import RunningController
from support.rpc import refused, wire_policy
from utilctl_common.policy import SeePolicy
from utilctl_controller.store.port import Change, CommitOutcome, PolicyWrite
from utilctl_controller.store.sqlite import SqliteStore
from utilctl_proto.v1 import common_pb2, control_pb2
from utilctl_proto.v1.control_pb2 import ApplyRequest, SetShareRequest


def stored(controller: RunningController) -> dict[str, float]:
    """Shares by SEE, as the store has them."""
    records = controller.control.ListPolicies(control_pb2.ListPoliciesRequest()).records
    return {record.policy.see: record.policy.share for record in records}


def test_a_file_creates_and_changes_and_leaves_alone_what_it_does_not_name(controller: RunningController) -> None:
    controller.set_share("svc=web", 1)
    controller.set_share("svc=other", 7)
    controller.set_share("svc=same", 2)
    request = ApplyRequest(
        policies=[wire_policy("svc=web", 3), wire_policy("svc=new", 4), wire_policy("svc=same", 2)],
        changed_by="bob",
        reason="file",
    )
    response = controller.control.Apply(request)
    assert [(change.see, change.old.share, change.new.share) for change in response.changes] == [
        ("svc=new", 0, 4),
        ("svc=web", 1, 3),
    ]
    assert (response.unchanged, list(response.unnamed), response.dry_run) == (1, ["svc=other"], False)
    assert stored(controller) == {"svc=web": 3, "svc=new": 4, "svc=same": 2, "svc=other": 7}
    assert controller.service("svc=web").record.version == 2
    entries = controller.control.ListHistory(control_pb2.ListHistoryRequest(limit=2)).entries
    assert {(entry.see, entry.changed_by, entry.reason) for entry in entries} == {
        ("svc=web", "bob", "file"),
        ("svc=new", "bob", "file"),
    }


def test_an_entry_is_the_whole_policy_and_a_file_applied_twice_changes_nothing(controller: RunningController) -> None:
    controller.control.SetShare(SetShareRequest(see="svc=web", share=1, cap_cores=2, floor_cores=1, mode="signal"))
    request = ApplyRequest(policies=[wire_policy("svc=web")])
    assert len(controller.control.Apply(request).changes) == 1
    now = controller.service("svc=web").record.policy
    assert (now.HasField("cap_cores"), now.floor_cores, now.mode) == (False, 0, "auto")
    again = controller.control.Apply(request)
    assert (len(again.changes), again.unchanged) == (0, 1)
    assert controller.service("svc=web").record.version == 2


def test_prune_deletes_what_is_not_named_but_neither_groups_nor_with_a_dry_run(controller: RunningController) -> None:
    for see in ("svc=web", "svc=group", "svc=group/x=y", "svc=old"):
        controller.set_share(see, 1)
    request = ApplyRequest(
        policies=[wire_policy("svc=web"), wire_policy("svc=group/x=y")], groups=["svc=group"], prune=True, dry_run=True
    )
    would = controller.control.Apply(request)
    assert [(change.see, change.HasField("new")) for change in would.changes] == [("svc=old", False)]
    assert "svc=old" in stored(controller)
    request.dry_run = False
    assert list(controller.control.Apply(request).changes) == list(would.changes)
    assert set(stored(controller)) == {"svc=web", "svc=group", "svc=group/x=y"}
    entry = controller.control.ListHistory(control_pb2.ListHistoryRequest(see="svc=old", limit=1)).entries[0]
    assert not entry.HasField("new")


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (wire_policy("web"), "not a service name"),
        (wire_policy("svc=x\x07"), "not a service name"),
        (wire_policy("svc=x", -1), "not positive"),
        (wire_policy("svc=x", float("nan")), "not a finite number"),
        (wire_policy("svc=x", 1, floor_cores=3, cap_cores=2), "above its cap"),
        (common_pb2.Policy(see="svc=x", share=1, mode="sleep"), "unknown mode"),
        (wire_policy("svc=good"), "listed twice"),
        (wire_policy("svc=x", matchers=[common_pb2.Matcher()]), "no condition"),
    ],
)
def test_one_bad_policy_refuses_the_whole_file(
    controller: RunningController, bad: common_pb2.Policy, words: str
) -> None:
    code, details = refused(lambda: controller.control.Apply(ApplyRequest(policies=[wire_policy("svc=good"), bad])))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert words in details
    assert stored(controller) == {}


def test_a_change_after_the_revision_asked_for_is_a_conflict_and_changes_nothing(
    controller: RunningController,
) -> None:
    controller.set_share("svc=web", 1)
    looked = controller.control.Apply(ApplyRequest(policies=[wire_policy("svc=web", 3)], dry_run=True))
    controller.set_share("svc=other", 7)
    request = ApplyRequest(policies=[wire_policy("svc=web", 3)], if_revision=looked.revision)
    code, details = refused(lambda: controller.control.Apply(request))
    assert code is grpc.StatusCode.ABORTED
    assert "nothing was changed" in details
    assert stored(controller) == {"svc=web": 1, "svc=other": 7}
    request.if_revision = controller.control.ListPolicies(control_pb2.ListPoliciesRequest()).revision
    assert len(controller.control.Apply(request).changes) == 1
    request.if_revision = 10**9
    assert refused(lambda: controller.control.Apply(request))[0] is grpc.StatusCode.ABORTED, "that is yet to come"


class _Meddling(SqliteStore):
    """A store into which another controller writes after it was read for the next commit, as if by bad luck."""

    meddle: Callable[[], None] | None = None

    def commit(self, writes: Sequence[PolicyWrite], change: Change, unchanged_since: int | None) -> CommitOutcome:
        if self.meddle is not None:
            self.meddle()
        return super().commit(writes, change, unchanged_since)


@pytest.mark.parametrize(("prune", "touched"), [(False, "svc=web"), (True, "svc=web"), (True, "svc=late")])
def test_a_write_in_between_is_a_conflict_and_changes_nothing(store_path: Any, prune: bool, touched: str) -> None:
    store = _Meddling(store_path)
    with RunningController(store) as controller:
        controller.set_share("svc=web", 1)

        def meddle() -> None:
            other = SqliteStore(store_path)
            known = other.snapshot().records.get(touched)
            other.put(SeePolicy(touched, 9), Change("eve", "", 1), known.version if known else 0)
            other.close()

        store.meddle = meddle
        request = ApplyRequest(policies=[wire_policy("svc=web", 3), wire_policy("svc=new")], prune=prune)
        code, details = refused(lambda: controller.control.Apply(request))
        assert code is grpc.StatusCode.ABORTED
        assert "changed by somebody else meanwhile; nothing was changed" in details
        assert stored(controller) == {"svc=web": 1, touched: 9}


def test_two_thousand_services_are_stored_and_agents_never_see_half_of_them(controller: RunningController) -> None:
    file = ApplyRequest(policies=[wire_policy(f"svc=s{number}", 2) for number in range(2_000)])
    with controller.agent("a") as agent:
        assert len(controller.control.Apply(file).changes) == 2_000
        agent.until(lambda targets: len(targets) == 2_000, "the whole file")
        assert {len(each.targets) for each in agent.sets} <= {0, 2_000}


def test_set_share_and_apply_at_once_end_in_one_of_their_orders(controller: RunningController) -> None:
    controller.set_share("svc=a", 1)
    outcomes: list[bool] = []

    def apply() -> None:
        for share in range(2, 12):
            try:
                controller.control.Apply(
                    ApplyRequest(policies=[wire_policy("svc=a", share), wire_policy("svc=b", share)])
                )
            except grpc.RpcError:
                outcomes.append(False)
            else:
                outcomes.append(True)

    thread = threading.Thread(target=apply)
    thread.start()
    for share in range(100, 110):
        controller.set_share("svc=c", share)
    thread.join()
    assert all(outcomes), "nobody else wrote to what the file names"
    assert stored(controller) == {"svc=a": 11, "svc=b": 11, "svc=c": 109}
