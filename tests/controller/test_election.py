"""Who leads, by what the store says of the seat, and what happens while it says nothing."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import cast

import pytest

from utilctl_common.quantities import NS_PER_MS
from utilctl_controller.election import CLAIMS_PER_TTL, Elector
from utilctl_controller.store.port import PolicyStore, Seat, StoreUnavailableError

TTL_NS = 40 * NS_PER_MS
DOUBT_NS = 100 * NS_PER_MS


class ScriptedSeat:
    """The part of a store that an election needs; says what the test wants."""

    def __init__(self) -> None:
        self.answer: Seat | Exception | None = None  # None: whoever claims it has it
        self.epoch = 1
        self.claims = 0
        self.left = False

    def claim_seat(self, holder: str, address: str, ttl_ns: int) -> Seat:
        self.claims += 1
        assert ttl_ns == TTL_NS
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer or Seat(holder, address, self.epoch)

    def leave_seat(self) -> None:
        self.left = True


class RecordedOffice:
    """Notes what it is told; may be made to fail."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.fails = 0

    async def lead(self, epoch: int) -> None:
        if self.fails:
            self.fails -= 1
            raise RuntimeError("not ready")
        self.told.append(f"lead {epoch}")

    async def follow(self, leader: str) -> None:
        self.told.append(f"follow {leader}")

    async def doubt(self) -> None:
        self.told.append("doubt")


@contextlib.asynccontextmanager
async def election(seat: ScriptedSeat, office: RecordedOffice) -> AsyncIterator[Elector]:
    elector = Elector(cast("PolicyStore", seat), office, "me", ttl_ns=TTL_NS, doubt_ns=DOUBT_NS)
    await elector.start("a:1")
    try:
        yield elector
    finally:
        await elector.stop()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - conditions of all kinds
            await asyncio.sleep(0.002)


def test_who_gets_the_seat_leads_from_the_start_and_leaves_it_at_the_end() -> None:
    async def scenario() -> None:
        seat, office = ScriptedSeat(), RecordedOffice()
        async with election(seat, office) as elector:
            assert elector.leading
            await until(lambda: seat.claims >= 5)
            assert office.told == ["lead 1"], "to prolong it is no news"
            assert not seat.left
        assert seat.left

    asyncio.run(scenario())


def test_the_office_follows_the_seat_from_one_to_the_other_and_back() -> None:
    async def scenario() -> None:
        seat, office = ScriptedSeat(), RecordedOffice()
        seat.answer = Seat("other", "b:1", 1)
        async with election(seat, office) as elector:
            assert not elector.leading
            seat.epoch, seat.answer = 2, None
            await until(lambda: elector.leading)
            seat.answer = Seat("third", "c:1", 3)
            await until(lambda: not elector.leading)
            seat.epoch, seat.answer = 4, None
            await until(lambda: elector.leading)
            assert office.told == ["follow b:1", "lead 2", "follow c:1", "lead 4"]

    asyncio.run(scenario())


def test_a_seat_that_was_lost_and_won_again_means_a_later_epoch() -> None:
    async def scenario() -> None:
        seat, office = ScriptedSeat(), RecordedOffice()
        async with election(seat, office):
            seat.epoch = 5
            await until(lambda: office.told == ["lead 1", "lead 5"])

    asyncio.run(scenario())


@pytest.mark.parametrize("error", [StoreUnavailableError("away"), ValueError("a bug")])
def test_without_an_answer_the_leader_goes_on_doubts_now_and_then_and_claims_for_ever(error: Exception) -> None:
    async def scenario() -> None:
        seat, office = ScriptedSeat(), RecordedOffice()
        async with election(seat, office) as elector:
            seat.answer = error
            await until(lambda: office.told.count("doubt") >= 2)
            assert elector.leading
            claims_a_doubt = DOUBT_NS / (TTL_NS / CLAIMS_PER_TTL)
            assert seat.claims >= 1.5 * claims_a_doubt, "doubts are rarer than claims"
            seat.answer = None
            doubts, claims = office.told.count("doubt"), seat.claims
            await until(lambda: seat.claims >= claims + 3 * claims_a_doubt)
            assert office.told.count("doubt") <= doubts + 1

    asyncio.run(scenario())


def test_a_follower_without_an_answer_soon_sends_nobody_to_a_leader_that_may_be_gone() -> None:
    async def scenario() -> None:
        seat, office = ScriptedSeat(), RecordedOffice()
        seat.answer = Seat("other", "b:1", 1)
        async with election(seat, office):
            seat.answer = StoreUnavailableError("away")
            await until(lambda: office.told == ["follow b:1", "follow "])
            seat.answer = Seat("other", "b:1", 1)
            await until(lambda: office.told == ["follow b:1", "follow ", "follow b:1"])

    asyncio.run(scenario())


def test_an_office_that_could_not_be_taken_up_is_taken_up_at_the_next_claim() -> None:
    async def scenario() -> None:
        seat, office = ScriptedSeat(), RecordedOffice()
        seat.answer = Seat("other", "b:1", 1)
        async with election(seat, office) as elector:
            office.fails = 2
            seat.epoch, seat.answer = 2, None
            await until(lambda: elector.leading)
            assert office.told == ["follow b:1", "lead 2"]
            assert office.fails == 0

    asyncio.run(scenario())


def test_a_store_that_is_away_at_the_start_is_told() -> None:
    async def scenario() -> None:
        seat = ScriptedSeat()
        seat.answer = StoreUnavailableError("away")
        with pytest.raises(StoreUnavailableError):
            async with election(seat, RecordedOffice()):
                pass

    asyncio.run(scenario())
