"""The journal: what was noted is read back, by anybody, also after the writer was killed; damage is told apart."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from utilctl_agent.safety.journal import (
    MAX_PATH_BYTES,
    ChangedWeight,
    Journal,
    JournalError,
    PausedCgroup,
    PausedProcess,
)

SLOTS = 5

U32 = st.integers(0, 2**32 - 1)
U64 = st.integers(0, 2**64 - 1)
PATHS = st.binary(max_size=MAX_PATH_BYTES).filter(lambda raw: b"\0" not in raw).map(os.fsdecode)


class JournalModel(RuleBasedStateMachine):
    """The journal beside a dict: slot -> (what it was entered for, since when it is paused or None)."""

    def __init__(self) -> None:
        super().__init__()
        self.model: dict[int, tuple[tuple[object, ...], int | None]] = {}
        self.beat_ns = 0

    @initialize()
    def start(self) -> None:
        """An empty journal on a file that has no name any more: nothing is left if the run is cut short."""
        self.path = f"/dev/shm/utilctl-test-{os.getpid()}-{id(self)}.journal"
        self.journal = Journal.create(self.path, slots=SLOTS)
        self.reader_path = f"/proc/self/fd/{os.open(self.path, os.O_RDWR)}"
        Path(self.path).unlink()

    @precondition(lambda self: len(self.model) < SLOTS)
    @rule(pid=U32, start_ticks=U64)
    def enter_process(self, pid: int, start_ticks: int) -> None:
        slot = self.journal.enter_process(pid, start_ticks)
        assert slot not in self.model
        self.model[slot] = ((pid, start_ticks), None)

    @precondition(lambda self: len(self.model) < SLOTS)
    @rule(path=PATHS, inode=U64, v1=st.booleans())
    def enter_cgroup(self, path: str, inode: int, v1: bool) -> None:
        slot = self.journal.enter_cgroup(path, inode, v1=v1)
        assert slot not in self.model
        self.model[slot] = ((path, inode, v1), None)

    @precondition(lambda self: len(self.model) == SLOTS)
    @rule()
    def a_full_journal_refuses_and_forgets_nothing(self) -> None:
        with pytest.raises(JournalError, match="slots"):
            self.journal.enter_process(1, 1)
        with pytest.raises(JournalError, match="slots"):
            self.journal.enter_cgroup("/x", 1)

    @precondition(lambda self: self.model)
    @rule(data=st.data(), now_ns=U64)
    def begin(self, data: st.DataObject, now_ns: int) -> None:
        slot = data.draw(st.sampled_from(sorted(self.model)))
        self.journal.begin(slot, now_ns)
        self.model[slot] = (self.model[slot][0], now_ns)

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        slot = data.draw(st.sampled_from(sorted(self.model)))
        self.journal.end(slot)
        self.model[slot] = (self.model[slot][0], None)

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        slot = data.draw(st.sampled_from(sorted(self.model)))
        self.journal.leave(slot)
        del self.model[slot]

    @rule(now_ns=U64)
    def beat(self, now_ns: int) -> None:
        self.journal.beat(now_ns)
        self.beat_ns = now_ns

    @rule()
    def a_reader_that_opens_it_now_sees_the_same(self) -> None:
        fd = os.open(self.reader_path, os.O_RDWR)
        reader = Journal(self.path, fd, SLOTS)
        try:
            self._compare(reader)
        finally:
            reader.close()

    @invariant()
    def in_force_is_what_the_model_says(self) -> None:
        self._compare(self.journal)

    def _compare(self, journal: Journal) -> None:
        expected = {
            slot: PausedProcess(subject[0], subject[1], since_ns)  # type: ignore[arg-type]  # a pair of ints
            if isinstance(subject[0], int)
            else PausedCgroup(subject[0], subject[1], since_ns, subject[2])  # type: ignore[arg-type]  # as entered
            for slot, (subject, since_ns) in self.model.items()
            if since_ns is not None
        }
        assert dict(journal.in_force()) == expected
        assert journal.any_in_force() == bool(expected)
        assert journal.heartbeat_ns() == self.beat_ns

    def teardown(self) -> None:
        if hasattr(self, "journal"):
            os.close(int(self.reader_path.rpartition("/")[2]))
            self.journal.close()


TestJournalModel = JournalModel.TestCase
TestJournalModel.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)


@pytest.fixture
def path(tmp_path: Path) -> str:
    """Where a journal may lie."""
    return str(tmp_path / "a.journal")


def test_only_the_pause_that_was_undone_is_crossed_out_not_one_that_the_loop_has_begun_since(tmp_path: Path) -> None:
    journal = Journal.create(str(tmp_path / "a.journal"), slots=2)
    try:
        slot = journal.enter_process(4711, 1)
        journal.begin(slot, 10)
        ((_, undone),) = journal.in_force()
        journal.end(slot)
        journal.begin(slot, 20)
        journal.cross_out(slot, undone)
        ((_, begun_since),) = journal.in_force()
        assert begun_since.since_ns == 20
        journal.cross_out(slot, begun_since)
        assert not journal.any_in_force()
    finally:
        journal.close()


def test_what_was_noted_outlives_a_writer_that_is_killed(path: str) -> None:
    code = (
        "import os, signal, sys\n"
        "from utilctl_agent.safety.journal import Journal\n"
        "j = Journal.create(sys.argv[1])\n"
        "j.beat(77)\n"
        "j.begin(j.enter_process(123, 456), 789)\n"
        "j.begin(j.enter_cgroup('/some/where', 42), 790)\n"
        "j.end(j.enter_process(1, 2))\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", code, path], timeout=60).returncode == -signal.SIGKILL
    journal = Journal.open(path)
    try:
        pauses = {pause for _, pause in journal.in_force()}
        assert pauses == {PausedProcess(123, 456, 789), PausedCgroup("/some/where", 42, 790)}
        assert journal.heartbeat_ns() == 77
        assert journal.lock(), "the killed writer's lock must be gone with it"
    finally:
        journal.close()


U32_WEIGHT = st.integers(0, 2**32 - 1)


@given(path=PATHS, inode=U64, found=U64, before=U32_WEIGHT, value=U32_WEIGHT)
@settings(max_examples=50, deadline=None)
def test_a_changed_weight_is_read_back_and_is_no_pause(
    tmp_path_factory: pytest.TempPathFactory, path: str, inode: int, found: int, before: int, value: int
) -> None:
    file = tmp_path_factory.getbasetemp() / f"weights-{os.getpid()}.journal"
    file.unlink(missing_ok=True)
    journal = Journal.create(str(file), slots=2)
    try:
        for knob in ("cpu.shares", "cpu.weight"):
            slot = journal.enter_weight(path, inode, knob, found)
            journal.change(slot, before, value)
            assert journal.changed() == [(slot, ChangedWeight(path, inode, knob, found, before, value))]
            assert (journal.any_in_force(), journal.in_force()) == (False, [])
            journal.leave(slot)
            assert journal.changed() == []
    finally:
        journal.close(unlink=True)


def test_two_handles_see_each_others_notes_at_once(path: str) -> None:
    guard, loop = Journal.create(path, slots=2), Journal.open(path)
    try:
        slot = loop.enter_process(11, 22)
        assert not guard.any_in_force()
        loop.begin(slot, 33)
        assert guard.in_force() == [(slot, PausedProcess(11, 22, 33))]
        guard.end(slot)
        assert not loop.any_in_force()
    finally:
        guard.close()
        loop.close()


def test_the_lock_tells_whether_the_owner_lives(path: str) -> None:
    owner, other = Journal.create(path, slots=1), Journal.open(path)
    try:
        assert owner.lock()
        assert not other.lock()
        owner.close()
        assert other.lock()
    finally:
        owner.close()
        other.close()


def test_a_new_journal_is_empty_and_for_its_owner_only(path: str) -> None:
    journal = Journal.create(path)
    try:
        assert Path(path).stat().st_mode & 0o777 == 0o600
        assert (journal.in_force(), journal.any_in_force(), journal.heartbeat_ns()) == ([], False, 0)
    finally:
        journal.close(unlink=True)
    assert not Path(path).exists()
    journal.close(unlink=True)  # idempotent


def test_creating_one_where_there_is_one_leaves_it_as_it_is(path: str) -> None:
    first = Journal.create(path, slots=2)
    first.begin(first.enter_process(5, 6), 7)
    try:
        with pytest.raises(FileExistsError):
            Journal.create(path)
        assert first.any_in_force()
        assert Path(path).exists()
    finally:
        first.close()


def test_a_symlink_is_followed_by_neither_open_nor_create(tmp_path: Path) -> None:
    target = tmp_path / "target"
    Journal.create(str(target), slots=1).close()
    before = target.read_bytes()
    link = tmp_path / "link.journal"
    link.symlink_to(target)
    dangling = tmp_path / "dangling.journal"
    dangling.symlink_to(tmp_path / "made-by-create")
    with pytest.raises(OSError, match="symbolic links"):
        Journal.open(str(link))
    for name in (link, dangling):
        with pytest.raises(FileExistsError):
            Journal.create(str(name))
    assert target.read_bytes() == before
    assert not (tmp_path / "made-by-create").exists()


def test_no_room_for_a_journal_is_an_error_at_once_and_leaves_no_file(path: str) -> None:
    code = (
        "import resource, sys\n"
        "from utilctl_agent.safety.journal import Journal\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))\n"
        "try:\n"
        "    Journal.create(sys.argv[1])\n"
        "except OSError as error:\n"
        "    sys.exit(f'refused: {error.strerror}')\n"
    )
    ran = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, timeout=60)
    assert ran.stderr == "refused: File too large\n"
    assert not Path(path).exists()


def test_a_path_that_does_not_fit_is_refused_and_takes_no_slot(path: str) -> None:
    journal = Journal.create(path, slots=1)
    try:
        with pytest.raises(JournalError, match="too long"):
            journal.enter_cgroup("/" + "ä" * MAX_PATH_BYTES, 1)
        slot = journal.enter_cgroup("/" * MAX_PATH_BYTES, 1)
        journal.begin(slot, 3)
        assert journal.in_force() == [(slot, PausedCgroup("/" * MAX_PATH_BYTES, 1, 3))]
    finally:
        journal.close()


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bytes of a journal of two slots with both pauses in force."""
    path = str(tmp_path_factory.mktemp("journal") / "sound")
    journal = Journal.create(path, slots=2)
    journal.begin(journal.enter_process(5, 6), 7)
    journal.begin(journal.enter_cgroup("/a/b", 8), 9)
    journal.close()
    return Path(path).read_bytes()


@pytest.mark.parametrize("content", [b"", b"x", b"utilctlJ", b"\0" * 10_000, b"PK\x03\x04" * 4000, b"utilctlK" * 900])
def test_a_foreign_file_is_refused_as_no_journal(path: str, content: bytes) -> None:
    Path(path).write_bytes(content)
    with pytest.raises(JournalError, match=r"a\.journal"):
        Journal.open(path)
    assert Path(path).read_bytes() == content


def test_a_journal_of_another_version_is_refused(path: str, sound: bytes) -> None:
    Path(path).write_bytes(sound[:8] + (2).to_bytes(4, "little") + sound[12:])
    with pytest.raises(JournalError, match="version"):
        Journal.open(path)


def test_a_truncated_journal_is_refused_wherever_it_was_cut(path: str, sound: bytes) -> None:
    lengths = {*range(0, len(sound), 97), 15, 16, 4095, 4096, 4097, len(sound) - 1}
    for length in sorted(lengths):
        Path(path).write_bytes(sound[:length])
        with pytest.raises(JournalError):
            Journal.open(path)


def test_directories_and_absent_files_are_operating_system_errors(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        Journal.open(str(tmp_path))
    with pytest.raises(FileNotFoundError):
        Journal.open(str(tmp_path / "absent.journal"))
    with pytest.raises(FileNotFoundError):
        Journal.create(str(tmp_path / "no" / "folder.journal"))


@given(damage=st.dictionaries(st.integers(4096, 4096 + 2 * 521 - 1), st.integers(0, 255), max_size=40))
@settings(max_examples=150, deadline=None)
def test_damage_behind_the_header_never_raises_and_spares_the_slot_it_did_not_hit(
    tmp_path_factory: pytest.TempPathFactory, sound: bytes, damage: dict[int, int]
) -> None:
    content = bytearray(sound)
    for at, byte in damage.items():
        content[at] = byte
    path = tmp_path_factory.getbasetemp() / f"damaged-{os.getpid()}.journal"
    path.write_bytes(content)
    journal = Journal.open(str(path))
    try:
        pauses = dict(journal.in_force())
    finally:
        journal.close()
    whole = {0: PausedProcess(5, 6, 7), 1: PausedCgroup("/a/b", 8, 9)}
    for slot, pause in whole.items():
        own = {
            4096 + slot,
            *range(4098 + 8 * slot, 4106 + 8 * slot),
            *range(4114 + 512 * slot, 4114 + 512 * slot + 512),
        }
        if not own & damage.keys():
            assert pauses[slot] == pause
