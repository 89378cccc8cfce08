"""Every command against a real controller process with a real store, and hosts whose reports are scripted."""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import grpc
import pytest

from utilctl_proto.v1 import agent_pb2, agent_pb2_grpc

Run = Callable[..., subprocess.CompletedProcess[str]]

REPORT_INTERVAL_S: Final = 0.1


@pytest.fixture(scope="module")
def controller(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A controller process; its address."""
    store = tmp_path_factory.mktemp("cli-controller") / "policies.db"
    with subprocess.Popen(
        [sys.executable, "-m", "utilctl_controller.main", "--listen", "127.0.0.1:0", "--store", f"sqlite:{store}",
         "--report-interval", f"{REPORT_INTERVAL_S * 1000:g}ms"],
        stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        try:
            assert process.stdout is not None
            words = process.stdout.readline().split()
            assert words[:3] == ["utilctl-controller", "listening", "on"]
            yield words[3]
        finally:
            process.terminate()
            try:
                process.wait(10)
            finally:
                process.kill()


@pytest.fixture
def ask(utilctl: Run, controller: str) -> Run:
    """Run the command line in this process against the controller."""
    return lambda *arguments: utilctl(*arguments, "--controller", controller)


def document(ran: subprocess.CompletedProcess[str]) -> Any:
    assert (ran.returncode, ran.stderr) == (0, "")
    return json.loads(ran.stdout)


class ScriptedHost:
    """An agent's side of a session: says hello, repeats one report, applies every target set at once."""

    def __init__(self, address: str, host: str, demand_cores: dict[str, float]) -> None:
        self._outgoing: queue.SimpleQueue[agent_pb2.ConnectRequest | None] = queue.SimpleQueue()
        self._host = host
        self._demand_cores = demand_cores
        self._stop = threading.Event()
        self._channel = grpc.insecure_channel(address)
        self._threads = [threading.Thread(target=self._report), threading.Thread(target=self._receive)]
        hello = agent_pb2.Hello(
            host=host, capacity_cores=1, agent_version="0.1.0", instance_id=f"{host}-1", mechanism="signal"
        )
        self._outgoing.put(agent_pb2.ConnectRequest(hello=hello))
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        self._stop.set()
        self._outgoing.put(None)
        self._channel.close()
        for thread in self._threads:
            thread.join(10)

    def _report(self) -> None:
        interval_ns = round(REPORT_INTERVAL_S * 1e9)
        sequence = 0
        while not self._stop.wait(REPORT_INTERVAL_S):
            sequence += 1
            sees = [
                agent_pb2.SeeReport(
                    see=see, demand_cores=cores, consumption_cores=min(cores, 0.5), processes=2,
                    consumed_total_ns=sequence * interval_ns // 2,
                )
                for see, cores in self._demand_cores.items()
            ]  # fmt: skip
            report = agent_pb2.Report(sequence=sequence, interval_ns=interval_ns, capacity_cores=1, sees=sees)
            self._outgoing.put(agent_pb2.ConnectRequest(report=report))

    def _receive(self) -> None:
        stub = agent_pb2_grpc.AgentSessionServiceStub(self._channel)
        try:
            for response in stub.Connect(iter(self._outgoing.get, None)):
                if response.HasField("targets"):
                    applied = agent_pb2.Applied(
                        epoch=response.targets.epoch, generation=response.targets.generation, first_cycle_done=True
                    )
                    self._outgoing.put(agent_pb2.ConnectRequest(applied=applied))
        except grpc.RpcError:
            return  # the channel was closed


@pytest.fixture
def hosts(controller: str, ask: Run) -> Iterator[None]:
    """The design's worked example: web only on a, etl only on b, batch on both, shares 3:1:2, all busy."""
    shares = {"svc=web": "3", "svc=etl": "1", "svc=batch": "2"}
    for see, share in shares.items():
        assert ask("set-share", see, share).returncode == 0
    both = [
        ScriptedHost(controller, "host-a", {"svc=web": 1.0, "svc=batch": 1.0}),
        ScriptedHost(controller, "host-b", {"svc=etl": 1.0, "svc=batch": 1.0}),
    ]
    try:
        yield
    finally:
        for host in both:
            host.close()
        for see in shares:
            ask("delete", see)


def until(get: Callable[[], Any], fits: Callable[[Any], bool]) -> Any:
    """Ask until the answer fits; the last answer if it never does within a minute."""
    give_up = time.monotonic() + 60
    while True:
        answer = get()
        if fits(answer) or time.monotonic() > give_up:
            return answer
        time.sleep(0.05)


def test_a_share_that_was_set_is_there_with_who_when_and_why(ask: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UTILCTL_USER", "alice@ops")
    options = ("--floor", "0.5", "--cap", "4", "--match", "user=a,command=b", "--match", "unit=c", "--mode", "signal")
    written = document(ask("set-share", "svc=set", "3", *options, "--reason", "größer", "-o", "json"))
    assert (written["see"], written["changed"], written["dry_run"], written["previous"]) == (
        "svc=set", True, False, None,
    )  # fmt: skip
    record = written["record"]
    policy = {
        "see": "svc=set", "share": 3.0, "floor_cores": 0.5, "cap_cores": 4.0, "mode": "signal",
        "match": [{"command": "b", "user": "a"}, {"unit": "c"}], "held_until_at": None, "held_until_unix_ns": None,
    }  # fmt: skip
    assert record | policy == record
    assert (record["version"], record["changed_by"], record["reason"]) == (1, "alice@ops", "größer")
    assert len(written["trace_id"]) == 32

    stored = document(ask("get", "share", "svc=set", "-o", "json"))
    assert stored | record == stored
    listed = document(ask("get", "services", "-o", "json"))
    assert stored.pop("controller")["store_available"] is True
    assert stored in listed["services"]
    assert listed["controller"]["store_available"] is True
    assert document(ask("history", "svc=set", "-o", "json"))["entries"][0]["new"] == policy


def test_what_is_not_named_keeps_its_stored_value(ask: Run) -> None:
    assert ask("set-share", "svc=keep", "3", "--cap", "4", "--floor", "1").returncode == 0
    kept = document(ask("set-share", "svc=keep", "5", "-o", "json"))["record"]
    assert (kept["share"], kept["cap_cores"], kept["floor_cores"]) == (5, 4, 1)
    uncapped = document(ask("set-share", "svc=keep", "--cap", "none", "-o", "json"))["record"]
    assert (uncapped["share"], uncapped["cap_cores"], uncapped["floor_cores"]) == (5, None, 1)


def test_a_dry_run_stores_nothing(ask: Run) -> None:
    ran = ask("set-share", "svc=dry", "3", "--dry-run")
    assert (ran.returncode, ran.stdout) == (0, "dry run, nothing stored: svc=dry created: share 3\n")
    assert ask("get", "share", "svc=dry").returncode == 1


def test_setting_the_same_again_changes_nothing(ask: Run) -> None:
    assert ask("set-share", "svc=same", "3").stdout == "svc=same created: share 3 (version 1)\n"
    assert ask("set-share", "svc=same", "3").stdout == "svc=same unchanged: share 3 (version 1)\n"
    assert ask("set-share", "svc=same", "4").stdout == "svc=same share 3 -> 4 (version 2)\n"


@pytest.mark.parametrize("command", [("set-share", "svc=race", "9"), ("delete", "svc=race")])
def test_a_stale_version_is_a_conflict_and_changes_nothing(ask: Run, command: tuple[str, ...]) -> None:
    ask("set-share", "svc=race", "3")
    before = document(ask("get", "share", "svc=race", "-o", "json"))
    ran = ask(*command, "--if-version", str(before["version"] + 1), "-o", "json")
    assert (ran.returncode, ran.stdout) == (4, "")
    assert ran.stderr.startswith("utilctl: error: svc=race is at version")
    assert ran.stderr.count("\n") == 1
    assert document(ask("get", "share", "svc=race", "-o", "json"))["version"] == before["version"]


def test_version_0_refuses_a_service_that_exists(ask: Run) -> None:
    assert ask("set-share", "svc=new", "3", "--if-version", "0").returncode == 0
    assert ask("set-share", "svc=new", "3", "--if-version", "0").returncode == 4


@pytest.mark.parametrize("command", [("get", "share"), ("explain",), ("history",), ("delete",)])
def test_an_unknown_service_fails_and_near_names_are_suggested(ask: Run, command: tuple[str, ...]) -> None:
    ask("set-share", "svc=frontend", "3")
    ran = ask(*command, "svc=frontent", "-o", "json")
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr.startswith("utilctl: error: no service svc=frontent; did you mean svc=frontend")
    assert ran.stderr.count("\n") == 1


def test_a_floor_above_the_stored_cap_is_a_usage_error(ask: Run) -> None:
    ask("set-share", "svc=capped", "3", "--cap", "1")
    ran = ask("set-share", "svc=capped", "--floor", "2")
    assert ran.returncode == 2
    assert "floor 2 of svc=capped is above its cap 1" in ran.stderr
    assert ran.stderr.count("\n") == 1


def test_a_new_service_needs_a_share(ask: Run) -> None:
    ran = ask("set-share", "svc=bare", "--cap", "1")
    assert ran.returncode == 2
    assert "share" in ran.stderr


def test_a_deleted_service_is_gone_and_keeps_its_history(ask: Run) -> None:
    ask("set-share", "svc=gone", "3", "--cap", "2")
    assert ask("delete", "svc=gone", "--dry-run").stdout.startswith("dry run, nothing deleted: svc=gone")
    gone = document(ask("delete", "svc=gone", "--reason", "moved", "-o", "json"))
    assert (gone["see"], gone["dry_run"], gone["previous"]["cap_cores"]) == ("svc=gone", False, 2)
    assert ask("get", "share", "svc=gone").returncode == 1
    newest, oldest = document(ask("history", "svc=gone", "-o", "json"))["entries"]
    assert (newest["new"], newest["reason"], oldest["old"]) == (None, "moved", None)
    assert newest["old"] == oldest["new"]


def test_history_gives_the_newest_changes_first_and_no_more_than_asked_for(ask: Run) -> None:
    for share in ("1", "2", "3"):
        ask("set-share", "svc=often", share)
    entries = document(ask("history", "svc=often", "--limit", "2", "-o", "json"))["entries"]
    assert [(entry["old"]["share"], entry["new"]["share"]) for entry in entries] == [(2, 3), (1, 2)]
    assert "share 2 -> 3" in ask("history", "--limit", "1").stdout


FILE = """\
services:
  - name: file=a
    share: 3
    cap: 2
    match: [{user: www-data}]
    children: [{name: class=gold, share: 2}]
  - {name: file=b, share: 1}
"""


@pytest.fixture
def policy_file(tmp_path: Path) -> Path:
    """Three services."""
    path = tmp_path / "policy.yaml"
    path.write_text(FILE)
    return path


@pytest.fixture
def emptied(ask: Run) -> None:
    """No service is stored."""
    for record in document(ask("export", "-o", "json"))["services"]:
        assert ask("delete", record["see"]).returncode == 0


@pytest.mark.usefixtures("emptied")
def test_a_file_is_diffed_applied_and_exported_and_the_export_changes_nothing(
    ask: Run, policy_file: Path, tmp_path: Path
) -> None:
    assert ask("set-share", "file=a", "1").returncode == 0
    would = ask("diff", "-f", str(policy_file))
    assert would.stdout.splitlines()[:3] == [
        "~ file=a share 1 -> 3, cap none -> 2, match its label -> user=www-data",
        "+ file=a/class=gold created: share 2",
        "+ file=b created: share 1",
    ]
    assert "dry run, nothing stored: 3 changes, 0 unchanged" in would.stdout
    assert ask("diff", "-f", str(policy_file), "--exit-code").returncode == 1
    assert len(document(ask("export", "-o", "json"))["services"]) == 1
    applied = document(ask("apply", "-f", str(policy_file), "--reason", "file", "-o", "json"))
    assert (applied["changed"], applied["unchanged"], applied["unnamed"]) == (True, 0, [])
    assert [change["action"] for change in applied["changes"]] == ["update", "create", "create"]
    exported = tmp_path / "exported.yaml"
    exported.write_text(ask("export").stdout)
    again = document(ask("apply", "-f", str(exported), "--prune", "-o", "json"))
    assert (again["changed"], again["changes"], again["unchanged"]) == (False, [], 3)
    assert ask("diff", "-f", str(exported), "--exit-code").returncode == 0
    assert {entry["reason"] for entry in document(ask("history", "-n", "3", "-o", "json"))["entries"]} == {"file"}


@pytest.mark.usefixtures("emptied")
def test_prune_deletes_and_without_it_what_is_not_named_is_named_as_left_alone(ask: Run, policy_file: Path) -> None:
    assert ask("set-share", "file=old", "1").returncode == 0
    left = ask("apply", "-f", str(policy_file))
    assert "not in the file, left alone: file=old; --prune deletes them" in left.stdout
    assert "- file=old deleted: share 1" in ask("apply", "-f", str(policy_file), "--prune").stdout
    assert ask("get", "share", "file=old").returncode == 1


@pytest.mark.usefixtures("emptied")
def test_a_file_for_a_revision_that_is_past_is_a_conflict(ask: Run, policy_file: Path) -> None:
    revision = str(document(ask("diff", "-f", str(policy_file), "-o", "json"))["revision"])
    assert ask("set-share", "file=else", "1").returncode == 0
    ran = ask("apply", "-f", str(policy_file), "--if-version", revision)
    assert (ran.returncode, ran.stdout, ran.stderr.count("\n")) == (4, "", 1)
    assert [record["see"] for record in document(ask("export", "-o", "json"))["services"]] == ["file=else"]


@pytest.mark.usefixtures("emptied")
@pytest.mark.parametrize("command", ["apply", "diff"])
def test_a_bad_file_is_a_usage_error_with_its_line_and_stores_nothing(
    ask: Run, policy_file: Path, command: str
) -> None:
    policy_file.write_text(FILE.replace("cap: 2", "cpa: 2"))
    ran = ask(command, "-f", str(policy_file))
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr == f"utilctl: error: {policy_file}:4: services.0.cpa: unknown key\n"
    assert document(ask("export", "-o", "json"))["services"] == []


def settled(ask: Run) -> None:
    """Wait for both hosts to be connected and the decision to count them."""
    explained = until(
        lambda: document(ask("explain", "svc=web", "-o", "json")), lambda told: told["entitlement_cores"] > 0.9
    )
    assert explained["entitlement_cores"] > 0.9
    connected = until(
        lambda: document(ask("get", "hosts", "-o", "json"))["hosts"],
        lambda told: sum(host["connected"] for host in told) == 2,
    )
    assert sum(host["connected"] for host in connected) == 2


@pytest.mark.usefixtures("hosts")
def test_a_service_is_held_and_released(ask: Run) -> None:
    settled(ask)
    held = ask("hold", "svc=web", "--for", "1h", "--reason", "test")
    assert held.returncode == 0
    assert held.stdout.startswith("svc=web held until ")
    told = until(
        lambda: document(ask("explain", "svc=web", "-o", "json")), lambda told: told["binding_constraint"] == "hold"
    )
    assert told["sentence"].startswith("svc=web is held at 1.00 cores, all of host-a, until ")
    assert "held until" in " ".join(ask("get", "share", "svc=web").stdout.split())
    assert ask("release", "svc=web").stdout == "svc=web released\n"
    assert ask("release", "svc=web").stdout == "svc=web was not held\n"
    for arguments in (("--for", "0s"), ("--for", "1"), ("--for", "400d"), ()):
        assert ask("hold", "svc=web", *arguments).returncode == 2
    assert ask("hold", "svc=web", "--for", "1h", "--if-version", "999").returncode == 4


@pytest.mark.usefixtures("hosts")
def test_the_fleet_is_disabled_and_enabled(ask: Run) -> None:
    settled(ask)
    assert ask("disable", "--reason", "incident").stdout == (
        "shares are disabled: nobody is held back; 2 connected hosts told\n"
    )
    assert ask("disable").stdout == "shares are already disabled: nobody is held back\n"
    for command in (("get", "services"), ("get", "hosts"), ("get", "share", "svc=web"), ("explain", "svc=web")):
        assert "shares are disabled on the whole fleet" in " ".join(ask(*command).stdout.split())
    assert document(ask("get", "services", "-o", "json"))["controller"]["fleet_switch"]["reason"] == "incident"
    assert ask("enable").stdout == "shares are enabled; 2 connected hosts told\n"
    assert "disabled" not in ask("get", "services").stdout
    assert "shares enabled" in ask("history", "-n", "1").stdout


def test_history_since_leaves_out_what_is_older(ask: Run) -> None:
    assert ask("set-share", "since=a", "1").returncode == 0
    between = document(ask("get", "share", "since=a", "-o", "json"))["changed_at"]
    assert ask("set-share", "since=a", "2").returncode == 0
    newest = document(ask("history", "since=a", "--since", "1h", "-o", "json"))["entries"]
    assert len(newest) == 2
    assert len(document(ask("history", "since=a", "--since", between, "-o", "json"))["entries"]) in (1, 2)
    assert document(ask("history", "since=a", "--since", "2100-01-01", "-o", "json"))["entries"] == []
    assert ask("history", "--since", "yesterday").returncode == 2


@pytest.mark.usefixtures("hosts")
def test_explain_tells_the_worked_example_in_total_and_per_host(ask: Run) -> None:
    def batch() -> Any:
        return document(ask("explain", "svc=batch", "-o", "json"))

    told = until(batch, lambda answer: abs(answer["entitlement_cores"] - 2 / 3) < 0.01)
    assert told["entitlement_cores"] == pytest.approx(2 / 3, abs=0.01)
    per_host = {row["host"]: row["entitlement_cores"] for row in told["per_host"]}
    assert per_host == pytest.approx({"host-a": 0.0, "host-b": 2 / 3}, abs=0.01)
    assert told["share"] == 2
    assert told["demand_cores"] == pytest.approx(2.0, abs=0.01)
    assert told["consumption_cores"] == pytest.approx(1.0, abs=0.01)
    assert told["decided_at"]
    assert len(told["trace_id"]) == 32
    assert told["sentence"].startswith("svc=batch gets 0.67 of 2.00 cores")
    assert told["binding_constraint"].startswith("capacity of ")

    text = ask("explain", "svc=batch", "--host", "host-b").stdout
    assert "svc=batch gets" in text.splitlines()[0]
    assert "host-a" not in text.partition("HOST ")[2]
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.usefixtures("hosts")
def test_an_unknown_host_fails_and_near_names_are_suggested(ask: Run) -> None:
    listed = until(lambda: document(ask("get", "hosts", "-o", "json")), lambda answer: len(answer["hosts"]) == 2)
    assert [host["host"] for host in listed["hosts"]] == ["host-a", "host-b"]
    ran = ask("explain", "svc=batch", "--host", "host-c")
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr.startswith("utilctl: error: no host host-c; did you mean ")


@pytest.mark.usefixtures("hosts")
def test_hosts_are_listed_with_their_state(ask: Run) -> None:
    def hosts_now() -> Any:
        return document(ask("get", "hosts", "-o", "json"))["hosts"]

    def are_up(rows: Any) -> bool:
        return len(rows) == 2 and all(row["connected"] and row["sees"] and row["applied_generation"] for row in rows)

    listed = until(hosts_now, are_up)
    assert are_up(listed)
    for row in listed:
        assert (row["capacity_cores"], row["mechanism"], row["sees"]) == (1, "signal", 2)
        assert 0 < row["applied_generation"] <= row["pushed_generation"]
    assert "host-a  up" in ask("get", "hosts").stdout


def test_the_program_itself_talks_to_the_controller_named_by_the_environment(
    utilctl_process: Run, controller: str, tmp_path: Path
) -> None:
    environment = {"UTILCTL_CONTROLLER": controller, "HOME": str(tmp_path)}
    assert utilctl_process("set-share", "svc=process", "2", **environment).stdout.startswith("svc=process created")
    listed = utilctl_process("get", "services", **environment)
    assert listed.stderr == ""
    assert any(line.split()[:2] == ["svc=process", "2"] for line in listed.stdout.splitlines())


def test_a_policy_file_may_come_from_standard_input(controller: str, tmp_path: Path) -> None:
    def apply(text: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "utilctl_cli.main", "apply", "-f", "-", "--controller", controller],
            input=text, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip

    assert apply("services: [{name: stdin=a, share: 2}]").stdout.startswith("+ stdin=a created: share 2\n")
    refused = apply("services: [{name: stdin=a, share: none}]")
    assert refused.returncode == 2
    assert refused.stderr.startswith("utilctl: error: standard input:1: services.0.share: ")
