"""A sandbox that runs, seen from outside: others of the same user change its cap by a socket."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from pathlib import Path
from typing import Any

from utilctl_agent.sandbox import ANSWER_S, Sandbox, check_cap
from utilctl_common.errors import FailedError, UsageError


class ControlSocket:
    """Lets others of the same user change the cap of a running sandbox: a socket named after its program's pid."""

    def __init__(self, sandbox: Sandbox, folder: Path) -> None:
        self._path = socket_path(folder, sandbox.pid)
        self._sandbox = sandbox
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.bind(str(self._path))
        self._path.chmod(0o600)
        self._socket.listen(4)
        self._thread = threading.Thread(target=self._serve, name="sandbox-control", daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                peer, _ = self._socket.accept()
            except OSError:
                return
            with peer, contextlib.suppress(OSError, ValueError):
                peer.settimeout(ANSWER_S)
                peer.send(json.dumps(self._answer(json.loads(peer.recv(4096)))).encode())

    def _answer(self, request: Any) -> dict[str, Any]:  # noqa: ANN401 - whatever a peer sends
        try:
            report = self._sandbox.set_cap(float(request["cap_cores"]))
        except (FailedError, UsageError, KeyError, TypeError, ValueError) as error:
            return {"error": str(error)}
        return {"cap_cores": report.cap_cores}

    def close(self) -> None:
        """Stop listening. Idempotent."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()


def socket_path(folder: Path, pid: int) -> Path:
    """Where the sandbox of process ``pid`` listens."""
    return folder / f"sandbox-{pid}.sock"


def change_cap(folder: Path, pid: int, cap_cores: float) -> None:
    """Tell the sandbox of process ``pid`` its new cap. Raises UsageError if there is none, FailedError if not taken."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as peer:
        peer.settimeout(ANSWER_S)
        try:
            peer.connect(str(socket_path(folder, pid)))
            peer.send(json.dumps({"cap_cores": check_cap(cap_cores)}).encode())
            answer = json.loads(peer.recv(4096))
        except (FileNotFoundError, ConnectionRefusedError):
            raise UsageError(f"no sandbox runs process {pid}", hint="start one with utilctl sandbox --pid") from None
        except (OSError, ValueError) as error:
            raise FailedError(f"the sandbox of process {pid} does not answer: {error}") from None
    if "error" in answer:
        raise FailedError(answer["error"])
