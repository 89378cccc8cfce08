"""Several schedulers on one host, and groups as principals: as the paper says of them (sections 4.2 and 5)."""

from __future__ import annotations

import pytest

from support.simulated import MS, Alps, run_for
from utilctl_agent.alps.model import CoreSettings, Scheduler
from utilctl_agent.alps.paper import PaperScheduler
from utilctl_agent.alps.turns import TurnScheduler
from utilctl_agent.testing import SimulatedHost, Spin

Q = 10 * MS
S10 = CoreSettings(quantum_ns=Q)
ONE_TO_THREE = {"A": 1.0, "B": 2.0, "C": 3.0}


def make_core(kind: str, cores: int = 1) -> Scheduler:
    settings_ = CoreSettings(quantum_ns=Q, cores=cores)
    return PaperScheduler(settings_) if kind == "paper" else TurnScheduler(settings_)


class TestMultipleApplications:
    """Section 4.1: several schedulers on one host, each accurate within what the kernel leaves it."""

    def test_each_of_three_schedulers_apportions_what_it_gets(self) -> None:
        host = SimulatedHost()
        workloads = {"A": [7, 8, 9], "B": [4, 5, 6], "C": [1, 2, 3]}
        alps: list[Alps] = []
        for workload, shares in workloads.items():
            one = Alps(PaperScheduler(S10), host)
            for share in shares:
                one.add(f"{workload}{share}", share)
            alps.append(one)
            run_for(host, 500 * MS, *alps)
            for each in alps:
                each.mark()
            run_for(host, 15_000 * MS, *alps)
            errors = [
                abs(fraction / (each.shares[name] / sum(each.shares.values())) - 1)
                for each in alps
                for name, fraction in each.fractions().items()
            ]
            assert max(errors) < 0.05
            assert sum(errors) / len(errors) < 0.02  # 0.93 % in the paper
        for each in alps:
            each.engine.close()
        host.assert_clean()


@pytest.mark.parametrize("kind", ["paper", "default"])
class TestGroupsAsPrincipals:
    """Section 5: the principal is a user with many processes, whose consumption counts as a whole."""

    def test_three_users_with_50_processes_each_get_1_2_3(self, kind: str) -> None:
        host = SimulatedHost()
        alps = Alps(make_core(kind), host)
        for name, share in ONE_TO_THREE.items():
            alps.add(name, share, *[Spin()] * 50)
        run_for(host, 6000 * MS, alps)
        assert alps.fractions() == pytest.approx({"A": 1 / 6, "B": 2 / 6, "C": 3 / 6}, rel=0.03)

    @pytest.mark.parametrize("cores", [2, 4])
    def test_groups_on_several_cores_get_1_2_3(self, kind: str, cores: int) -> None:
        host = SimulatedHost(cores)
        alps = Alps(make_core(kind, cores), host)
        for name, share in ONE_TO_THREE.items():
            alps.add(name, share, *[Spin()] * 8)
        run_for(host, 1000 * MS, alps)
        alps.mark()
        run_for(host, 6000 * MS, alps)
        assert host.idle_ns == 0
        assert alps.fractions() == pytest.approx({"A": 1 / 6, "B": 2 / 6, "C": 3 / 6}, rel=0.05)
