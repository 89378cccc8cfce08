"""The short form of ``make chaos``: some trials of all kinds on real processes; see docs/safety.md for the long one."""

from __future__ import annotations

import random

import pytest

from chaos.campaign import run
from chaos.trials import BOUNDS_NS, Outcome
from utilctl_common.quantities import NS_PER_MS

pytestmark = [pytest.mark.kernel, pytest.mark.quiet]

TRIALS = 26
GENEROUS = 4
"""By how much more than the promise a shared test machine may be late. The long form allows for nothing."""


def test_whatever_is_killed_stopped_or_cut_off_nothing_stays_paused() -> None:
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")

    def say(outcome: Outcome) -> None:
        promised = "" if outcome.kept else "  LATER THAN PROMISED"
        print(f"{outcome.rig}: {outcome.fault} {outcome.remedy}: {outcome.held_ns / NS_PER_MS:.0f} ms{promised}")

    result = run(TRIALS, seed, say, scale=0.5, block=TRIALS // 2)
    assert result.left == []
    assert [outcome for outcome in result.outcomes if outcome.left] == []
    late = [outcome for outcome in result.outcomes if outcome.held_ns > GENEROUS * BOUNDS_NS[outcome.promise]]
    assert late == []
    assert {outcome.rig for outcome in result.outcomes} == {"utilctl alps", "agent"}
    assert any(outcome.paused for outcome in result.outcomes), "else this shows nothing"
