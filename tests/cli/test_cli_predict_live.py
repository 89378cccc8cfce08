"""``utilctl predict --live``: response times of the fleet as it is measured, now and with other shares."""

from __future__ import annotations

from typing import cast

import pytest

from utilctl_cli.documents import HostDocument, LivePlanDocument, LivePredictionDocument, ServiceDocument
from utilctl_cli.main import main
from utilctl_cli.predict_live import live_prediction
from utilctl_cli.predict_render import live


def host(name: str, cores: float = 1.0, unclaimed: float = 0.0, *, connected: bool = True) -> HostDocument:
    document = {"host": name, "connected": connected, "capacity_cores": cores, "unclaimed_cores": unclaimed}
    return cast("HostDocument", document)


def service(see: str, *on: tuple[str, float, float, float], cap: float | None = None) -> ServiceDocument:
    """``on``: host, cores used, cores due, weight."""
    rows = [
        {"host": where, "consumption_cores": used, "entitlement_cores": due, "weight": weight}
        for where, used, due, weight in on
    ]
    return cast("ServiceDocument", {"see": see, "cap_cores": cap, "per_host": rows})


def plan(*after: tuple[str, str, float]) -> LivePlanDocument:
    """``after``: SEE, host, cores."""
    services = [{"see": see, "per_host": [{"host": where, "after_cores": cores}]} for see, where, cores in after]
    return cast("LivePlanDocument", {"services": services, "warnings": []})


def slowdowns(document: LivePredictionDocument) -> dict[str, float | None]:
    return {one["name"]: one["slowdown"] for one in document["workloads"]}


def test_alone_on_a_core_it_is_the_queue_that_every_textbook_has() -> None:
    found = live_prediction([service("svc=web", ("a", 0.5, 0.5, 0.5))], [host("a")], None)
    assert slowdowns(found) == {"svc=web": pytest.approx(2.0)}
    assert found["mean_response_time_s"] == pytest.approx(2.0)


def test_who_weighs_more_waits_less_and_the_mean_is_conserved() -> None:
    services = [service("svc=web", ("a", 0.3, 0.3, 0.6)), service("svc=etl", ("a", 0.4, 0.4, 0.4))]
    found = live_prediction(services, [host("a")], None)
    web, etl = (slowdowns(found)[see] for see in ("svc=web", "svc=etl"))
    assert web is not None
    assert etl is not None
    assert web < etl
    assert (0.3 * web + 0.4 * etl) / 0.7 == pytest.approx(1 / (1 - 0.7))


def test_changed_entitlements_are_set_beside_what_is_now() -> None:
    services = [service("svc=web", ("a", 0.3, 0.2, 0.2)), service("svc=etl", ("a", 0.4, 0.8, 0.8))]
    found = live_prediction(services, [host("a")], plan(("svc=web", "a", 0.9), ("svc=etl", "a", 0.1)))
    web, etl = found["workloads"]
    assert web["response_time_s"] < web["now_response_time_s"]  # type: ignore[operator]  # neither is None here
    assert etl["response_time_s"] > etl["now_response_time_s"]  # type: ignore[operator]
    assert "THEN" in live(found)


def test_what_strangers_use_slows_the_cores() -> None:
    services = [service("svc=web", ("a", 0.25, 0.25, 0.5))]
    found = live_prediction(services, [host("a", unclaimed=0.5)], None)
    assert slowdowns(found) == {"svc=web": pytest.approx(4.0)}, "half a core, half in use: 2 / (1 - 0.5)"


def test_a_full_host_is_left_out_and_said_so_and_so_is_one_that_is_gone() -> None:
    services = [service("svc=web", ("a", 1.0, 1.0, 1.0), ("b", 0.5, 0.5, 0.5), ("c", 0.5, 0.5, 0.5))]
    found = live_prediction(services, [host("a"), host("b"), host("c", connected=False)], None)
    assert [row["host"] for row in found["workloads"][0]["per_host"]] == ["b"]
    assert [note.split(":")[0] for note in found["notes"]] == ["a is full"]


def test_a_parent_counts_what_it_uses_itself_only() -> None:
    services = [service("svc=web", ("a", 0.5, 0.5, 0.5)), service("svc=web/class=gold", ("a", 0.5, 0.5, 0.5))]
    found = live_prediction(services, [host("a")], None)
    assert slowdowns(found) == {"svc=web/class=gold": pytest.approx(2.0)}


def test_a_cap_that_the_model_leaves_out_is_told() -> None:
    found = live_prediction([service("svc=web", ("a", 0.5, 0.5, 0.5), cap=0.8)], [host("a")], None)
    assert found["notes"] == ["svc=web has a cap, which the model leaves out"]


def test_where_nothing_runs_there_is_nothing_to_tell() -> None:
    found = live_prediction([service("svc=web")], [host("a")], None)
    assert found == {"workloads": [], "mean_response_time_s": None, "notes": []}
    assert "no service uses CPU" in live(found)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["predict"], "give either -f FILE or --live"),
        (["predict", "--live", "-f", "w.yaml"], "give either -f FILE or --live"),
        (["predict", "-f", "w.yaml", "--set", "svc=web=1"], "--set needs --live"),
        (["predict", "--live", "--goal", "svc=web<2s"], "--sweep and --goal need -f"),
        (["predict", "--live", "--set", "svc=web=1", "--set", "svc=web=2"], "two shares are given for svc=web"),
    ],
)
def test_a_question_that_makes_no_sense_is_one_line(
    capsys: pytest.CaptureFixture[str], arguments: list[str], complaint: str
) -> None:
    assert main(arguments) == 2
    err = capsys.readouterr().err
    assert complaint in err
    assert err.count("\n") == 1


def test_nobody_answers_and_that_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", "--live", "--controller", "127.0.0.1:1", "--timeout", "1s"]) == 3
    assert capsys.readouterr().err.count("\n") == 1
