"""``utilctl plan --live``: what changes would do to the fleet as it is, told before anything is changed."""

from __future__ import annotations

import json
from typing import Any

import grpc
import pytest

from support.controller_server import RunningController
from support.rpc import refused
from utilctl_cli.main import main
from utilctl_common.errors import UsageError
from utilctl_common.policy import SeePolicy
from utilctl_controller import whatif
from utilctl_controller.allocation.model import AllocationProblem, HostCapacity, SeeClaim
from utilctl_controller.allocation.solver import allocate
from utilctl_controller.edits import DeleteEdit, NotFoundError, PolicyEdit, WriteTerms
from utilctl_proto.v1 import control_pb2

ASKING = WriteTerms("", "", None, dry_run=True)
POLICIES = {name: SeePolicy(name, share) for name, share in (("svc=web", 3.0), ("svc=etl", 1.0), ("svc=batch", 2.0))}
DECIDED = AllocationProblem(
    "fleet",
    (HostCapacity("a", 1.0), HostCapacity("b", 1.0)),
    (
        SeeClaim("svc=web", 3.0, 0.0, None, {"a": 1.0}),
        SeeClaim("svc=etl", 1.0, 0.0, None, {"b": 1.0}),
        SeeClaim("svc=batch", 2.0, 0.0, None, {"a": 1.0, "b": 1.0}),
    ),
)


def share_of(see: str, share: float) -> PolicyEdit:
    return PolicyEdit(see, share, None, None, False, None, None, ASKING)


def asked(*edits: PolicyEdit | DeleteEdit) -> whatif.WhatIf:
    """The answer for the worked example of the design."""
    after = whatif.changed(POLICIES, edits)
    granted = {one.name: one for one in allocate(DECIDED).sees}
    problem = whatif.problem_with(DECIDED, after)
    return whatif.compare(POLICIES, after, granted, problem, allocate(problem))


class TestAnswers:
    def test_who_gains_and_who_pays_is_told_host_by_host(self) -> None:
        found = asked(share_of("svc=etl", 0.5))
        by_name = {outlook.see: outlook for outlook in found.outlooks}
        assert set(by_name) == {"svc=etl", "svc=batch"}
        assert found.unaffected == 1
        etl, batch = by_name["svc=etl"], by_name["svc=batch"]
        assert etl.before_cores == pytest.approx(1 / 3)
        assert etl.after_cores == pytest.approx(0.2)
        assert set(batch.hosts) == {"b"}
        assert batch.hosts["b"] == pytest.approx((2 / 3, 0.8))
        assert batch.old == batch.new
        assert etl.old is not None
        assert etl.new is not None
        assert (etl.old.share, etl.new.share, etl.demand_cores) == (1.0, 0.5, 1.0)

    def test_a_change_without_effect_still_names_its_service(self) -> None:
        found = asked(share_of("svc=web", 4.0))
        assert [outlook.see for outlook in found.outlooks] == ["svc=web"]
        assert found.unaffected == 2

    def test_a_deletion_says_that_the_processes_run_on(self) -> None:
        found = asked(DeleteEdit("svc=etl", ASKING))
        by_name = {outlook.see: outlook for outlook in found.outlooks}
        assert by_name["svc=etl"].new is None
        assert by_name["svc=etl"].after_cores == 0
        assert by_name["svc=batch"].after_cores == pytest.approx(1.0)
        assert any("run on, held back by nothing" in warning for warning in found.warnings)

    def test_of_a_new_service_nothing_is_known(self) -> None:
        found = asked(share_of("svc=new", 4.0))
        assert found.outlooks[0].old is None
        assert any(warning.startswith("svc=new is new") for warning in found.warnings)

    def test_a_share_out_of_reach_is_told(self) -> None:
        edit = PolicyEdit("svc=web", 9.0, None, 0.5, False, None, None, ASKING)
        assert any(w.startswith("svc=web: share 9 of 12 would need") for w in asked(edit).warnings)

    def test_a_parent_wants_what_is_wanted_below_it(self) -> None:
        policies = {"svc=web": SeePolicy("svc=web", 1.0), "svc=web/class=gold": SeePolicy("svc=web/class=gold", 1.0)}
        claims = (
            SeeClaim("svc=web", 1.0, 0.0, None, {"a": 0.2}),
            SeeClaim("svc=web/class=gold", 1.0, 0.0, None, {"a": 0.5}),
        )
        decided = AllocationProblem("fleet", DECIDED.hosts, claims)
        after = whatif.changed(policies, [share_of("svc=web", 2.0)])
        problem = whatif.problem_with(decided, after)
        granted = {one.name: one for one in allocate(decided).sees}
        (outlook,) = whatif.compare(policies, after, granted, problem, allocate(problem)).outlooks
        assert outlook.demand_cores == pytest.approx(0.7)


class TestQuestions:
    def test_what_is_not_named_stays(self) -> None:
        stored = {"svc=web": SeePolicy("svc=web", 3.0, floor_cores=0.5, cap_cores=2.0)}
        after = whatif.changed(stored, [share_of("svc=web", 5.0)])
        assert after == {"svc=web": SeePolicy("svc=web", 5.0, floor_cores=0.5, cap_cores=2.0)}
        assert stored["svc=web"].share == 3.0

    def test_one_service_is_named_once(self) -> None:
        with pytest.raises(UsageError, match="named twice"):
            whatif.changed(POLICIES, [share_of("svc=web", 5.0), DeleteEdit("svc=web", ASKING)])

    def test_what_is_not_there_cannot_be_deleted(self) -> None:
        with pytest.raises(NotFoundError, match="no service svc=wbe"):
            whatif.changed(POLICIES, [DeleteEdit("svc=wbe", ASKING)])


def ask(controller: RunningController, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(["plan", "--live", *arguments, "--controller", controller.address])
    out, err = capsys.readouterr()
    return code, out, err


class TestOverTheWire:
    def test_the_command_tells_what_would_happen_and_then_it_does(
        self, controller: RunningController, capsys: pytest.CaptureFixture[str]
    ) -> None:
        controller.set_share("svc=web", 3)
        controller.set_share("svc=etl", 1)
        busy = {"svc=web": 1.0, "svc=etl": 1.0}
        with controller.agent("a") as agent:
            agent.reporting_until(
                busy, lambda: abs(agent.newest()["svc=web"].entitlement_cores - 0.75) < 0.01, "the split"
            )
            code, out, _ = ask(controller, capsys, "--set", "svc=etl=3", "-o", "json")
            assert code == 0
            document: dict[str, Any] = json.loads(out)
            told = {service["see"]: service for service in document["services"]}
            assert told["svc=web"]["before_cores"] == pytest.approx(0.75, abs=0.01)
            assert told["svc=web"]["after_cores"] == pytest.approx(0.5, abs=0.01)
            assert told["svc=etl"]["per_host"][0]["host"] == "a"
            assert (document["hosts"], document["unaffected"]) == (1, 0)
            assert document["decided_unix_ns"] > 0
            assert controller.service("svc=etl").record.policy.share == 1, "nothing was changed"
            code, out, _ = ask(controller, capsys, "--set", "svc=etl=3")
            assert code == 0
            assert "share 1 -> 3" in out
            assert "nothing was changed" in " ".join(out.split())
            controller.set_share("svc=etl", 3)
            agent.reporting_until(
                busy, lambda: abs(agent.newest()["svc=web"].entitlement_cores - 0.5) < 0.01, "it happens"
            )

    def test_before_anything_is_known_of_the_fleet_it_says_so(
        self, controller: RunningController, capsys: pytest.CaptureFixture[str]
    ) -> None:
        controller.set_share("svc=web", 3)
        code, _, err = ask(controller, capsys, "--set", "svc=web=5")
        if code != 0:  # once the controller has learned that there is no host, that is an answer, too
            assert code == 1
            assert "does not know yet what the fleet wants; try again soon" in err

    @pytest.mark.parametrize(
        ("arguments", "code", "complaint"),
        [
            ([], 2, "no change is given"),
            (["--set", "svc=web"], 2, "names no service and value"),
            (["--set", "svc=web="], 2, "names no service and value"),
            (["--set", "svc=web=0"], 2, "share"),
            (["--set", "svc=web=1", "--set", "svc=web=2"], 2, "two shares are given for svc=web"),
            (["--cap", "svc=web=1", "--cap", "svc=web=none"], 2, "two caps are given for svc=web"),
            (["--set", "svc=web=1", "--delete", "svc=web"], 2, "both changed and deleted"),
            (["--delete", "svc=nobody"], 1, "no service svc=nobody"),
            (["--cap", "svc=fresh=2"], 2, "svc=fresh does not exist yet and needs a share"),
            (["-f", "fleet.yaml", "--set", "svc=web=1"], 2, "give either -f FILE or --live"),
        ],
    )
    def test_a_question_that_makes_no_sense_is_one_line(
        self,
        controller: RunningController,
        capsys: pytest.CaptureFixture[str],
        arguments: list[str],
        code: int,
        complaint: str,
    ) -> None:
        got, out, err = ask(controller, capsys, *arguments)
        assert (got, out) == (code, "")
        assert complaint in err
        assert len(err.strip().splitlines()) == 1

    def test_a_file_knows_no_changes(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["plan", "-f", "fleet.yaml", "--set", "svc=web=1"]) == 2
        assert "need --live" in capsys.readouterr().err

    def test_a_request_without_a_change_is_refused(self, controller: RunningController) -> None:
        code, _ = refused(lambda: controller.control.PlanLive(control_pb2.PlanLiveRequest()))
        assert code is grpc.StatusCode.INVALID_ARGUMENT
