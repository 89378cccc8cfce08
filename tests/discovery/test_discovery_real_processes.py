"""Discovery on real processes of a real kernel."""

from __future__ import annotations

import json
import os
import pwd
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

import utilctl_agent
import utilctl_common
from utilctl_agent.discovery.events import ProcEvents
from utilctl_agent.discovery.procfs import ProcReader
from utilctl_agent.discovery.scan import Discovery
from utilctl_agent.discovery.scope import parse_scope
from utilctl_common.errors import FailedError
from utilctl_common.matchers import parse_matchers
from utilctl_common.policy import SeePolicy

pytestmark = pytest.mark.kernel

READY_THEN_WAIT = "import sys, time; print('ready', flush=True); time.sleep(600)"

DAEMON_ON_LINE = """
import os, sys, time
print('ready', flush=True)
sys.stdin.readline()
read, write = os.pipe()
if os.fork() == 0:
    os.setsid()
    pid = os.fork()
    if pid:
        os._exit(0)
    os.write(write, str(os.getpid()).encode())
    time.sleep(600)
os.wait()
print(os.read(read, 20).decode(), flush=True)
time.sleep(600)
"""


def policy(name: str, *matchers: str) -> SeePolicy:
    return SeePolicy(name, 1.0, matchers=parse_matchers(matchers))


def pids(discovery: Discovery, see: str) -> set[int]:
    return {key.pid for key in discovery.membership.members[see]}


def needs_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root to change the user")


def test_a_process_is_found_by_its_marker(spawn: Any, unique: str) -> None:
    see = f"svc={unique}"
    marked = spawn(READY_THEN_WAIT, env={"UTILCTL_SEE": see})
    spawn(READY_THEN_WAIT)
    discovery = Discovery(ProcReader())
    membership = discovery.scan([SeePolicy(see, 1.0)])
    assert [key.pid for key in membership.members[see]] == [marked.pid]
    assert membership.members[see][0].start_ticks == ProcReader().stat(marked.pid).start_ticks


@pytest.mark.root
def test_a_process_is_found_by_its_user(spawn: Any, unique: str) -> None:
    needs_root()
    theirs = spawn(READY_THEN_WAIT, user="nobody", env={"UNIQUE": unique})
    ours = spawn(READY_THEN_WAIT, env={"UNIQUE": unique})
    discovery = Discovery(ProcReader())
    discovery.scan(
        [
            policy("svc=a", f"user=nobody,env=UNIQUE={unique}"),
            policy("svc=b", f"user=root,env=UNIQUE={unique}"),
        ]
    )
    assert pids(discovery, "svc=a") == {theirs.pid}
    assert pids(discovery, "svc=b") == {ours.pid}


@pytest.mark.root
def test_dropping_privileges_right_after_the_start_is_noticed_in_the_next_scan(spawn: Any, unique: str) -> None:
    needs_root()
    uid = pwd.getpwnam("nobody").pw_uid
    discovery = Discovery(ProcReader())
    policies = [policy("svc=a", f"user=nobody,env=UNIQUE={unique}")]
    discovery.scan(policies)
    server = spawn(
        f"import os, sys, time; print('ready', flush=True); sys.stdin.readline(); os.setuid({uid});"
        "print('done', flush=True); time.sleep(600)",
        env={"UNIQUE": unique},
    )
    discovery.scan(policies)
    assert pids(discovery, "svc=a") == set()
    server.tell()
    discovery.scan(policies)
    assert pids(discovery, "svc=a") == {server.pid}


def test_a_process_is_found_by_command_name_executable_and_command_line(
    spawn: Any, unique: str, tmp_path: Path
) -> None:
    program = tmp_path / f"program-{unique}-with-a-long-name"
    program.write_bytes(Path("/bin/sleep").resolve().read_bytes())
    program.chmod(0o755)
    launcher = spawn(f"import os; print('ready', flush=True); os.execv({str(program)!r}, ['x', '600'])")
    python = spawn(READY_THEN_WAIT, f"argument-{unique}")
    discovery = Discovery(ProcReader())
    policies = [
        policy("svc=exe", f"command={program.name}"),
        policy("svc=comm", f"command={program.name[:15]}", "pid=1"),
        policy("svc=line", f"cmdline=argument-{unique}$"),
    ]
    while program.name != executable(launcher.pid):
        pass
    membership = discovery.scan([policies[0], policies[2]])
    assert {see: [key.pid for key in keys] for see, keys in membership.members.items()} == {
        "svc=exe": [launcher.pid],
        "svc=line": [python.pid],
    }
    discovery.scan([policies[1]])
    assert pids(discovery, "svc=comm") == {launcher.pid}


def executable(pid: int) -> str:
    return Path(f"/proc/{pid}/exe").readlink().name


def test_a_program_executed_later_is_judged_anew_and_its_child_still_inherits(spawn: Any, unique: str) -> None:
    code = (
        "import os, sys, time\nprint('ready', flush=True)\nsys.stdin.readline()\n"
        "child = os.fork()\n"
        f"if child == 0: os.execv('/bin/sleep', ['sleep-{unique}', '600'])\n"
        "while os.readlink(f'/proc/{child}/exe') == os.readlink('/proc/self/exe'): pass\n"
        "print(child, flush=True)\nsys.stdin.readline()\n"
        "later = 'import time; print(1, flush=True); time.sleep(600)'\n"
        f"os.execv(sys.executable, ['python3', '-c', later, 'new-{unique}'])"
    )
    parent = spawn(code, f"old-{unique}")
    discovery = Discovery(ProcReader())
    policies = [policy("svc=old", f"cmdline=old-{unique}"), policy("svc=new", f"cmdline=new-{unique}$")]
    discovery.scan(policies)
    assert pids(discovery, "svc=old") == {parent.pid}
    child = int(parent.tell())
    discovery.scan(policies)
    assert pids(discovery, "svc=old") == {parent.pid, child}
    assert f"started by pid {parent.pid}" in discovery.explain_pid(child).sentence
    parent.tell()
    discovery.scan(policies)
    assert (pids(discovery, "svc=old"), pids(discovery, "svc=new")) == (set(), {parent.pid, child})


def test_a_tree_keeps_a_daemon_that_left_its_session_after_a_scan_had_seen_its_parent(spawn: Any, unique: str) -> None:
    # The middle process lives until a scan has seen it, as a start-up script does.
    code = """
import os, sys, time
print('ready', flush=True)
sys.stdin.readline()
read, write = os.pipe()
go_read, go_write = os.pipe()
middle = os.fork()
if middle == 0:
    os.setsid()
    if os.fork():
        os.read(go_read, 1)
        os._exit(0)
    os.write(write, str(os.getpid()).encode())
    time.sleep(600)
print(middle, os.read(read, 20).decode(), flush=True)
sys.stdin.readline()
os.write(go_write, b'x')
os.waitpid(middle, 0)
print('gone', flush=True)
time.sleep(600)
"""
    root = spawn(code)
    scope = parse_scope(f"tree:{root.pid}", ProcReader(), ())
    policies = [policy(f"svc={unique}", f"tree={root.pid}")]
    discovery, scoped = Discovery(ProcReader()), Discovery(ProcReader(), scope)
    for each in (discovery, scoped):
        each.scan(policies)
    middle, daemon = map(int, root.tell().split())
    for each in (discovery, scoped):
        each.scan(policies)
        assert pids(each, f"svc={unique}") == {root.pid, middle, daemon}
    assert root.tell() == "gone"
    for each in (discovery, scoped):
        each.scan(policies)
        assert pids(each, f"svc={unique}") == {root.pid, daemon}
        assert each.table.live[next(k for k in each.table.live if k.pid == daemon)].ppid != middle
    root.end()
    for each in (discovery, scoped):
        each.scan(policies)
        assert pids(each, f"svc={unique}") == {daemon}
    everything = {key.pid for key in scoped.table.in_scope or () if key in scoped.table.live}
    assert everything == {daemon}


@pytest.mark.root
def test_fork_events_find_a_daemon_whose_parents_no_scan_ever_saw(spawn: Any, unique: str) -> None:
    try:
        events = ProcEvents()
    except FailedError as error:
        pytest.skip(str(error))
    with events:
        root = spawn(DAEMON_ON_LINE, f"origin-{unique}")
        policies = [policy(f"svc={unique}", f"pid={root.pid}")]
        with_events, without = Discovery(ProcReader(), events=events), Discovery(ProcReader())
        for each in (with_events, without):
            each.scan(policies)
        daemon = int(root.tell())
        for each in (with_events, without):
            each.scan(policies)
        assert pids(with_events, f"svc={unique}") == {root.pid, daemon}
        assert pids(without, f"svc={unique}") == {root.pid}
        assert events.lost == 0


def test_fork_events_are_refused_with_a_reason_where_they_are_not_allowed() -> None:
    code = (
        "import os\nos.setuid(65534)\n"
        "from utilctl_agent.discovery.events import ProcEvents\n"
        "from utilctl_common.errors import FailedError\n"
        "try: ProcEvents(); print('allowed')\nexcept FailedError as error: print(error)"
    )
    needs_root()
    answer = run_python(code)
    assert "discovery goes on with scans alone" in answer or answer == "allowed"


def run_python(code: str) -> str:
    roots = [str(Path(package.__path__[0]).parent) for package in (utilctl_agent, utilctl_common)]
    # Imported while the files may still be read: the code below gives up its privileges.
    preamble = (
        f"import sys\nsys.path[:0] = {roots!r}\nimport utilctl_agent.discovery.events, utilctl_agent.discovery.scan\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", preamble + code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.root
def test_an_unprivileged_agent_sees_its_own_processes_and_counts_the_others(spawn: Any, unique: str) -> None:
    needs_root()
    uid, gid = pwd.getpwnam("nobody")[2:4]
    marker = {"UTILCTL_SEE": f"svc={unique}"}
    theirs = spawn(READY_THEN_WAIT, user=uid, group=gid, extra_groups=[], env=marker)
    ours = spawn(READY_THEN_WAIT, env=marker)
    answer = run_python(
        "import json, os\n"
        "from utilctl_agent.discovery.procfs import ProcReader\n"
        "from utilctl_common.policy import SeePolicy\n"
        "from utilctl_agent.discovery.scan import Discovery\n"
        f"os.setgroups([]); os.setgid({gid}); os.setuid({uid})\n"
        "discovery = Discovery(ProcReader())\n"
        f"membership = discovery.scan([SeePolicy('svc={unique}', 1.0)])\n"
        "print(json.dumps([[key.pid for keys in membership.members.values() for key in keys],"
        "discovery.stats.unreadable, discovery.stats.failed, discovery.stats.processes,"
        f"discovery.explain_pid({ours.pid}).sees[0].matchers[0].conditions[0].actual]))"
    )
    members, unreadable, failed, processes, actual = json.loads(answer)
    assert members == [theirs.pid]
    assert 2 <= unreadable < processes
    assert failed == 0
    assert actual.startswith("not readable")


def test_processes_that_end_during_the_scan_are_no_error(unique: str) -> None:
    stop = threading.Event()

    def churn() -> None:
        while not stop.is_set():
            subprocess.run(["/bin/true"], env={"UTILCTL_SEE": f"svc={unique}"}, check=False)

    threads = [threading.Thread(target=churn) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        discovery = Discovery(ProcReader())
        for _ in range(100):
            membership = discovery.scan([SeePolicy(f"svc={unique}", 1.0)])
            assert discovery.stats.failed == 0
            assert len(membership.members[f"svc={unique}"]) <= 4
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    discovery.scan([SeePolicy(f"svc={unique}", 1.0)])
    assert discovery.membership.members == {f"svc={unique}": ()}


def test_a_process_that_ended_leaves_and_a_zombie_is_no_process(spawn: Any, unique: str) -> None:
    zombie = spawn(
        "import os, sys, time\nread, write = os.pipe()\npid = os.fork()\n"
        "if pid == 0: os._exit(0)\nos.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)\n"
        "print(pid, flush=True)\ntime.sleep(600)",
        env={"UTILCTL_SEE": f"svc={unique}"},
    )
    discovery = Discovery(ProcReader())
    discovery.scan([SeePolicy(f"svc={unique}", 1.0)])
    assert pids(discovery, f"svc={unique}") == {zombie.pid}
    assert Path(f"/proc/{zombie.line}").exists()
    zombie.end()
    discovery.scan([SeePolicy(f"svc={unique}", 1.0)])
    assert pids(discovery, f"svc={unique}") == set()


def test_a_process_whose_first_thread_ended_stays_a_member(spawn: Any, unique: str) -> None:
    program = spawn(
        "import ctypes, sys, threading, time\n"
        "libc = ctypes.CDLL(None)\n"
        "main = threading.main_thread().native_id\n"
        "def wait():\n"
        "    state = lambda: open(f'/proc/self/task/{main}/stat').read().rpartition(')')[2].split()[0]\n"
        "    while state() != 'Z': time.sleep(0.01)\n"
        "    print('leader gone', flush=True)\n"
        "    time.sleep(600)\n"
        "print('ready', flush=True)\nsys.stdin.readline()\n"
        "threading.Thread(target=wait).start()\n"
        "libc.pthread_exit(None)",
        env={"UTILCTL_SEE": f"svc={unique}"},
    )
    discovery = Discovery(ProcReader())
    policies = [SeePolicy(f"svc={unique}", 1.0)]
    discovery.scan(policies)
    assert program.tell() == "leader gone"
    assert Path(f"/proc/{program.pid}/cmdline").read_bytes() == b""
    for _ in range(10):
        discovery.scan(policies)
        assert pids(discovery, f"svc={unique}") == {program.pid}


def test_the_agents_own_processes_and_init_are_never_members(spawn: Any, unique: str) -> None:
    running = spawn(READY_THEN_WAIT, env={"UTILCTL_SEE": f"svc={unique}"})
    own: set[int] = set()
    discovery = Discovery(ProcReader(), None, own)
    policies = [SeePolicy(f"svc={unique}", 1.0), policy("svc=init", "pid=1")]
    discovery.scan(policies)
    assert pids(discovery, f"svc={unique}") == {running.pid}
    assert pids(discovery, "svc=init") == set()
    own.add(running.pid)
    discovery.scan(policies)
    assert pids(discovery, f"svc={unique}") == set()
    assert "never managed" in discovery.explain_pid(running.pid).sentence


def test_a_pid_means_the_process_that_had_it_when_the_matcher_came(spawn: Any, unique: str) -> None:
    running = spawn(READY_THEN_WAIT)
    discovery = Discovery(ProcReader())
    policies = [policy(f"svc={unique}", f"pid={running.pid}")]
    discovery.scan(policies)
    assert pids(discovery, f"svc={unique}") == {running.pid}
    running.end()
    discovery.scan(policies)
    assert pids(discovery, f"svc={unique}") == set()
    assert "has ended" in discovery.explain_pid(running.pid).sentence


def test_new_policies_take_effect_on_known_processes(spawn: Any, unique: str) -> None:
    running = spawn(READY_THEN_WAIT, env={"TIER": unique})
    discovery = Discovery(ProcReader())
    discovery.scan([policy("svc=a", f"env=TIER={unique}")])
    assert pids(discovery, "svc=a") == {running.pid}
    discovery.scan([policy("svc=b", f"env=TIER={unique}")])
    assert pids(discovery, "svc=b") == {running.pid}
    assert "svc=a" not in discovery.membership.members
