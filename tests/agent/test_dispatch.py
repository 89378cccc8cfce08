"""What the loop is told of changes in membership: as little as possible, and never something else than is true."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from utilctl_agent.dispatch import COMPLETE_AFTER, Dispatcher, amended
from utilctl_agent.orders import MembersDelta, PrincipalOrder, Roster

WEB = PrincipalOrder("web", 3.0, 2, processes=((10, 1), (11, 1)))
DB = PrincipalOrder("db", 1.0, 1, cgroups=("/sys/fs/cgroup/db",))


def test_the_first_message_is_complete_and_the_same_again_is_none() -> None:
    dispatcher = Dispatcher()
    message = dispatcher.message(1, 1, (WEB, DB))
    assert message is not None
    assert Roster.from_json(message["roster"]).principals == (WEB, DB)
    assert dispatcher.message(1, 1, (WEB, DB)) is None


def test_processes_that_come_and_go_are_sent_as_such() -> None:
    dispatcher = Dispatcher()
    dispatcher.message(1, 1, (WEB, DB))
    message = dispatcher.message(1, 1, (replace(WEB, processes=((11, 1), (12, 4)), parallelism=1), DB))
    assert message == {
        "op": "members",
        "members": {
            "serial": 2,
            "changes": [{"name": "web", "parallelism": 1, "joined": ((12, 4),), "left": ((10, 1),)}],
        },
    }


def test_anything_else_is_sent_completely() -> None:
    for epoch, generation, orders in (
        (1, 2, (WEB, DB)),
        (1, 1, (WEB,)),
        (1, 1, (replace(WEB, share=4.0), DB)),
        (1, 1, (replace(WEB, processes=()), DB)),
        (1, 1, (WEB, replace(DB, processes=((20, 1),)))),
        (1, 1, (WEB, replace(DB, cgroups=("/other",)))),
    ):
        dispatcher = Dispatcher()
        dispatcher.message(1, 1, (WEB, DB))
        message = dispatcher.message(epoch, generation, orders)
        assert message is not None
        assert message["op"] == "roster"
        assert Roster.from_json(message["roster"]) == Roster(epoch, generation, orders, 2)


def test_a_loop_that_may_know_something_else_is_told_everything() -> None:
    dispatcher = Dispatcher()
    dispatcher.message(1, 1, (WEB, DB))
    dispatcher.forget()
    message = dispatcher.message(1, 1, (WEB, DB))
    assert message is not None
    assert message["op"] == "roster"


def test_now_and_then_everything_is_said_again() -> None:
    dispatcher = Dispatcher()
    ops = []
    for pid in range(COMPLETE_AFTER + 2):
        message = dispatcher.message(1, 1, (replace(WEB, processes=((pid + 1, 1),)),))
        assert message is not None
        ops.append(message["op"])
    assert ops == ["roster", *["members"] * COMPLETE_AFTER, "roster"]


PROCESSES = st.frozensets(st.tuples(st.integers(1, 9), st.integers(1, 3)), min_size=1).map(lambda s: tuple(sorted(s)))


@given(history=st.lists(st.tuples(PROCESSES, st.integers(1, 4)), min_size=1, max_size=30))
def test_who_applies_every_message_knows_what_the_sender_meant(history: list[tuple[Any, int]]) -> None:
    dispatcher = Dispatcher()
    known: dict[str, PrincipalOrder] = {}
    serial = 0
    for processes, parallelism in history:
        order = replace(WEB, processes=processes, parallelism=parallelism)
        message = json.loads(json.dumps(dispatcher.message(1, 1, (order, DB))))
        if message is None:
            pass
        elif message["op"] == "roster":
            roster = Roster.from_json(message["roster"])
            known, serial = {o.name: o for o in roster.principals}, roster.serial
        else:
            delta = MembersDelta.from_json(message["members"])
            assert delta.serial == serial + 1
            serial = delta.serial
            for change in delta.changes:
                old = known[change.name]
                known[change.name] = replace(
                    old, parallelism=change.parallelism, processes=amended(old.processes, change)
                )
        assert known == {"web": order, "db": DB}
