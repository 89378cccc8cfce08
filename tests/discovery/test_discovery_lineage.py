"""Who started whom, remembered over reparenting, without a kernel."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from utilctl_agent.discovery.facts import ProcessFacts, ProcessKey
from utilctl_agent.discovery.lineage import MAX_DEPARTED_CHAIN, Lineage

INIT = ProcessFacts(pid=1, start_ticks=0, ppid=0, uid=0, user="root", comm="init")


def process(pid: int, ppid: int, start: int | None = None, comm: str | None = None) -> ProcessFacts:
    return ProcessFacts(
        pid=pid,
        start_ticks=pid if start is None else start,
        ppid=ppid,
        uid=0,
        user="root",
        comm=comm or f"c{pid}",
    )


def live(*processes: ProcessFacts) -> dict[ProcessKey, ProcessFacts]:
    return {facts.key: facts for facts in (INIT, *processes)}


def test_an_orphan_stays_the_child_of_the_process_that_started_it() -> None:
    lineage = Lineage()
    parent, child = process(2, 1), process(3, 2)
    lineage.observe(live(parent, child))
    lineage.observe(live(process(3, 1)))
    assert lineage.parents[child.key] == parent.key
    assert lineage.departed == {parent.key: parent}


def test_a_parent_that_ended_before_its_child_was_seen_is_known_from_the_scan_before() -> None:
    lineage = Lineage()
    parent, child = process(2, 1), process(3, 2)
    lineage.observe(live(parent))
    lineage.observe(live(child))
    assert lineage.parents[child.key] == parent.key
    assert parent.key in lineage.departed


def test_nothing_is_kept_once_the_last_descendant_has_gone() -> None:
    lineage = Lineage()
    lineage.observe(live(process(2, 1), process(3, 2), process(4, 3)))
    lineage.observe(live(process(4, 1)))
    assert len(lineage.departed) == 2
    lineage.observe(live())
    assert lineage.departed == {}
    assert lineage.parents == {}


def test_fork_events_lead_through_processes_that_no_scan_saw() -> None:
    lineage = Lineage()
    server = process(2, 1)
    lineage.observe(live(server))
    daemon = process(5, 1)
    lineage.observe(live(server, daemon), forks={5: 4, 4: 3, 3: 2})
    assert lineage.parents[daemon.key] == server.key


def test_a_reused_pid_is_not_taken_for_the_parent() -> None:
    lineage = Lineage()
    old = process(2, 1, start=10)
    lineage.observe(live(old))
    new, child_of_old = process(2, 1, start=50), process(3, 2, start=40)
    lineage.observe(live(new, child_of_old))
    assert lineage.parents[child_of_old.key] == old.key
    child_of_new = process(4, 2, start=60)
    lineage.observe(live(new, child_of_old, child_of_new))
    assert lineage.parents[child_of_new.key] == new.key


def test_a_service_that_forks_itself_anew_for_ever_keeps_its_origin_in_bounded_memory() -> None:
    lineage = Lineage()
    launcher = process(2, 1, comm="launcher")
    lineage.observe(live(launcher, process(3, 2, comm="self")))
    for pid in range(4, 300):
        lineage.observe(live(process(pid, pid - 1, comm="self")))
    assert len(lineage.departed) <= 3
    assert launcher.key in lineage.departed


def test_a_chain_of_different_programs_is_cut_at_the_limit_and_keeps_its_origin() -> None:
    lineage = Lineage()
    for pid in range(2, 200):
        lineage.observe(live(process(pid, pid - 1)))
    assert len(lineage.departed) <= MAX_DEPARTED_CHAIN + 1
    assert ProcessKey(2, 2) in lineage.departed
    key, steps = ProcessKey(199, 199), 0
    while key in lineage.parents:
        key, steps = lineage.parents[key], steps + 1
    assert key == INIT.key
    assert steps <= MAX_DEPARTED_CHAIN + 2


@given(st.data())
def test_every_live_process_reaches_its_first_parent_and_nothing_else_is_kept(data: st.DataObject) -> None:
    lineage = Lineage()
    alive: dict[int, ProcessFacts] = {}
    origin: dict[int, int] = {}
    next_pid = 2
    for _ in range(data.draw(st.integers(1, 12))):
        for pid in data.draw(st.lists(st.sampled_from(sorted(alive)), unique=True)) if alive else []:
            del alive[pid]
        for _ in range(data.draw(st.integers(0, 3))):
            parent = data.draw(st.sampled_from([1, *sorted(alive)]))
            alive[next_pid] = process(next_pid, parent)
            origin[next_pid] = parent
            next_pid += 1
        # The kernel gives orphans to init.
        now = [p if p.ppid in alive else process(p.pid, 1) for p in alive.values()]
        lineage.observe(live(*now))
        reached: set[ProcessKey] = set()
        for facts in now:
            assert lineage.parents[facts.key].pid == origin[facts.pid]
            key: ProcessKey | None = facts.key
            while key is not None:
                reached.add(key)
                key = lineage.parents.get(key)
        assert set(lineage.departed) <= reached
        assert reached - set(lineage.departed) <= set(live(*now))
