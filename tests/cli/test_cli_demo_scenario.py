"""How the demo judges itself: it must be able to fail."""

from __future__ import annotations

import pytest

from utilctl_cli.demo.scenario import FIRST_SHARES, judge

PLANNED = {"svc=web": 1.0, "svc=etl": 1 / 3, "svc=batch": 2 / 3}
PER_HOST = {"svc=web": 0.6, "svc=etl": 1 / 3, "svc=batch": 0.4 + 2 / 3}


def scaled(cores: dict[str, float], factor: float) -> dict[str, float]:
    return {see: value * factor for see, value in cores.items()}


def test_shares_that_come_out_right_pass_also_when_other_work_took_a_part_of_the_cpu() -> None:
    phase = judge(FIRST_SHARES, scaled(PLANNED, 0.96), scaled(PLANNED, 0.91), PLANNED, PER_HOST)
    assert phase.ok
    assert [service.relative_error for service in phase.services.values()] == pytest.approx([0, 0, 0])


def test_per_host_shares_fail() -> None:
    assert not judge(FIRST_SHARES, PLANNED, PER_HOST, PLANNED, PER_HOST).ok


def test_a_wrong_entitlement_fails_even_if_it_is_met_exactly() -> None:
    assert not judge(FIRST_SHARES, PER_HOST, PER_HOST, PLANNED, PER_HOST).ok


@pytest.mark.parametrize(("change", "ok"), [(1.04, True), (1.08, False), (0.92, False)])
def test_the_tolerance_is_five_percent_of_a_services_fraction(change: float, ok: bool) -> None:
    measured = {**PLANNED, "svc=etl": PLANNED["svc=etl"] * change}
    assert judge(FIRST_SHARES, PLANNED, measured, PLANNED, PER_HOST).ok is ok


def test_a_service_without_entitlement_or_a_fleet_without_cpu_fails() -> None:
    assert not judge(FIRST_SHARES, {**PLANNED, "svc=etl": 0.0}, PLANNED, PLANNED, PER_HOST).ok
    nothing = dict.fromkeys(PLANNED, 0.0)
    assert not judge(FIRST_SHARES, nothing, nothing, PLANNED, PER_HOST).ok
