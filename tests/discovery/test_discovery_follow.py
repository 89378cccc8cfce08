"""Looks that take in only what changed: by events made up here, over a /proc made of files."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from support.fake_proc import FakeProc
from utilctl_agent.discovery.batch import EventBatch
from utilctl_agent.discovery.cgroupfs import CgroupMount
from utilctl_agent.discovery.process_cache import ProcessCache
from utilctl_agent.discovery.procfs import ProcReader
from utilctl_agent.discovery.scan import Discovery
from utilctl_agent.discovery.trees import ProcessTrees
from utilctl_common.matchers import parse_matchers
from utilctl_common.policy import SeePolicy

POLICIES = (
    SeePolicy("svc=web", 1.0, matchers=parse_matchers(["command=web"])),
    SeePolicy("svc=db", 1.0, matchers=parse_matchers(["command=db", "tree=50"])),
)


class MadeUpEvents:
    """An event source that says what the test wants it to say."""

    def __init__(self) -> None:
        self.next = EventBatch()

    def take(self) -> EventBatch:
        taken, self.next = self.next, EventBatch()
        return taken

    def fileno(self) -> int:
        return -1

    def close(self) -> None:
        pass


class Host:
    """A /proc, the events that go with what happens in it, and a discovery that follows them."""

    def __init__(self, root: Path) -> None:
        root.mkdir(exist_ok=True)
        self.proc = FakeProc(root)
        self.events = MadeUpEvents()
        self.proc.put(1, b"init", ppid=0, start=1)
        self.reader = ProcReader(str(root))
        self.discovery = Discovery(self.reader, mounts=(), events=self.events)

    def fork(self, parent: int, pid: int, comm: bytes, start: int = 100) -> None:
        self.proc.put(pid, comm, ppid=parent, start=start)
        self.events.next.forked(parent, pid)

    def execute(self, pid: int, comm: bytes, *, ppid: int, start: int = 100, image: int = 99) -> None:
        self.proc.put(pid, comm, ppid=ppid, start=start, image=image)
        self.events.next.executed.add(pid)

    def exit(self, pid: int) -> None:
        self.proc.drop(pid)
        self.events.next.ended(pid)

    def members(self, see: str) -> list[int]:
        return [key.pid for key in self.discovery.membership.members[see]]


@pytest.fixture
def host(tmp_path: Path) -> Host:
    made = Host(tmp_path)
    made.fork(1, 10, b"web")
    made.fork(1, 50, b"tree")
    made.events.take()
    made.discovery.scan(POLICIES)
    return made


def test_a_child_is_known_by_its_event_and_gone_by_its_event(host: Host) -> None:
    host.fork(10, 11, b"worker")
    assert host.members("svc=web") == [10]
    assert host.discovery.follow() == {"svc=web"}
    assert host.members("svc=web") == [10, 11]
    host.exit(11)
    assert host.discovery.follow() == {"svc=web"}
    assert host.members("svc=web") == [10]
    assert host.discovery.follow() == frozenset()


def test_executing_a_program_that_matches_another_service_moves_the_process_and_what_it_started(host: Host) -> None:
    host.fork(10, 11, b"shell")
    host.fork(11, 12, b"helper")
    host.discovery.follow()
    assert host.members("svc=web") == [10, 11, 12]
    host.execute(11, b"db", ppid=10)
    assert host.discovery.follow() == {"svc=web", "svc=db"}
    assert (host.members("svc=web"), host.members("svc=db")) == ([10], [11, 12, 50])


def test_one_that_is_moved_after_its_start_is_noticed_when_it_is_visited_again(host: Host) -> None:
    """Of a move there is no event, and the only scan so far is the one that found everybody."""
    moved = SeePolicy("svc=moved", 1.0, matchers=parse_matchers(["cgroup=/moved"]))
    host.discovery.scan((moved,))
    host.fork(1, 60, b"sh")
    host.execute(60, b"server", ppid=1)
    assert host.discovery.follow() == frozenset()
    host.proc.put(60, b"server", ppid=1, start=100, image=99, cgroup="/moved")
    assert host.discovery.has_young
    assert host.discovery.revisit() == {"svc=moved"}
    assert host.members("svc=moved") == [60]
    host.discovery.revisit()
    assert not host.discovery.has_young


def test_one_that_started_after_the_first_scan_is_looked_at_anew_in_the_second(host: Host) -> None:
    moved = SeePolicy("svc=moved", 1.0, matchers=parse_matchers(["cgroup=/moved"]))
    late = Host(host.proc.root.parent / "late")
    late.discovery.scan((moved,))
    late.fork(1, 60, b"server")
    late.discovery.follow()
    late.proc.put(60, b"server", ppid=1, start=100, cgroup="/moved")
    assert [key.pid for key in late.discovery.scan((moved,)).members["svc=moved"]] == [60]


def test_a_changed_name_is_noticed_by_its_event(host: Host) -> None:
    host.fork(1, 60, b"sh")
    assert host.discovery.follow() == frozenset()
    host.proc.put(60, b"web", ppid=1, start=100)
    host.events.next.changed.add(60)
    assert host.discovery.follow() == {"svc=web"}
    assert host.members("svc=web") == [10, 60]


def test_double_forks_inherit_through_parents_that_nobody_ever_saw(host: Host) -> None:
    # 10 forks 20, which forks 21, which forks 22; all but the last have ended before anybody looks.
    host.events.next.forked(10, 20)
    host.events.next.forked(20, 21)
    host.fork(21, 22, b"daemon")
    host.proc.put(22, b"daemon", ppid=1, start=100)
    host.events.next.ended(20)
    host.events.next.ended(21)
    host.discovery.follow()
    assert host.members("svc=web") == [10, 22]
    host.exit(10)
    host.discovery.follow()
    assert host.members("svc=web") == [22], "what a service started stays its own when its founder ends"


def test_a_pid_that_changed_hands_within_one_batch_belongs_to_its_new_parent(host: Host) -> None:
    host.fork(10, 11, b"worker")
    host.discovery.follow()
    host.exit(11)
    host.fork(1, 11, b"stranger", start=500)
    host.fork(11, 12, b"grandchild", start=500)
    assert host.discovery.follow() == {"svc=web"}
    assert host.members("svc=web") == [10]
    assert host.discovery.membership.see_of(12) is None


def test_lost_events_are_made_good_by_a_scan(host: Host) -> None:
    host.proc.put(11, b"worker", ppid=10, start=100)
    host.events.next.lost = True
    assert host.discovery.follow() == {"svc=web", "svc=db"}
    assert host.members("svc=web") == [10, 11]


def test_events_lost_during_a_scan_call_for_another(host: Host) -> None:
    host.events.next.lost = True
    host.discovery.scan(POLICIES)
    assert host.discovery.behind
    host.discovery.scan(POLICIES)
    assert not host.discovery.behind


def test_processes_that_came_and_went_within_a_batch_are_not_even_read(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    for pid in range(1000, 2000):
        host.events.next.forked(10, pid)
        host.events.next.ended(pid)
    read: list[int] = []
    monkeypatch.setattr(host.reader, "stat_text", read.append)
    assert host.discovery.follow() == frozenset()
    assert read == []


def test_a_child_that_runs_its_parents_program_is_not_read_in_full(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("read in full")

    monkeypatch.setattr(host.reader, "facts", refuse)
    host.fork(10, 11, b"worker")
    host.discovery.follow()
    facts = host.discovery.table.live[next(key for key in host.discovery.table.live if key.pid == 11)]
    assert (facts.comm, facts.ppid, facts.exe) == ("worker", 10, "")
    host.fork(10, 12, b"other")
    host.execute(12, b"other", ppid=10)
    with pytest.raises(AssertionError, match="read in full"):
        host.discovery.follow()


def test_a_glance_finds_what_came_and_went_and_pids_that_may_have_been_reused(host: Host) -> None:
    (host.proc.root / "loadavg").write_text("0 0 0 1/1 50\n")
    host.discovery.scan(POLICIES)
    host.proc.put(51, b"worker", ppid=10, start=100)
    (host.proc.root / "loadavg").write_text("0 0 0 1/1 51\n")
    assert host.discovery.glance() == {"svc=web"}
    assert host.members("svc=web") == [10, 51]
    # The pids wrap around: 51 is given out again, to a stranger.
    host.proc.put(51, b"stranger", ppid=1, start=900)
    (host.proc.root / "loadavg").write_text("0 0 0 1/1 60\n")
    assert host.discovery.glance() == {"svc=web"}, "a young process is looked at again"
    assert host.members("svc=web") == [10]
    host.proc.put(10, b"stranger", ppid=1, start=901)
    (host.proc.root / "loadavg").write_text("0 0 0 1/1 12\n")
    assert host.discovery.glance() == {"svc=web"}
    assert host.members("svc=web") == []


def test_a_glance_reads_only_what_may_be_new(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    (host.proc.root / "loadavg").write_text("0 0 0 1/1 60\n")
    cache = ProcessCache(host.reader)
    cache.update(frozenset())
    monkeypatch.setattr(host.reader, "stat_text", lambda pid: pytest.fail(f"{pid} was read"))
    assert not cache.glance()


@pytest.mark.parametrize("seed", range(12))
def test_following_any_history_ends_where_a_look_at_everything_does(host: Host, seed: int) -> None:
    dice = random.Random(seed)
    alive = {1: (0, 1), 10: (1, 100), 50: (1, 100)}
    start = 100
    for _ in range(60):
        for _ in range(dice.randrange(6)):
            start += 1
            happening = dice.random()
            others = [pid for pid in alive if pid != 1]
            if happening < 0.5 or len(others) < 2:
                parent = dice.choice(list(alive))
                pid = dice.choice([pid for pid in range(2, 80) if pid not in alive])
                host.fork(parent, pid, dice.choice((b"web", b"db", b"sh", b"sh")), start)
                alive[pid] = (parent, start)
            elif happening < 0.75:
                pid = dice.choice(others)
                host.exit(pid)
                del alive[pid]
                for orphan, (parent, born) in list(alive.items()):
                    if parent == pid:
                        alive[orphan] = (1, born)
            else:
                pid = dice.choice(others)
                parent, born = alive[pid]
                host.execute(pid, dice.choice((b"web", b"db", b"sh")), ppid=parent, start=born, image=start)
        host.discovery.follow()
    followed = dict(host.discovery.membership.members)
    assert dict(host.discovery._matcher.match(host.discovery.table).members) == followed
    assert {key.pid for key in host.discovery.table.live} == set(alive)
    host.discovery.scan(POLICIES)
    assert dict(host.discovery.membership.members) == followed
    host.discovery._standing.rebuild(host.discovery._matcher, host.discovery.table)
    assert dict(host.discovery.membership.members) == followed


class TestTrees:
    def trees(self, host: Host) -> ProcessTrees:
        return ProcessTrees([[10], [50]], host.reader, host.events)

    def pids(self, trees: ProcessTrees, tree: int) -> list[int]:
        return [pid for pid, _ in trees.members(tree)]

    def test_children_join_and_leave_their_parents_tree_by_events(self, host: Host) -> None:
        trees = self.trees(host)
        host.fork(10, 11, b"a")
        host.fork(11, 12, b"b")
        host.fork(50, 51, b"c")
        host.fork(1, 60, b"stranger")
        assert trees.follow()
        assert (self.pids(trees, 0), self.pids(trees, 1)) == ([10, 11, 12], [50, 51])
        host.exit(11)
        assert trees.follow()
        assert self.pids(trees, 0) == [10, 12]
        assert not trees.follow()

    def test_a_double_fork_is_followed_through_parents_that_have_ended(self, host: Host) -> None:
        trees = self.trees(host)
        host.events.next.forked(10, 20)
        host.events.next.forked(20, 21)
        host.fork(21, 22, b"daemon")
        host.proc.put(22, b"daemon", ppid=1, start=100)
        for pid in (20, 21):
            host.events.next.ended(pid)
        assert trees.follow()
        assert self.pids(trees, 0) == [10, 22]

    def test_a_reused_pid_is_not_taken_for_a_member(self, host: Host) -> None:
        trees = self.trees(host)
        host.fork(10, 11, b"a")
        trees.follow()
        host.exit(11)
        host.fork(1, 11, b"stranger", start=700)
        host.fork(11, 12, b"child of a stranger", start=700)
        assert trees.follow()
        assert self.pids(trees, 0) == [10]
        host.proc.put(10, b"stranger", ppid=1, start=900)
        trees.scan()
        assert self.pids(trees, 0) == []

    def test_lost_events_are_made_good_and_glances_do_without_any(self, host: Host) -> None:
        trees = self.trees(host)
        host.proc.put(11, b"a", ppid=10, start=101)
        host.proc.put(12, b"a", ppid=11, start=101)
        host.events.next.lost = True
        assert trees.follow()
        assert self.pids(trees, 0) == [10, 11, 12]
        blind = ProcessTrees([[10]], host.reader)
        assert self.pids(blind, 0) == [10, 11, 12]
        host.proc.put(9, b"late", ppid=12, start=102)
        host.proc.drop(11)
        assert blind.glance()
        assert self.pids(blind, 0) == [9, 10, 12]
        assert not blind.glance()


def test_a_newcomer_in_a_whole_cgroup_changes_nothing_and_a_stranger_there_ends_it(tmp_path: Path) -> None:
    host = Host(tmp_path / "proc")
    mount = CgroupMount(tmp_path / "cgroup", "/", frozenset())
    web = mount.mount_point / "web"
    web.mkdir(parents=True)

    def procs(*pids: int) -> None:
        (web / "cgroup.procs").write_text("".join(f"{pid}\n" for pid in pids))

    host.discovery = Discovery(host.reader, mounts=(mount,), events=host.events)
    host.proc.put(10, b"web", ppid=1, start=100, cgroup="/web")
    procs(10)
    host.discovery.scan(POLICIES)
    assert host.discovery.known_groups()["svc=web"].cgroup_paths == (web,)
    host.proc.put(11, b"web", ppid=10, start=100, cgroup="/web")
    host.proc.put(12, b"web", ppid=10, start=100, cgroup="/elsewhere")
    for pid in (11, 12):
        host.events.next.forked(10, pid)
    host.discovery.follow()
    found = host.discovery.known_groups()["svc=web"]
    assert (found.cgroup_paths, [key.pid for key in found.loose]) == ((web,), [12])
    host.proc.put(13, b"stranger", ppid=1, start=100, cgroup="/web")
    host.events.next.forked(1, 13)
    procs(10, 11, 13)
    assert host.discovery.follow() == {"svc=web", "svc=db"}
    found = host.discovery.known_groups()["svc=web"]
    assert (found.cgroup_paths, [key.pid for key in found.loose]) == ((), [10, 11, 12])
