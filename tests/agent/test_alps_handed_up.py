"""CPU time that ended processes hand up to their parents: counted once, whatever was known of them while they lived."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from utilctl_agent.alps.handed_up import LATE_TICKS, HandedUp
from utilctl_common.quantities import NS_PER_MS

TICK_NS = 10 * NS_PER_MS
SLACK_NS = LATE_TICKS * TICK_NS


def test_what_nobody_saw_is_news() -> None:
    account: HandedUp[str] = HandedUp(TICK_NS)
    account.begin("parent", 70 * NS_PER_MS)
    assert account.look({"parent": 70 * NS_PER_MS}, []) == 0
    assert account.look({"parent": 120 * NS_PER_MS}, []) == 50 * NS_PER_MS
    assert account.look({"parent": 120 * NS_PER_MS}, []) == 0


@pytest.mark.parametrize("late", [0, 1])
def test_what_was_seen_while_it_lived_is_not_counted_again(late: int) -> None:
    account: HandedUp[str] = HandedUp(TICK_NS)
    account.begin("parent", 0)
    account.begin("child", 0)
    assert account.look({"parent": 0 if late else 50 * NS_PER_MS}, [("child", 40 * NS_PER_MS)]) == (
        0 if late else 10 * NS_PER_MS
    )
    if late:  # it ended after its parent was read
        assert account.look({"parent": 50 * NS_PER_MS}, []) == 10 * NS_PER_MS


def test_a_parent_that_ends_hands_up_what_it_was_handed() -> None:
    account: HandedUp[str] = HandedUp(TICK_NS)
    for name in ("root", "parent", "child"):
        account.begin(name, 0)
    assert account.look({"root": 0, "parent": 30 * NS_PER_MS}, [("child", 30 * NS_PER_MS)]) == 0
    assert account.look({"root": 50 * NS_PER_MS}, [("parent", 20 * NS_PER_MS)]) == 0


def test_what_is_handed_to_nobody_does_not_swallow_news_for_long() -> None:
    account: HandedUp[str] = HandedUp(TICK_NS)
    account.begin("parent", 0)
    account.begin("ignored", 0)
    account.look({"parent": 0}, [("ignored", 900 * NS_PER_MS)])
    account.look({"parent": 0}, [])
    assert account.look({"parent": 500 * NS_PER_MS}, []) >= 500 * NS_PER_MS - SLACK_NS


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 1 << 32), steps=st.integers(1, 300))
def test_a_tree_that_forks_and_ends_at_random_is_counted_to_within_the_ticks(seed: int, steps: int) -> None:
    choices = random.Random(seed)
    used = {"root": 0}  # own CPU time
    handed = {"root": 0}  # exact; told in ticks
    parent: dict[str, str] = {}
    account: HandedUp[str] = HandedUp(TICK_NS)
    account.begin("root", 0)
    followed = {"root": 0}  # own CPU time when last seen
    counted = real = 0
    for step in range(steps):
        for _ in range(choices.randrange(4)):
            if choices.random() < 0.5:
                name = f"p{step}.{choices.random()}"
                parent[name] = choices.choice(list(used))
                used[name] = handed[name] = 0
            else:
                leaves = [name for name in parent if name not in parent.values()]
                if leaves:
                    name = choices.choice(leaves)
                    handed[parent.pop(name)] += used.pop(name) + handed.pop(name)
            for name in used:
                more = choices.randrange(8 * NS_PER_MS)
                used[name] += more
                real += more
        told = {name: handed[name] // TICK_NS * TICK_NS for name in followed if name in handed}
        ended = [(name, followed.pop(name)) for name in list(followed) if name not in used]
        for name, seen in followed.items():
            counted += used[name] - seen
            followed[name] = used[name]
        counted += account.look(told, ended)
        for name, own in used.items():
            if name not in followed and choices.random() < 0.5:  # some are never noticed
                account.begin(name, handed[name] // TICK_NS * TICK_NS)
                counted += own + handed[name] // TICK_NS * TICK_NS
                followed[name] = own
    unseen = sum(used[name] + handed[name] for name in used if name not in followed)
    assert abs(counted + unseen - real) <= SLACK_NS * (len(handed) + 1)
