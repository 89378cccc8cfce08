"""An API server of pods that speaks real HTTP: list and watch with versions, bookmarks, 410 Gone, and everything that
goes wrong with real ones.
"""

from __future__ import annotations

import json
import re
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

TICK_S: Final = 0.01


@dataclass
class _State:
    """What handlers share, under ``lock``."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    version: int = 100
    oldest: int = 0
    pods: dict[str, dict[str, Any]] = field(default_factory=dict)
    events: list[tuple[int, str, dict[str, Any]]] = field(default_factory=list)
    token: str = ""
    refusal: int = 0
    delay_s: float = 0.0
    garbage: bytes = b""
    cut: int = 0
    page: int = 0
    longest_watch_s: float = 300.0
    requests: list[str] = field(default_factory=list)
    accepted: list[str] = field(default_factory=list)
    watches: int = 0
    ended: bool = False


class PodServer:
    """Use it in ``with``; ``kubeconfig`` is a file that leads here. With ``tls`` (certificate, key), over HTTPS."""

    def __init__(self, folder: Path, *, tls: tuple[Path, Path] | None = None, token: str = "") -> None:
        self._state = _State(token=token)
        self._tls = tls
        self._folder = folder
        self._port = 0
        self._server: ThreadingHTTPServer | None = None
        self._thread: threading.Thread | None = None
        self.kubeconfig = folder / "kubeconfig.json"
        self.token_file = folder / "token"

    def __enter__(self) -> PodServer:
        self.start()
        user: dict[str, Any] = {}
        if self._state.token:
            self.token_file.write_text(self._state.token)
            user = {"tokenFile": str(self.token_file)}
        cluster: dict[str, Any] = {"server": self.url}
        if self._tls is not None:
            cluster["certificate-authority"] = str(self._tls[0])
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": "test", "user": user}],
        }
        self.kubeconfig.write_text(json.dumps(config))  # JSON is YAML
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Serve, on the port that it had before."""
        state = self._state
        state.ended = False

        class Handler(_Handler):
            shared = state

        self._server = _Server(("127.0.0.1", self._port), Handler)
        self._port = self._server.server_address[1]
        if self._tls is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*map(str, self._tls))
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(TICK_S,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Go away: connections are cut. Idempotent."""
        self._state.ended = True
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()
        if self._thread is not None:
            self._thread.join()

    # -- what there is ------------------------------------------------------------------------------------------

    def put(self, uid: str, name: str, labels: dict[str, str], *, node: str = "n", **annotations: str) -> None:
        """Make or change a pod."""
        with self._state.lock:
            self._state.version += 1
            kind = "MODIFIED" if uid in self._state.pods else "ADDED"
            pod = {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {
                    "uid": uid,
                    "name": name,
                    "namespace": "default",
                    "labels": labels,
                    "annotations": annotations,
                    "resourceVersion": str(self._state.version),
                },
                "spec": {"nodeName": node},
                "status": {"phase": "Running"},
            }
            self._state.pods[uid] = pod
            self._state.events.append((self._state.version, kind, pod))

    def delete(self, uid: str) -> None:
        """Remove a pod."""
        with self._state.lock:
            self._remove(self._state.pods.pop(uid))

    def end(self, uid: str, phase: str) -> None:
        """Let a pod's containers have ended: Succeeded or Failed. Those who ask for others are told that it is gone."""
        with self._state.lock:
            self._state.pods[uid]["status"]["phase"] = phase
            self._remove({**self._state.pods[uid], "status": {"phase": "Running"}})

    def _remove(self, pod: dict[str, Any]) -> None:
        self._state.version += 1
        pod = {**pod, "metadata": {**pod["metadata"], "resourceVersion": str(self._state.version)}}
        self._state.events.append((self._state.version, "DELETED", pod))

    def restore(self, version: int) -> None:
        """Go back to this version with the pods as they are, as an etcd that was restored from a backup."""
        with self._state.lock:
            self._state.version = self._state.oldest = version
            self._state.events.clear()

    def compact(self) -> None:
        """Forget the history: watches from before get 410 Gone."""
        with self._state.lock:
            self._state.version += 1
            self._state.oldest = self._state.version

    def bookmark(self) -> None:
        """Tell watches of a newer version and of nothing else."""
        with self._state.lock:
            self._state.version += 1
            version = {"metadata": {"resourceVersion": str(self._state.version)}}
            self._state.events.append((self._state.version, "BOOKMARK", {"kind": "Pod", "apiVersion": "v1", **version}))

    # -- what goes wrong ----------------------------------------------------------------------------------------

    def refuse(self, code: int) -> None:
        """Answer every request with this status from now on; 0: no longer."""
        self._state.refusal = code

    def slow_down(self, seconds: float) -> None:
        """Take so long before every answer."""
        self._state.delay_s = seconds

    def page(self, pods: int) -> None:
        """Tell so many pods at a time although nobody asks for that; 0: all."""
        self._state.page = pods

    def end_watches_after(self, seconds: float) -> None:
        """End new watches so soon, properly."""
        self._state.longest_watch_s = seconds

    def rotate_token(self, token: str) -> None:
        """Only this token is valid from now on; the file has it."""
        self._state.token = token
        self.token_file.write_text(token)

    def say(self, garbage: bytes) -> None:
        """Send this line to watches, once."""
        self._state.garbage = garbage

    def cut_watches(self) -> None:
        """Cut the connections of all watches."""
        self._state.cut += 1

    @property
    def url(self) -> str:
        """Where it is."""
        return f"{'http' if self._tls is None else 'https'}://127.0.0.1:{self._port}"

    @property
    def requests(self) -> list[str]:
        """Paths with queries, as they came."""
        return list(self._state.requests)

    @property
    def accepted(self) -> list[str]:
        """What kinds of answers requests asked for, as they came."""
        return list(self._state.accepted)

    @property
    def watches(self) -> int:
        """Watches that are open."""
        return self._state.watches


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is no trouble."""


class _Handler(BaseHTTPRequestHandler):
    shared: _State
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as in the standard library
        """Quiet."""

    def do_GET(self) -> None:
        state = self.shared
        state.requests.append(self.path)
        state.accepted.append(self.headers.get("Accept", ""))
        time.sleep(state.delay_s)
        address = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(address.query).items()}
        if state.token and self.headers.get("Authorization") != f"Bearer {state.token}":
            self._status(401, "Unauthorized")
        elif state.refusal:
            self._status(state.refusal, "refused")
        elif address.path != "/api/v1/pods":
            self._status(404, "not found")
        elif query.get("watch") == "true":
            self._watch(query)
        else:
            self._list(query)

    def _status(self, code: int, message: str, cause: str = "") -> None:
        body: dict[str, Any] = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message}
        body |= {"code": code, "details": {"causes": [{"reason": cause}] if cause else []}}
        self._send(code, body)

    def _send(self, code: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _list(self, query: dict[str, str]) -> None:
        with self.shared.lock:
            chosen = [pod for _, pod in sorted(self.shared.pods.items()) if _selected(pod, query)]
            version = str(self.shared.version)
        if int(query.get("resourceVersion") or "0") > int(version):
            self._status(504, "Timeout: Too large resource version", "ResourceVersionTooLarge")
            return
        if "continue" in query and "resourceVersion" in query:
            self._status(400, "specifying resource version is not allowed when using continue")
            return
        first = int(query.get("continue", "0"))
        limit = int(query.get("limit", "0")) or self.shared.page or len(chosen) or 1
        more = str(first + limit) if first + limit < len(chosen) else ""
        metadata = {"resourceVersion": version, "continue": more}
        page = chosen[first : first + limit]
        self._send(200, {"kind": "PodList", "apiVersion": "v1", "metadata": metadata, "items": page})

    def _watch(self, query: dict[str, str]) -> None:
        state = self.shared
        since = int(query.get("resourceVersion", "0"))
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        cut, deadline = (
            state.cut,
            time.monotonic() + min(state.longest_watch_s, float(query.get("timeoutSeconds", "300"))),
        )
        state.watches += 1
        try:
            for line in self._events(since, query, cut, deadline):
                self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))
            if state.cut == cut and not state.ended:
                self.wfile.write(b"0\r\n\r\n")
            else:
                with suppress(OSError):
                    self.connection.shutdown(socket.SHUT_RDWR)
        finally:
            state.watches -= 1
            self.close_connection = True

    def _events(self, since: int, query: dict[str, str], cut: int, deadline: float) -> Iterator[bytes]:
        state = self.shared
        while time.monotonic() < deadline and state.cut == cut and not state.ended:
            with state.lock:
                if since < state.oldest:
                    gone = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version"}
                    yield json.dumps({"type": "ERROR", "object": gone}).encode() + b"\n"
                    return
                fresh = [event for event in state.events if event[0] > since]
                garbage, state.garbage = state.garbage, b""
            if garbage:
                yield garbage + b"\n"
            for version, kind, pod in fresh:
                since = version
                if (kind == "BOOKMARK" and "allowWatchBookmarks" in query) or (
                    kind != "BOOKMARK" and _selected(pod, query)
                ):
                    yield json.dumps({"type": kind, "object": pod}).encode() + b"\n"
            time.sleep(TICK_S)


def certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that is its own authority, and its key. Needs openssl."""
    paths = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1 "
        f"-out {paths[0]} -keyout {paths[1]}".split(),
        check=True,
        capture_output=True,
    )
    return paths


def _selected(pod: dict[str, Any], query: dict[str, str]) -> bool:
    fields = {"spec.nodeName": pod["spec"]["nodeName"], "status.phase": pod["status"]["phase"]}
    for term in filter(None, query.get("fieldSelector", "").split(",")):
        name, sign, value = re.fullmatch(r"([^!=]+)(!?=)(.*)", term).groups()  # type: ignore[union-attr]
        if (fields[name] == value) != (sign == "="):
            return False
    return True
