"""Groups switched as one, and planned turns that several share."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.simulated import MS, Alps, make, run_for, spinners
from utilctl_agent.alps.allotment import rms_relative_error
from utilctl_agent.alps.model import PrincipalSpec, Reading
from utilctl_agent.gang import Gang
from utilctl_agent.host.port import MechanismError
from utilctl_agent.testing import Bursts, SimulatedGroup, SimulatedHost, Spin

SKEWED = [1] * 19 + [381]
LINEAR = list(range(1, 40, 2))


class Stubborn:
    """A simulated group that refuses to be resumed, or to be paused, on demand. Implements host.port.Group."""

    def __init__(self, group: SimulatedGroup) -> None:
        self.group = group
        self.refuses = ""

    @property
    def mechanism(self) -> str:
        return self.group.mechanism

    def read(self, *, observe: bool = True) -> Reading:
        return self.group.read(observe=observe)

    def cpu_ns(self) -> int:
        return self.group.cpu_ns()

    def pause(self) -> None:
        if self.refuses == "pause":
            raise MechanismError("not permitted")
        self.group.pause()

    def resume(self) -> None:
        if self.refuses == "resume":
            raise MechanismError("not permitted")
        self.group.resume()

    def check(self) -> None:
        self.group.check()

    def close(self) -> None:
        self.group.close()


@pytest.fixture
def three() -> list[Stubborn]:
    host = SimulatedHost()
    return [Stubborn(host.group(f"g{number}", Spin())) for number in range(3)]


@pytest.mark.parametrize("stubborn", [0, 1, 2])
def test_a_gang_is_paused_whole_or_not_at_all(three: list[Stubborn], stubborn: int) -> None:
    three[stubborn].refuses = "pause"
    with pytest.raises(MechanismError):
        Gang(three).pause()
    assert not any(one.group.stopped for one in three)


@pytest.mark.parametrize("stubborn", [0, 1, 2])
def test_a_gang_is_resumed_whole_or_not_at_all(three: list[Stubborn], stubborn: int) -> None:
    Gang(three).pause()
    three[stubborn].refuses = "resume"
    with pytest.raises(MechanismError):
        Gang(three).resume()
    assert all(one.group.stopped for one in three)


def shared_turns(alps: Alps) -> list[tuple[str, ...]]:
    return [turn.names for _, decision in alps.core.decisions for turn in decision.plan if turn.others]


@pytest.mark.parametrize("shares", [SKEWED, LINEAR], ids=["skewed", "linear"])
def test_alike_principals_share_turns_and_every_cycle_is_exact_all_the_same(shares: list[int]) -> None:
    alps = spinners(make(latency_ns=50_000), shares)
    run_for(alps.host, 40_000 * MS, alps)
    assert shared_turns(alps)
    errors = [rms_relative_error(record.cpu_ns, alps.shares) for record in alps.log.cycles[2:]]
    assert max(errors) < 0.02


@pytest.mark.parametrize("shares", [SKEWED, LINEAR], ids=["skewed", "linear"])
def test_with_shared_turns_a_wake_up_serves_more_than_one_in_most_rounds(shares: list[int]) -> None:
    alps = spinners(make(), shares)
    run_for(alps.host, 20_000 * MS, alps)
    before = len(alps.core.switches())
    run_for(alps.host, 20_000 * MS, alps)
    assert len(alps.core.switches()) - before < 0.6 * 20 * 5 * len(shares) / 4  # 5 rounds in each cycle of 4 s


def test_short_cycles_have_exact_turns_only() -> None:
    alps = spinners(make(), [1, 2, 3])
    run_for(alps.host, 3_000 * MS, alps)
    assert not shared_turns(alps)


@given(at_ms=st.integers(9_000, 12_000), kind=st.sampled_from(["leave", "change", "join"]))
def test_a_change_in_the_middle_of_a_shared_turn_leaves_nobody_behind(at_ms: int, kind: str) -> None:
    alps = spinners(make(), SKEWED)
    run_for(alps.host, at_ms * MS, alps)
    if kind == "leave":
        alps.leave("p3")
    elif kind == "change":
        alps.change("p3", 5)
    else:
        alps.add("late", 1)
    run_for(alps.host, 20_000 * MS, alps)
    assert rms_relative_error(alps.log.cycles[-1].cpu_ns, alps.shares) < 0.02


def test_members_that_block_in_a_shared_turn_leave_the_core_to_the_others() -> None:
    alps = make()
    for number in range(18):
        alps.add(f"p{number}", 1)
    alps.add("bursty", 1, Bursts(3 * MS, 40 * MS))
    alps.add("big", 381)
    run_for(alps.host, 30_000 * MS, alps)
    assert alps.host.idle_ns <= 0.01 * alps.host.now_ns()


def test_a_member_that_refuses_to_be_paused_is_reported_and_the_others_are_controlled() -> None:
    alps = spinners(make(), SKEWED)
    stubborn = Stubborn(alps.groups["p5"])
    alps.engine.put(PrincipalSpec("p5", 1), alps.host.now_ns(), stubborn)
    run_for(alps.host, 12_000 * MS, alps)
    stubborn.refuses = "pause"
    noted: set[str] = set()
    for _ in range(160):
        run_for(alps.host, 100 * MS, alps)
        noted |= alps.engine.problems.keys()
    assert noted == {"p5"}
    used_ns = alps.log.cycles[-1].cpu_ns
    assert used_ns["p7"] == pytest.approx(used_ns["p8"], rel=0.1)
