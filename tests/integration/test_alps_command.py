"""``utilctl alps`` as a user runs it: what it prints, what it refuses, and that nothing is left behind."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from support.commands import UTILCTL, Command, one_line, run
from support.processes import is_stopped, spinning, temporary_cgroup, wait_until
from support.unprivileged import as_nobody, can_become_nobody, give_to_nobody
from utilctl_agent.host.freezer_v1 import freezer_v1_refusal
from utilctl_agent.host.hierarchies import FREEZER_V1, v1_mount
from utilctl_agent.host.weights import weight_mount, weight_refusal

pytestmark = pytest.mark.kernel

root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: cgroups are made")
SPIN = "while :; do :; done"
DESIGNED_KEYS = {
    "algorithm", "quantum_ms", "cycles", "wall_s", "overhead_pct", "startup_cpu_s", "rms_relative_error_pct",
    "wakeups_per_s", "mechanism", "principals",
}  # fmt: skip
DESIGNED_PRINCIPAL_KEYS = {"name", "share", "cpu_s", "fraction", "target_fraction", "paused_s"}
MORE_KEYS = {"mechanism_reason", "loop_class", "late_mean_us", "late_max_us", "cycle_stretch"}
MORE_PRINCIPAL_KEYS = {"problem"}


def alps(*arguments: str, prefix: Sequence[str] = (), **environment: str) -> dict[str, Any]:
    """The JSON of a run that succeeds and says nothing else; it leaves nothing behind."""
    outcome = run("alps", *arguments, "-o", "json", prefix=prefix, environment=environment)
    assert (outcome.code, outcome.stderr) == (0, "")
    document: dict[str, Any] = json.loads(outcome.stdout)
    return document


def assert_designed_form(document: dict[str, Any], shares: Sequence[float]) -> None:
    """Keys exactly as promised, and figures that fit together."""
    assert set(document) == DESIGNED_KEYS | MORE_KEYS
    principals = document["principals"]
    assert [principal["share"] for principal in principals] == list(shares)
    for principal in principals:
        assert set(principal) == DESIGNED_PRINCIPAL_KEYS | MORE_PRINCIPAL_KEYS
        assert principal["cpu_s"] >= 0
        assert principal["paused_s"] >= 0
        assert principal["target_fraction"] == pytest.approx(principal["share"] / sum(shares), abs=1e-6)
    total = sum(principal["cpu_s"] for principal in principals)
    for principal in principals:
        assert principal["fraction"] == pytest.approx(principal["cpu_s"] / total if total else 0.0, abs=1e-9)


@pytest.mark.parametrize("signals", [False, True])
def test_commands_share_the_cpu_and_the_json_is_as_promised(signals: bool) -> None:
    options = ["--run", f"1:{SPIN}", "--run", f"3:{SPIN}", "--cpus", "0", "--duration", "2s", "--quantum", "20ms"]
    document = alps(*options, *(["--signals"] if signals else []))
    assert_designed_form(document, [1, 3])
    assert (document["algorithm"], document["quantum_ms"]) == ("default", 20.0)
    assert document["mechanism"] == ("signal" if signals or os.geteuid() != 0 else "freezer")
    assert document["mechanism_reason"]
    assert document["cycles"] >= 1
    assert document["wall_s"] >= 2
    assert [principal["name"] for principal in document["principals"]] == [SPIN, SPIN]
    assert all(principal["cpu_s"] > 0 and principal["problem"] == "" for principal in document["principals"])
    assert document["principals"][0]["paused_s"] > 0


def mode_refusal(mode: str) -> str | None:
    """Why a mode cannot be tried here."""
    if os.geteuid() != 0:
        return "needs root: cgroups are made"
    return freezer_v1_refusal() if mode == "freezer-v1" else weight_refusal() if mode == "weight" else None


@pytest.mark.quiet  # where a loop is held up for 190 ms, another start resumes what it holds, and that is told
@pytest.mark.root
@pytest.mark.parametrize("mode", ["auto", "freezer", "freezer-v1", "signal", "weight", "observe"])
def test_every_mode_runs_is_named_with_its_reason_and_leaves_nothing_behind(mode: str) -> None:
    refusal = mode_refusal(mode)
    if refusal is not None:
        pytest.skip(refusal)
    options = ["--run", f"1:{SPIN}", "--run", f"3:{SPIN}", "--cpus", "0", "--duration", "2s", "--quantum", "20ms"]
    document = alps(*options, "--mode", mode)
    assert_designed_form(document, [1, 3])
    assert document["mechanism"] == ("freezer" if mode == "auto" else mode)
    assert document["mechanism_reason"]
    assert document["cycles"] >= 1
    assert [principal["problem"] for principal in document["principals"]] == ["", ""]
    assert all(principal["cpu_s"] > 0 for principal in document["principals"])
    paused = [principal["paused_s"] for principal in document["principals"]]
    assert (paused == [0, 0]) == (mode in ("weight", "observe"))


@pytest.mark.root
@root
def test_weights_that_already_exist_are_moved_and_put_back() -> None:
    if weight_refusal() is not None:
        pytest.skip(str(weight_refusal()))
    with temporary_cgroup(weight_mount()) as one, temporary_cgroup(weight_mount()) as two:
        knobs = [next(c / name for name in ("cpu.weight", "cpu.shares") if (c / name).exists()) for c in (one, two)]
        knobs[1].write_text("333")
        with spinning(1, cgroup=one, cpu=0), spinning(2, cgroup=two, cpu=0):
            groups = ["--groups", f"1:cgroup:{one}", "--groups", f"4:cgroup:{two}"]
            document = alps(*groups, "--cpus", "0", "--duration", "700ms", "--mode", "weight")
        assert document["mechanism"] == "weight"
        assert [knob.read_text() for knob in knobs] == ["100\n" if knobs[0].name == "cpu.weight" else "1024\n", "333\n"]


@pytest.mark.root
@root
def test_cgroups_of_the_version_1_freezer_are_taken_and_left_as_they_were() -> None:
    if freezer_v1_refusal() is not None:
        pytest.skip(str(freezer_v1_refusal()))
    mount = v1_mount(FREEZER_V1)
    with temporary_cgroup(mount) as one, temporary_cgroup(mount) as two:
        with spinning(1, cgroup=one, cpu=0), spinning(1, cgroup=two, cpu=0):
            groups = ["--groups", f"1:cgroup:{one}", "--groups", f"1:cgroup:{two}"]
            document = alps(*groups, "--cpus", "0", "--duration", "400ms")
        assert document["mechanism"] == "freezer-v1"
        for cgroup in (one, two):
            assert (cgroup / "freezer.state").read_text() == "THAWED\n"


@pytest.mark.root
@pytest.mark.skipif(not can_become_nobody(), reason="needs root and setpriv")
def test_a_mode_that_is_not_possible_is_replaced_and_the_reason_said(tmp_path: Path) -> None:
    document = alps(
        "--run", f"1:{SPIN}", "--run", f"1:{SPIN}", "--cpus", "0", "--duration", "400ms", "--mode", "weight",
        prefix=as_nobody([]), XDG_RUNTIME_DIR=str(give_to_nobody(tmp_path / "runtime")),
    )  # fmt: skip
    assert document["mechanism"] == "signal"
    assert document["mechanism_reason"].startswith("weight is not possible: ")


@pytest.mark.root
@root
def test_processes_without_a_cgroup_of_their_own_are_paused_beside_weights_and_it_is_said() -> None:
    if weight_refusal() is not None:
        pytest.skip(str(weight_refusal()))
    with own_spinners() as (one, _, _):
        document = alps(
            "--run", f"1:{SPIN}", "--pids", f"1:{one}", "--cpus", "0", "--duration", "700ms", "--mode", "weight"
        )
    assert document["mechanism"] == "signal+weight"
    assert "signals for --pids" in document["mechanism_reason"]


@pytest.mark.quiet
@pytest.mark.parametrize("mechanism", [[], ["--signals"]])
def test_shares_come_out_roughly_right(mechanism: list[str]) -> None:
    document = alps("--run", f"1:{SPIN}", "--run", f"3:{SPIN}", "--cpus", "0", "--duration", "2s", *mechanism)
    assert document["principals"][0]["fraction"] == pytest.approx(0.25, rel=0.2)


@pytest.mark.parametrize("algorithm", ["default", "paper", "paper-unoptimized", "none"])
def test_every_algorithm_runs_the_cycles_asked_for_and_logs_each(algorithm: str, tmp_path: Path) -> None:
    log = tmp_path / "cycles.csv"
    document = alps(
        "--run", f"1:{SPIN}", "--run", f"2:{SPIN}", "--cpus", "0", "--cycles", "6", "--duration", "20s",
        "--algorithm", algorithm, "--cycle-log", str(log),
    )  # fmt: skip
    assert_designed_form(document, [1, 2])
    assert (document["algorithm"], document["cycles"]) == (algorithm, 6)
    assert document["wall_s"] < 15, "the cycles end it, not the duration"
    if algorithm == "none":
        assert document["mechanism"] == "observe"
        assert [principal["paused_s"] for principal in document["principals"]] == [0, 0]
    with log.open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["cycle", "end_ns", "p0", "p1"]
    numbers = [[int(field) for field in row] for row in rows]
    assert [row[0] for row in numbers] == list(range(6))
    assert [row[1] for row in numbers] == sorted({row[1] for row in numbers})
    for column, principal in enumerate(document["principals"], start=2):
        logged_s = sum(row[column] for row in numbers) / 1e9
        assert all(row[column] >= 0 for row in numbers)
        assert logged_s <= principal["cpu_s"] + 1e-6
        assert logged_s >= principal["cpu_s"] - 0.25, "what is not logged was used after the last cycle"


@contextlib.contextmanager
def own_spinners() -> Iterator[list[int]]:
    """Three processes that already run."""
    with spinning(3, cpu=0) as processes:
        yield [process.pid for process in processes]


def test_processes_that_already_run_are_taken_and_left_running() -> None:
    with own_spinners() as (one, two, three):
        document = alps(
            "--pids", f"1:{one}", "--pids", f"2:{two},{three}", "--cpus", "0", "--duration", "400ms", "--signals"
        )
        assert_designed_form(document, [1, 2])
        assert [principal["name"] for principal in document["principals"]] == [str(one), f"{two},{three}"]
        assert document["mechanism"] == "signal"
        assert not any(is_stopped(pid) for pid in (one, two, three))


@pytest.mark.root
@root
def test_cgroups_that_already_exist_are_taken_and_left_as_they_were() -> None:
    with temporary_cgroup() as one, temporary_cgroup() as two:
        with spinning(2, cgroup=one, cpu=0), spinning(1, cgroup=two, cpu=0) as (other,):
            document = alps(
                "--groups", f"1:cgroup:{one}", "--groups", f"1:cgroup:{two}", "--cpus", "0", "--duration", "400ms"
            )
            assert_designed_form(document, [1, 1])
            assert [principal["name"] for principal in document["principals"]] == [f"cgroup:{one}", f"cgroup:{two}"]
            assert document["mechanism"] == "freezer"
            assert (two / "cgroup.procs").read_text().split() == [str(other.pid)]
        for cgroup in (one, two):
            assert (cgroup / "cgroup.freeze").read_text() == "0\n"


@pytest.mark.root
@pytest.mark.skipif(not can_become_nobody(), reason="needs root and setpriv")
def test_without_privilege_it_works_by_signals_and_says_why(tmp_path: Path) -> None:
    document = alps(
        "--run", f"1:{SPIN}", "--run", f"1:{SPIN}", "--cpus", "0", "--duration", "400ms",
        prefix=as_nobody([]), XDG_RUNTIME_DIR=str(give_to_nobody(tmp_path / "runtime")),
    )  # fmt: skip
    assert_designed_form(document, [1, 1])
    assert document["mechanism"] == "signal"
    assert "ermission denied" in document["mechanism_reason"]
    assert document["loop_class"] != "fifo"
    assert not list((tmp_path / "runtime" / "utilctl").iterdir())


def test_the_table_names_every_command_and_the_mechanism() -> None:
    outcome = run("alps", "--run", f"1:{SPIN}", "--run", f"1:{SPIN} # b", "--cpus", "0", "--duration", "300ms")
    assert (outcome.code, outcome.stderr) == (0, "")
    assert outcome.stdout.count("50.00 %") >= 2
    assert f"{SPIN} # b" in outcome.stdout
    assert "cycles in" in outcome.stdout


@pytest.mark.parametrize("signals", [[], ["--signals"]])
def test_it_ends_early_when_every_command_has_ended(signals: list[str]) -> None:
    began = time.monotonic()
    document = alps("--run", "1:true", "--run", "2:sleep 0.2", "--duration", "60s", *signals)
    assert time.monotonic() - began < 30
    assert [principal["name"] for principal in document["principals"]] == ["true", "sleep 0.2"]
    assert {principal["problem"] for principal in document["principals"]} == {"ended"}


@pytest.mark.parametrize("signals", [[], ["--signals"]])
def test_a_command_that_ends_early_leaves_its_cpu_to_the_others(signals: list[str]) -> None:
    document = alps("--run", "9:true", "--run", f"1:{SPIN}", "--cpus", "0", "--duration", "800ms", *signals)
    ended, other = document["principals"]
    assert (ended["problem"], other["problem"]) == ("ended", "")
    assert other["fraction"] > 0.9


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("/no/such/program --now", "there is no program '/no/such/program'"),
        ("A=1 exec no-such-program", "there is no program 'no-such-program'"),
        ("echo 'unbalanced", "malformed"),
        ("# nothing", "runs nothing"),
    ],
)
def test_a_command_that_cannot_start_is_refused_before_anything_runs(command: str, says: str) -> None:
    outcome = run("alps", "--run", f"1:{SPIN}", "--run", f"1:{command}", "--cpus", "0", "--duration", "300ms")
    assert outcome.code == 2
    assert outcome.stderr.startswith("utilctl: error: ")
    assert outcome.stderr.count("\n") == 1
    assert says in outcome.stderr


def test_what_commands_print_never_mixes_with_the_json() -> None:
    outcome = run("alps", "--run", "1:echo from-the-command; sleep 0.1", "--duration", "5s", "-o", "json")
    assert (outcome.code, outcome.stderr) == (0, "from-the-command\n")
    json.loads(outcome.stdout)


@pytest.mark.parametrize(
    ("arguments", "code", "complaint"),
    [
        (["--run", "0:true"], 2, "share 0 is not positive"),
        (["--run", "-1:true"], 2, "share -1 is not positive"),
        (["--run", "nan:true"], 2, "not a finite number"),
        (["--run", "inf:true"], 2, "not a finite number"),
        (["--run", "1e308:true"], 2, "out of range"),
        (["--run", "much:true"], 2, "share 'much' is not a number"),
        (["--run", "true"], 2, "incomplete"),
        (["--run", "3:"], 2, "incomplete"),
        (["--run", "1:true", "--quantum", "0.5ms"], 2, "quantum of 0.5 ms is out of range; use 1ms to 10s"),
        (["--run", "1:true", "--quantum", "11s"], 2, "quantum of 11000 ms is out of range; use 1ms to 10s"),
        (["--run", "1:true", "--quantum", "10"], 2, "'10' is not a duration"),
        (["--run", "1:true", "--duration", "0s"], 2, "not positive"),
        (["--run", "1:true", "--cycles", "0"], 2, "--cycles"),
        (["--run", "1:true", "--cpus", "9999"], 2, "CPU 9999 is not available here; use some of"),
        (["--run", "1:true", "--cpus", "first"], 2, "is not a list of CPUs"),
        (["--run", "1:true", "--algorithm", "magic"], 2, "magic"),
        (["--run", "1:true", "--cycle-log", "/no/such/folder/log.csv"], 2, "/no/such/folder/log.csv cannot be written"),
        (["--pids", "1:4194304999"], 2, "there is no process 4194304999"),
        (["--pids", "1:self"], 2, "not a process id"),
        (["--pids", "1:0"], 2, "not a process id"),
        (["--groups", "1:/sys"], 2, "names no cgroup"),
        pytest.param(["--groups", "1:cgroup:/etc"], 2, "/etc is not a cgroup", marks=[pytest.mark.root, root]),
        (["--run", "1:true", "--signals", "--mode", "weight"], 2, "contradict each other; drop one of them"),
        (["--run", "1:true", "--mode", "weight", "--algorithm", "paper"], 2, "weights have an algorithm of their own"),
        (["--run", "1:true", "--mode", "force"], 2, "force"),
        ([], 2, "there is nothing to schedule; add --run SHARE:COMMAND"),
    ],
)
def test_bad_input_is_one_line_and_starts_nothing(arguments: list[str], code: int, complaint: str) -> None:
    outcome = run("alps", *arguments)
    assert (outcome.code, outcome.stdout) == (code, "")
    assert complaint in one_line(outcome)


def test_a_process_that_has_gone_is_refused_and_the_others_are_not_touched() -> None:
    with spinning(1) as (gone,):
        pass
    with spinning(1) as (running,):
        outcome = run("alps", "--pids", f"1:{running.pid}", "--pids", f"1:{gone.pid}", "--signals")
        assert outcome.code == 2
        assert one_line(outcome).startswith(f"there is no process {gone.pid};")
        assert not is_stopped(running.pid)


@pytest.mark.root
@pytest.mark.skipif(not can_become_nobody(), reason="needs root and setpriv")
def test_an_unusable_run_directory_is_one_line(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    outcome = run(
        "alps", "--run", "1:true", prefix=as_nobody([]), environment={"XDG_RUNTIME_DIR": str(tmp_path)}
    )  # fmt: skip
    assert outcome.code == 1
    assert f"{tmp_path}/utilctl cannot be used: Permission denied" in one_line(outcome)


@pytest.mark.parametrize(
    ("number", "signals"),
    [(signal.SIGINT, []), (signal.SIGINT, ["--signals"]), (signal.SIGTERM, []), (signal.SIGHUP, ["--signals"])],
)
def test_being_interrupted_leaves_no_process_cgroup_or_pause_behind(signals: list[str], number: signal.Signals) -> None:
    with spinning(1, cpu=0) as (taken,):
        arguments = ["--run", f"1:{SPIN}", "--run", f"9:({SPIN}) & wait", "--pids", f"1:{taken.pid}", "--cpus", "0"]
        with Command([*UTILCTL, "alps", *arguments, *signals, "--duration", "60s"]) as command:
            wait_until(lambda: is_stopped(taken.pid), "it is paused")
            command.process.send_signal(number)
            outcome = command.wait()
            assert (outcome.code, outcome.stderr) == (128 + number, "")
            command.assert_nothing_left()
        wait_until(lambda: not is_stopped(taken.pid), "what was there before goes on")


def test_being_interrupted_while_commands_are_started_leaves_none_behind() -> None:
    many = [option for number in range(30) for option in ("--run", f"1:sleep {600 + number}")]
    for started in (1, 8, 20):
        with Command([*UTILCTL, "alps", *many, "--signals", "--duration", "60s"]) as command:
            wait_until(lambda: len(command.processes()) > 2 + started, "some are started")  # noqa: B023 - called here
            command.process.send_signal(signal.SIGINT)
            assert command.wait().code == 130
            command.assert_nothing_left()


def test_an_impatient_second_ctrl_c_does_not_cut_the_clean_up_short() -> None:
    stubborn = "trap '' TERM; while :; do sleep 0.05; done"
    with Command([*UTILCTL, "alps", "--run", f"1:{stubborn}", "--run", f"1:{stubborn}", "--signals"]) as command:
        wait_until(lambda: len(command.processes()) >= 6, "both run")
        for _ in range(4):
            command.process.send_signal(signal.SIGINT)
            time.sleep(0.1)
        assert command.wait().code == 130
        command.assert_nothing_left()


def part(command: Command, module: str) -> int:
    """The pid of the process of ``command`` that runs that module, once there is one."""
    found: list[int] = []

    def runs() -> bool:
        for pid in command.processes():
            with contextlib.suppress(OSError):
                if module.encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                    found[:] = [pid]
        return bool(found)

    wait_until(runs, f"{module} runs")
    return found[0]


def test_a_scheduler_that_is_killed_is_one_line_and_nothing_stays_behind() -> None:
    with Command([*UTILCTL, "alps", "--run", f"1:{SPIN}", "--run", f"1:{SPIN}", "--cpus", "0"]) as command:
        os.kill(part(command, "utilctl_agent.loop"), signal.SIGKILL)
        outcome = command.wait()
        assert outcome.code == 1
        assert one_line(outcome) == "the scheduler loop ended unexpectedly; everything it paused was resumed"
        command.assert_nothing_left()


def test_a_scheduler_that_is_stopped_when_its_guard_dies_is_ended_also_if_nobody_is_paused() -> None:
    """Nobody is: there is one workload only. So nothing tells that the loop hangs."""
    with Command([*UTILCTL, "alps", "--run", f"1:{SPIN}", "--cpus", "0", "--cycle-log", "/dev/null"]) as command:
        loop, guard = part(command, "utilctl_agent.loop"), part(command, "utilctl_agent.safety.guard")
        # Its second thread watches the loop, which is ready then.
        threads = Path(f"/proc/{command.process.pid}/task")
        wait_until(lambda: len(list(threads.iterdir())) > 1, "the workload is under control")
        os.kill(loop, signal.SIGSTOP)
        os.kill(guard, signal.SIGKILL)
        outcome = command.wait()
        assert outcome.code == 1
        assert one_line(outcome) == "the scheduler loop ended unexpectedly; everything it paused was resumed"
        assert run("thaw", "--all").code == 0  # takes away the journal of a guard that was killed
        command.assert_nothing_left()


@root
def test_without_an_algorithm_nobody_is_weighed_on_several_cpus_either() -> None:
    document = alps(
        "--run", f"1:{SPIN}", "--run", f"9:{SPIN}", "--run", f"9:{SPIN}", "--cpus", "0-1", "--duration", "2s",
        "--algorithm", "none",
    )  # fmt: skip
    assert document["mechanism"] == "observe"
    assert document["principals"][0]["fraction"] > 0.2, "a third if nothing else runs, a nineteenth by shares"
