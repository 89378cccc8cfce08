"""Parsing what the kernel writes, and the cache over a /proc made of files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.fake_proc import FakeProc, stat_text
from utilctl_agent.discovery.cgroupfs import CgroupMount, cgroup_mounts, parse_cgroups, parse_mountinfo
from utilctl_agent.discovery.facts import CgroupPath, ProcessKey
from utilctl_agent.discovery.process_cache import REFRESH_SCANS, ProcessCache
from utilctl_agent.discovery.procfs import (
    ProcessGoneError,
    ProcReader,
    parse_environment,
    parse_stat,
)
from utilctl_common.errors import FailedError


@given(st.binary(min_size=1, max_size=15).filter(lambda comm: b"\0" not in comm))
def test_a_name_with_any_bytes_does_not_shift_the_fields_of_stat(comm: bytes) -> None:
    stat = parse_stat(9, stat_text(9, comm, ppid=3, start=77))
    assert (stat.ppid, stat.start_ticks, stat.kernel_thread, stat.ended) == (3, 77, False, False)
    assert stat.comm == comm.decode("utf-8", "replace")


@pytest.mark.parametrize("raw", [b"", b"9 (x", b"9 (x) S 1", b"\xff" * 40])
def test_a_malformed_stat_is_refused(raw: bytes) -> None:
    with pytest.raises(ValueError, match="malformed"):
        parse_stat(9, raw)


def test_only_wanted_variables_are_taken_from_an_environment_and_the_first_of_two() -> None:
    data = b"A=1\0SECRET=x\0XB=no\0B=a=b\0A=2\0EMPTY=\0"
    assert parse_environment(data, ("A", "B", "EMPTY", "NONE")) == (("A", "1"), ("B", "a=b"), ("EMPTY", ""))
    assert parse_environment(b"A=1", ("A",)) == (("A", "1"),)
    assert parse_environment(b"", ("A",)) == ()


def test_mounts_and_paths_of_hybrid_hosts_and_containers_are_found() -> None:
    mounts = parse_mountinfo(
        "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n"
        "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
        "33 31 0:30 /docker/abc /sys/fs/cgroup/free\\040zer rw shared:9 - cgroup cgroup rw,freezer\n"
        "34 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate\n"
        "malformed line\n"
    )
    assert [str(mount.mount_point) for mount in mounts] == [
        "/sys/fs/cgroup/cpu,cpuacct",
        "/sys/fs/cgroup/free zer",
        "/sys/fs/cgroup/unified",
    ]
    cpu, freezer, unified = mounts
    assert (cpu.is_v2, unified.is_v2) == (False, True)
    assert cpu.holds("cpuacct,cpu")
    assert not cpu.holds("")
    assert unified.holds("")
    assert not unified.holds("cpu")
    assert freezer.directory("/docker/abc/x") == Path("/sys/fs/cgroup/free zer/x")
    assert freezer.directory("/docker/abcd") is None
    assert freezer.path_of(Path("/sys/fs/cgroup/free zer/x")) == "/docker/abc/x"
    assert freezer.path_of(Path("/elsewhere")) is None


def test_the_cgroups_of_a_process_are_read_from_every_hierarchy() -> None:
    assert parse_cgroups("9:name=systemd:/a\n4:cpu,cpuacct:/b:c\n0::/d (deleted)\nrubbish\n") == (
        CgroupPath("name=systemd", "/a"),
        CgroupPath("cpu,cpuacct", "/b:c"),
        CgroupPath("", "/d"),
    )


@pytest.mark.kernel
def test_this_process_is_read_as_it_is() -> None:
    reader = ProcReader()
    facts = reader.facts(reader.stat(os.getpid()), frozenset({"PATH"}))
    assert (facts.pid, facts.ppid, facts.uid) == (os.getpid(), os.getppid(), os.geteuid())
    assert facts.exe.startswith("python")
    assert facts.environment == (("PATH", os.environ["PATH"]),)
    assert os.getpid() in reader.pids()
    assert len(cgroup_mounts()) == len(set(cgroup_mounts()))
    assert all(isinstance(mount, CgroupMount) for mount in cgroup_mounts())


def test_a_host_without_proc_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(FailedError, match=r"cannot list .*mount proc there"):
        ProcReader(str(tmp_path / "none")).pids()


WANTED = frozenset({"UTILCTL_SEE"})


@pytest.fixture
def proc(tmp_path: Path) -> FakeProc:
    return FakeProc(tmp_path)


def cache_of(proc: FakeProc) -> ProcessCache:
    return ProcessCache(ProcReader(str(proc.root), labels=proc))


def test_a_known_process_is_not_read_again_and_the_table_stays_the_same_object(proc: FakeProc) -> None:
    proc.put(2, b"a")
    cache = cache_of(proc)
    assert cache.update(WANTED)
    before = cache.live
    assert not cache.update(WANTED)
    assert cache.live is before
    assert cache.stats.read_in_full == 0


def test_a_reused_pid_is_another_process(proc: FakeProc) -> None:
    proc.put(2, b"a", start=5, environ=b"UTILCTL_SEE=svc=a\0")
    cache = cache_of(proc)
    cache.update(WANTED)
    proc.put(2, b"a", start=6)
    assert cache.update(WANTED)
    assert list(cache.live) == [ProcessKey(2, 6)]
    assert cache.live[ProcessKey(2, 6)].marker is None


def test_another_program_in_the_same_process_is_noticed_at_once(proc: FakeProc) -> None:
    proc.put(2, b"a", image=1)
    cache = cache_of(proc)
    cache.update(WANTED)
    proc.put(2, b"a", image=2, environ=b"UTILCTL_SEE=svc=a\0")
    assert cache.update(WANTED)
    assert cache.live[ProcessKey(2, 5)].marker == "svc=a"


def test_a_move_to_another_cgroup_is_noticed_within_the_refresh_interval(proc: FakeProc) -> None:
    for pid in range(2, 2 + REFRESH_SCANS):
        proc.put(pid, b"a")
    cache = cache_of(proc)
    cache.update(WANTED)
    for pid in range(2, 2 + REFRESH_SCANS):
        proc.put(pid, b"a", cgroup="/moved")
    refreshed = []
    for _ in range(REFRESH_SCANS):
        cache.update(WANTED)
        refreshed.append(cache.stats.refreshed)
    assert {facts.cgroup_v2 for facts in cache.live.values()} == {"/moved"}
    assert refreshed == [1] * REFRESH_SCANS


def test_a_young_process_is_looked_at_again_in_the_next_two_scans(proc: FakeProc) -> None:
    cache = cache_of(proc)
    cache.update(WANTED)
    proc.put(2, b"a")
    cache.update(WANTED)
    for place in ("/first", "/second"):
        proc.put(2, b"a", cgroup=place)
        cache.update(WANTED)
        assert cache.live[ProcessKey(2, 5)].cgroup_v2 == place


def test_a_variable_that_a_policy_newly_names_is_read_from_known_processes(proc: FakeProc) -> None:
    proc.put(2, b"a", environ=b"TIER=gold\0")
    cache = cache_of(proc)
    cache.update(WANTED)
    assert cache.live[ProcessKey(2, 5)].environment == ()
    cache.update(WANTED | {"TIER"})
    assert cache.live[ProcessKey(2, 5)].variable("TIER") == "gold"
    cache.update(WANTED)
    assert cache.live[ProcessKey(2, 5)].environment == ()


def test_labels_that_come_later_are_taken_up_at_once(proc: FakeProc) -> None:
    proc.put(2, b"a", cgroup="/pod")
    proc.put(3, b"a")
    cache = cache_of(proc)
    cache.update(WANTED)
    proc.labels, proc.revision = {"svc": "web"}, 1
    assert cache.update(WANTED)
    assert {key.pid: facts.labels for key, facts in cache.live.items()} == {2: (("svc", "web"),), 3: ()}


def test_kernel_threads_and_vanished_processes_are_left_out(proc: FakeProc) -> None:
    proc.put(2, b"kthreadd", flags=0x00200000)
    proc.put(3, b"a")
    (proc.root / "4").mkdir()  # ended after the listing
    cache = cache_of(proc)
    cache.update(WANTED)
    assert list(cache.live) == [ProcessKey(3, 5)]
    assert cache.stats.vanished == 1
    proc.drop(3)
    assert cache.update(WANTED)
    assert cache.live == {}


def test_when_this_process_lacks_file_descriptors_known_processes_stay_known(proc: FakeProc) -> None:
    proc.put(2, b"a")
    cache = cache_of(proc)
    cache.update(WANTED)
    before = cache.live
    (proc.root / "2" / "stat").unlink()
    (proc.root / "2" / "stat").mkdir()  # reading fails with EISDIR: an error, yet neither absence nor permission
    assert not cache.update(WANTED)
    assert cache.live is before
    assert cache.stats.failed == 1


def test_a_pid_that_changes_hands_while_it_is_read_is_left_for_the_next_scan(proc: FakeProc) -> None:
    proc.put(2, b"a", start=5)
    reader = ProcReader(str(proc.root))
    stat = reader.stat(2)
    proc.put(2, b"b", start=6)
    with pytest.raises(ProcessGoneError):
        reader.facts(stat, WANTED)
