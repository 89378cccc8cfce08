"""``utilctl predict --live`` asks a real controller, and changes nothing there."""

from __future__ import annotations

import json
from typing import Any

import pytest

from support.controller_server import RunningController
from utilctl_cli.main import main


def ask(controller: RunningController, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["predict", "--live", *arguments, "--controller", controller.address]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


def test_a_larger_share_would_make_a_service_faster_and_another_one_slower(
    controller: RunningController, capsys: pytest.CaptureFixture[str]
) -> None:
    controller.set_share("svc=web", 1)
    controller.set_share("svc=etl", 4)
    with controller.agent("a") as agent:
        # Both want .7 cores of the one there is, and use half of that.
        agent.reporting_until(
            {"svc=web": 0.7, "svc=etl": 0.7},
            lambda: abs(agent.newest()["svc=etl"].entitlement_cores - 0.7) < 0.01,
            "the split",
        )
        document: dict[str, Any] = json.loads(ask(controller, capsys, "--set", "svc=web=40", "-o", "json"))
        told = {one["name"]: one for one in document["workloads"]}
        web, etl = told["svc=web"], told["svc=etl"]
        assert web["utilization_cores"] == pytest.approx(0.35)
        assert web["response_time_s"] < web["now_response_time_s"]
        assert etl["response_time_s"] > etl["now_response_time_s"]
        mean = (web["response_time_s"] + etl["response_time_s"]) / 2
        assert mean == pytest.approx(document["mean_response_time_s"]) == pytest.approx(1 / (1 - 0.7))
        assert controller.service("svc=web").record.policy.share == 1, "nothing was changed"
        now: dict[str, Any] = json.loads(ask(controller, capsys, "-o", "json"))
        assert all(one["response_time_s"] == one["now_response_time_s"] for one in now["workloads"])
        shown = ask(controller, capsys, "--set", "svc=web=40")
        assert shown.splitlines()[0].split() == ["SERVICE", "USED", "HOSTS", "NOW", "THEN"]


def test_a_fleet_without_hosts_has_nothing_to_predict(
    controller: RunningController, capsys: pytest.CaptureFixture[str]
) -> None:
    controller.set_share("svc=web", 1)
    assert json.loads(ask(controller, capsys, "-o", "json"))["workloads"] == []
