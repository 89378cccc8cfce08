"""The node's pods as the API tells of them, over real HTTP: what changes, and everything that goes wrong meanwhile."""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from support.pod_api import PodServer, certificate
from utilctl_agent.discovery.facts import CgroupPath
from utilctl_agent.kubernetes import credentials
from utilctl_agent.kubernetes import watch as watch_module
from utilctl_agent.kubernetes.api import KubernetesPods
from utilctl_agent.kubernetes.credentials import from_kubeconfig
from utilctl_agent.kubernetes.pod_labels import PodLabels
from utilctl_agent.kubernetes.watch import PodWatch
from utilctl_common.errors import UsageError

UIDS = [f"{number:08x}-b29f-11e7-9350-020968147796" for number in range(1, 1200)]
WAIT_S = 20.0


@pytest.fixture
def server(tmp_path: Path) -> Iterator[PodServer]:
    with PodServer(tmp_path) as running:
        yield running


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A real outage may last; a test's need not."""
    monkeypatch.setattr(watch_module, "FIRST_RETRY_S", 0.05)
    monkeypatch.setattr(watch_module, "LAST_RETRY_S", 0.2)


class Following:
    """A watch that runs, what it knows, and how often it said that something changed."""

    def __init__(self, server: PodServer, folder: Path, node: str = "n") -> None:
        self.labels = PodLabels()
        self.changes = 0
        self.cache = folder / "pods.json"
        self.watch = PodWatch(
            KubernetesPods(node, from_kubeconfig(server.kubeconfig)), self.labels, self.cache, self._count
        )

    def _count(self) -> None:
        self.changes += 1

    def known(self) -> dict[str, dict[str, str]]:
        return {pod.name: dict(pod.labels) for pod in self.labels.pods()}

    async def until(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + WAIT_S
        while not condition():
            assert time.monotonic() < deadline, f"never: {what}; {self.known()}"
            await asyncio.sleep(0.01)


def follow(
    server: PodServer, folder: Path, script: Callable[[Following], Awaitable[None]], node: str = "n"
) -> Following:
    """Run ``script`` beside a watch."""

    async def both() -> Following:
        following = Following(server, folder, node)
        task = asyncio.create_task(following.watch.run())
        try:
            await script(following)
            assert not task.done()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        return following

    return asyncio.run(both())


def test_pods_of_the_node_come_change_and_go_and_no_others_are_asked_for(server: PodServer, tmp_path: Path) -> None:
    server.put(UIDS[0], "web-0", {"svc": "web"})
    server.put(UIDS[1], "elsewhere", {"svc": "web"}, node="other")

    async def script(following: Following) -> None:
        await following.until(lambda: following.known() == {"web-0": {"svc": "web"}}, "the list")
        server.put(UIDS[2], "etl-0", {"svc": "etl"})
        await following.until(lambda: "etl-0" in following.known(), "a new pod")
        server.put(UIDS[0], "web-0", {"svc": "shop"})
        await following.until(lambda: following.known()["web-0"] == {"svc": "shop"}, "a changed label")
        server.delete(UIDS[2])
        await following.until(lambda: "etl-0" not in following.known(), "a pod that is gone")
        server.put(UIDS[3], "elsewhere-2", {"svc": "web"}, node="other")
        server.put(UIDS[4], "last", {})
        await following.until(lambda: "last" in following.known(), "the last")
        assert set(following.known()) == {"web-0", "last"}

    following = follow(server, tmp_path, script)
    assert following.changes == 5
    assert all("fieldSelector=spec.nodeName%3Dn%2C" in request for request in server.requests)


@pytest.mark.parametrize("phase", ["Succeeded", "Failed"])
def test_a_pod_that_has_ended_is_none_although_it_is_kept(server: PodServer, tmp_path: Path, phase: str) -> None:
    for uid, name in zip(UIDS, ["early", "late", "web"], strict=False):
        server.put(uid, name, {"svc": "web"})
    server.end(UIDS[0], phase)

    async def script(following: Following) -> None:
        await following.until(lambda: set(following.known()) == {"late", "web"}, "the list")
        await following.until(lambda: server.watches == 1, "a watch")
        server.end(UIDS[1], phase)
        await following.until(lambda: set(following.known()) == {"web"}, "it has ended")

    follow(server, tmp_path, script)


def test_hundreds_of_pods_are_one_list_from_the_servers_cache_of_metadata_alone(
    server: PodServer, tmp_path: Path
) -> None:
    for number, uid in enumerate(UIDS):
        server.put(uid, f"p-{number}", {"svc": "web"})

    async def script(following: Following) -> None:
        await following.until(lambda: len(following.known()) == len(UIDS), "all of them")
        await following.until(lambda: server.watches == 1, "a watch")

    follow(server, tmp_path, script)
    listing, watching = server.requests
    assert "resourceVersion=0" in listing
    assert "limit=" not in listing
    assert "allowWatchBookmarks=true" in watching
    assert "timeoutSeconds=" in watching
    assert all(accepted.startswith("application/json;as=PartialObjectMetadata") for accepted in server.accepted)


def test_a_server_that_answers_in_pages_by_itself_is_listened_to_until_the_last(
    server: PodServer, tmp_path: Path
) -> None:
    for number, uid in enumerate(UIDS):
        server.put(uid, f"p-{number}", {"svc": "web"})
    server.page(500)

    async def script(following: Following) -> None:
        await following.until(lambda: len(following.known()) == len(UIDS), "all of them")

    follow(server, tmp_path, script)
    assert sum("continue=" in request for request in server.requests) == 2


def test_a_server_that_has_not_seen_the_version_is_asked_for_its_newest(server: PodServer, tmp_path: Path) -> None:
    server.put(UIDS[0], "web-0", {"svc": "web"})

    async def script(following: Following) -> None:
        await following.until(lambda: bool(following.known()) and server.watches == 1, "the list")
        server.restore(50)
        server.cut_watches()
        await following.until(lambda: following.watch.restarts > 0, "it is noticed")
        server.put(UIDS[1], "etl-0", {"svc": "etl"})
        await following.until(lambda: set(following.known()) == {"web-0", "etl-0"}, "it goes on")

    follow(server, tmp_path, script)


def test_a_list_after_trouble_is_never_older_than_what_was_known(server: PodServer, tmp_path: Path) -> None:
    server.put(UIDS[0], "web-0", {"svc": "web"})

    async def script(following: Following) -> None:
        await following.until(lambda: server.watches == 1, "a watch")
        server.cut_watches()
        await following.until(lambda: following.watch.restarts > 0 and server.watches == 1, "another one")

    follow(server, tmp_path, script)
    lists = [request for request in server.requests if "watch=" not in request]
    assert ["resourceVersion=0" in lists[0], "resourceVersion=101" in lists[-1]] == [True, True]


def test_watches_that_the_server_ends_go_on_from_the_newest_bookmark_without_a_list(
    server: PodServer, tmp_path: Path
) -> None:
    server.put(UIDS[0], "web-0", {"svc": "web"})
    server.end_watches_after(1.1)

    async def script(following: Following) -> None:
        await following.until(lambda: server.watches == 1, "a watch")
        server.bookmark()
        await following.until(lambda: any("resourceVersion=102" in one for one in server.requests), "the next watch")
        server.put(UIDS[1], "etl-0", {"svc": "etl"})
        await following.until(lambda: "etl-0" in following.known(), "what comes after it")
        assert following.watch.restarts == 0

    follow(server, tmp_path, script)
    assert sum("watch=" not in request for request in server.requests) == 1


def test_a_server_that_ends_watches_at_once_is_asked_ever_less_often(
    server: PodServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server.put(UIDS[0], "web-0", {"svc": "web"})
    server.end_watches_after(0.0)

    async def script(following: Following) -> None:
        await following.until(lambda: following.watch.restarts > 3, "it is tried again")

    follow(server, tmp_path, script)
    assert "ends watches at once" in caplog.text


def test_after_410_gone_all_are_listed_anew(server: PodServer, tmp_path: Path) -> None:
    server.put(UIDS[0], "web-0", {"svc": "web"})

    async def script(following: Following) -> None:
        await following.until(lambda: bool(following.known()) and server.watches == 1, "the list")
        server.compact()
        await following.until(lambda: following.watch.restarts > 0, "the version is gone")
        server.put(UIDS[1], "etl-0", {"svc": "etl"})
        server.delete(UIDS[0])
        await following.until(lambda: set(following.known()) == {"etl-0"}, "what changed meanwhile")

    follow(server, tmp_path, script)


def test_bookmarks_move_the_version_on_so_that_a_cut_needs_no_new_list(server: PodServer, tmp_path: Path) -> None:
    server.put(UIDS[0], "web-0", {"svc": "web"})

    async def script(following: Following) -> None:
        await following.until(lambda: bool(following.known()) and server.watches == 1, "the list")
        server.bookmark()
        await asyncio.sleep(0.1)
        server.put(UIDS[1], "etl-0", {"svc": "etl"})
        await following.until(lambda: "etl-0" in following.known(), "what comes after a bookmark")
        assert set(following.known()) == {"web-0", "etl-0"}

    follow(server, tmp_path, script)


def test_connections_that_are_cut_lose_nothing(server: PodServer, tmp_path: Path) -> None:
    server.put(UIDS[0], "web-0", {"svc": "web"})

    async def script(following: Following) -> None:
        await following.until(lambda: server.watches == 1, "a watch")
        for number in range(1, 6):
            server.cut_watches()
            server.put(UIDS[number], f"p-{number}", {"svc": "web"})
            await following.until(lambda number=number: f"p-{number}" in following.known(), "what came in the gap")  # type: ignore[misc]

    follow(server, tmp_path, script)


def test_while_the_api_is_away_what_was_known_holds(server: PodServer, tmp_path: Path) -> None:
    server.put(UIDS[0], "web-0", {"svc": "web"})

    async def script(following: Following) -> None:
        await following.until(lambda: bool(following.known()), "the list")
        await asyncio.to_thread(server.stop)
        await following.until(lambda: following.watch.restarts > 2, "that it is away is noticed")
        assert following.known() == {"web-0": {"svc": "web"}}
        server.delete(UIDS[0])
        server.put(UIDS[1], "etl-0", {"svc": "etl"})
        server.start()
        await following.until(lambda: set(following.known()) == {"etl-0"}, "what changed meanwhile")

    follow(server, tmp_path, script)


@pytest.mark.parametrize("code", [401, 403, 429, 500, 503])
def test_refusals_are_told_once_and_tried_again(
    server: PodServer, tmp_path: Path, caplog: pytest.LogCaptureFixture, code: int
) -> None:
    server.put(UIDS[0], "web-0", {"svc": "web"})
    server.refuse(code)

    async def script(following: Following) -> None:
        await following.until(lambda: following.watch.restarts > 3, "it is tried again")
        assert not following.watch.synced
        server.refuse(0)
        await following.until(lambda: bool(following.known()), "the list")

    follow(server, tmp_path, script)
    told = [record.getMessage() for record in caplog.records if "labels stay as they were" in record.getMessage()]
    assert len(told) == 1
    assert ("get, list and watch pods" in told[0]) == (code in (401, 403))


@pytest.mark.parametrize(
    "garbage",
    [b"{", b"null", b"[]", b'{"type": "ADDED"}', b'{"type": "ADDED", "object": 7}', b"\xff\xfe", b'{"object": {}}'],
)
def test_lines_that_make_no_sense_end_in_a_new_list(server: PodServer, tmp_path: Path, garbage: bytes) -> None:
    server.put(UIDS[0], "web-0", {"svc": "web"})

    async def script(following: Following) -> None:
        await following.until(lambda: server.watches == 1, "a watch")
        server.say(garbage)
        await following.until(lambda: following.watch.restarts > 0, "it is noticed")
        server.put(UIDS[1], "etl-0", {"svc": "etl"})
        await following.until(lambda: set(following.known()) == {"web-0", "etl-0"}, "it goes on")

    follow(server, tmp_path, script)


def test_slow_answers_are_waited_for_and_hold_up_nothing_else(server: PodServer, tmp_path: Path) -> None:
    server.put(UIDS[0], "web-0", {"svc": "web"})
    server.slow_down(0.5)

    async def script(following: Following) -> None:
        ticks = 0
        while not following.known():
            ticks += 1
            await asyncio.sleep(0.01)
        assert ticks > 20, "the event loop was held up"

    follow(server, tmp_path, script)


TLS = pytest.mark.skipif(shutil.which("openssl") is None, reason="there is no openssl here to make a certificate with")


@TLS
def test_a_token_that_has_been_rotated_is_read_anew_over_tls(tmp_path: Path) -> None:
    with PodServer(tmp_path, tls=certificate(tmp_path), token="first") as server:
        server.put(UIDS[0], "web-0", {"svc": "web"})

        async def script(following: Following) -> None:
            await following.until(lambda: server.watches == 1, "a watch")
            server.rotate_token("second")
            server.cut_watches()
            server.put(UIDS[1], "etl-0", {"svc": "etl"})
            await following.until(lambda: "etl-0" in following.known(), "it goes on with the new one")

        follow(server, tmp_path, script)


@TLS
def test_a_pods_service_account_is_what_is_used_where_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = tmp_path / "serviceaccount"
    account.mkdir()
    monkeypatch.setattr(credentials, "SERVICE_ACCOUNT", account)
    paths = certificate(tmp_path)
    shutil.copy(paths[0], account / "ca.crt")
    (account / "token").write_text("secret\n")
    with PodServer(tmp_path, tls=paths, token="secret") as server:
        server.put(UIDS[0], "web-0", {"svc": "web"})
        address = urlsplit(server.url)
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", str(address.hostname))
        monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(address.port))

        async def listed() -> int:
            return len((await KubernetesPods("n").list("0"))[0])

        assert asyncio.run(listed()) == 1


@TLS
def test_an_authority_that_has_been_replaced_is_read_anew(tmp_path: Path) -> None:
    folders = tmp_path / "own", tmp_path / "other"
    for folder in folders:
        folder.mkdir()
        certificate(folder)
    trusted = tmp_path / "ca.pem"
    shutil.copy(folders[1] / "cert.pem", trusted)
    with PodServer(tmp_path, tls=(folders[0] / "cert.pem", folders[0] / "key.pem")) as server:
        server.put(UIDS[0], "web-0", {"svc": "web"})
        text = server.kubeconfig.read_text()
        server.kubeconfig.write_text(text.replace(str(folders[0] / "cert.pem"), str(trusted)))

        async def script(following: Following) -> None:
            await following.until(lambda: following.watch.restarts > 1, "it is refused")
            shutil.copy(folders[0] / "cert.pem", trusted)
            await following.until(lambda: bool(following.known()), "it is believed")

        follow(server, tmp_path, script)


@TLS
def test_a_server_with_another_certificate_is_not_believed(tmp_path: Path) -> None:
    folders = tmp_path / "own", tmp_path / "other"
    for folder in folders:
        folder.mkdir()
    certificate(folders[1])
    with PodServer(tmp_path, tls=certificate(folders[0])) as server:
        server.put(UIDS[0], "web-0", {"svc": "web"})
        text = server.kubeconfig.read_text()
        server.kubeconfig.write_text(text.replace(str(folders[0]), str(folders[1])))

        async def script(following: Following) -> None:
            await following.until(lambda: following.watch.restarts > 1, "it is refused")
            assert following.known() == {}

        follow(server, tmp_path, script)


def test_an_agent_that_starts_while_the_api_is_away_knows_what_the_last_one_knew(
    server: PodServer, tmp_path: Path
) -> None:
    server.put(UIDS[0], "dns", {"svc": "dns"}, **{"kubernetes.io/config.hash": "a" * 32})

    async def script(following: Following) -> None:
        await following.until(lambda: bool(following.known()), "the list")

    following = follow(server, tmp_path, script)
    server.stop()

    async def away(again: Following) -> None:
        again.watch.recall()
        assert again.known() == following.known()
        cgroups = (CgroupPath("", f"/kubepods/burstable/pod{'a' * 32}/{'b' * 64}"),)
        assert again.labels.labels_of(cgroups) == {"svc": "dns"}

    follow(server, tmp_path, away)


@pytest.mark.parametrize("kept", ["", "{", "[]", '{"pods": 3}', '{"pods": [{}]}', '{"pods": [7]}'])
def test_a_file_that_makes_no_sense_is_as_good_as_none(server: PodServer, tmp_path: Path, kept: str) -> None:
    async def script(following: Following) -> None:
        following.cache.write_text(kept)
        following.watch.recall()
        assert following.known() == {}
        server.put(UIDS[0], "web-0", {"svc": "web"})
        await following.until(lambda: bool(following.known()), "the list")

    following = follow(server, tmp_path, script)
    assert [pod["name"] for pod in json.loads(following.cache.read_text())["pods"]] == ["web-0"]


def test_where_there_is_no_way_to_the_api_that_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "nothing.yaml"))
    with pytest.raises(UsageError, match="no way to the Kubernetes API"):
        KubernetesPods("n")
