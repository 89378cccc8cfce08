"""What the chaos trials promise for each fault, and how their outcomes are counted."""

from __future__ import annotations

import signal
from collections import Counter
from pathlib import Path

from chaos import report
from chaos.faults import Fault, Role, signal_faults
from chaos.trials import BOUND_NS, Outcome
from utilctl_common.quantities import NS_PER_MS

KILL, STOP = signal.SIGKILL, signal.SIGSTOP


def promise(**sent: signal.Signals) -> str:
    roles: tuple[Role, ...] = ("loop", "companion", "guard")
    return Fault(tuple((role, sent[role]) for role in roles if role in sent)).promise


def outcome(held_ms: float, *, kind: str = "loop killed", left: tuple[str, ...] = ()) -> Outcome:
    return Outcome(
        number=0,
        rig="agent",
        fault=kind,
        kind=kind,
        promise="resumed",
        remedy="",
        at_ns=0,
        pauses_per_s=200.0,
        paused=7,
        waiting=0,
        held_ns=round(held_ms * NS_PER_MS),
        left=left,
    )


def test_every_way_to_kill_stop_or_spare_the_three_is_tried_and_a_clean_end() -> None:
    faults = signal_faults()
    assert len(faults) == len(set(faults)) == 3**3 - 1 + 1
    assert Counter(fault.promise for fault in faults) == {"after the next start": 8, "goes on": 3, "resumed": 16}


def test_whoever_is_left_must_resume_everything() -> None:
    assert promise(loop=KILL) == promise(loop=STOP) == "resumed"
    assert promise(loop=STOP, guard=STOP) == promise(loop=KILL, companion=STOP) == "resumed"
    assert promise(guard=KILL) == promise(companion=KILL, guard=STOP) == "resumed"


def test_a_loop_whose_companions_are_at_most_stopped_goes_on() -> None:
    assert promise(guard=STOP) == promise(companion=STOP) == promise(companion=STOP, guard=STOP) == "goes on"
    assert Fault(outside="etcd").promise == "goes on"


def test_with_nobody_left_it_takes_the_next_start() -> None:
    assert promise(loop=KILL, companion=KILL, guard=KILL) == "after the next start"
    assert promise(loop=STOP, companion=KILL, guard=STOP) == "after the next start"


def test_who_was_left_paused_or_held_too_long_is_counted_and_kept_in_full() -> None:
    bound_ms = BOUND_NS / NS_PER_MS
    outcomes = [outcome(3), outcome(bound_ms), outcome(bound_ms + 1), outcome(9, left=("a", "b"))]
    figures = report.summary([*outcomes, outcome(1, kind="guard killed")], {"seed": 1})
    assert (figures["trials"], figures["left_paused"], figures["late"]) == (5, 2, 2)
    assert [entry["held_ns"] for entry in figures["broken"]] == [outcomes[2].held_ns, outcomes[3].held_ns]
    row = figures["kinds"]["all resumed | loop killed"]
    assert (row["trials"], row["held_max_ms"], row["bound_ms"]) == (4, bound_ms + 1, bound_ms)
    assert len(figures["kinds"]) == 2


def test_the_table_of_a_page_is_replaced_and_all_else_stays(tmp_path: Path) -> None:
    about = {"seed": 1, "duration_s": 60, "cpus": 2, "peer": {"program": "p", "limit_pct": 1, "trials": 1}}
    about["peer"] |= {"targets": 8, "left_stopped": 4}  # type: ignore[operator]  # a dict, as written above
    page = tmp_path / "page.md"
    page.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    text = report.text(report.summary([outcome(3)], about))
    for _ in range(2):
        report.update(page, text)
    content = page.read_text()
    assert content.startswith(f"before\n{report.BEGIN}\n\n_1 trials in 1 minutes, seed 1")
    assert content.endswith(f"{report.END}\nafter\n")
    assert "old" not in content
    assert "| all resumed | loop killed | 1 | 7 | 0 | 0 | 3 | 3 | 3 | 250 |\n" in content
    assert "**4 of 8 processes left stopped**" in content
