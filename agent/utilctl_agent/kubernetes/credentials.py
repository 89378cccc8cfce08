"""Where the Kubernetes API is, and as whom it is asked: a pod's service account, or a kubeconfig file.

Tokens and certificates are files that are replaced now and then, so they are looked at again before every request.
"""

from __future__ import annotations

import base64
import json
import os
import ssl
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from utilctl_agent.kubernetes.http import Origin
from utilctl_common.errors import UsageError

SERVICE_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
HINT: Final = "run in a pod with a service account, or set KUBECONFIG"


@dataclass(frozen=True, slots=True)
class Credentials:
    """How to reach an API server.

    - ``url``: scheme, host, port and what comes before paths of the API.
    - ``ca``: whom its certificate must come from; None: whom this machine trusts. A file, or PEM as it stands.
    - ``verified``: False: any certificate will do.
    - ``tls_name``: whose certificate is expected; empty: the host's.
    - ``token`` as it stands, or ``token_file``; ``client`` has certificate and key, files or PEM.
    """

    url: str
    ca: Path | bytes | None = None
    verified: bool = True
    tls_name: str = ""
    token: str = ""
    token_file: Path | None = None
    client: tuple[Path | bytes, Path | bytes] | None = None


class Access:
    """Credentials as they are now. Raises OSError, ssl.SSLError with it, where a file cannot be read or used."""

    def __init__(self, credentials: Credentials) -> None:
        """Raises UsageError where the address is none."""
        self._credentials = credentials
        parts = urlsplit(credentials.url)
        try:
            port = parts.port
        except ValueError:
            port = -1
        if parts.scheme not in ("http", "https") or not parts.hostname or port == -1:
            raise UsageError(f"there is no way to the Kubernetes API: {credentials.url!r} is no address", hint=HINT)
        self.base_path = parts.path.rstrip("/")
        self._host = parts.hostname
        self._port = port or (443 if parts.scheme == "https" else 80)
        self._secure = parts.scheme == "https"
        self._context: ssl.SSLContext | None = None
        self._files: tuple[tuple[int, int, int], ...] = ()

    def origin(self) -> Origin:
        """Where requests go now."""
        tls = self._tls() if self._secure else None
        return Origin(self._host, self._port, tls, self._credentials.tls_name or self._host)

    def headers(self) -> dict[str, str]:
        """Who is asking."""
        mine = self._credentials
        token = mine.token_file.read_text().strip() if mine.token_file is not None else mine.token
        return {"Authorization": f"Bearer {token}"} if token else {}

    def _tls(self) -> ssl.SSLContext:
        """Made anew when its files have been replaced: certificates are rotated, too."""
        mine = self._credentials
        files = tuple(_identity(part) for part in (mine.ca, *(mine.client or ())) if isinstance(part, Path))
        if self._context is None or files != self._files:
            self._context, self._files = _context(mine), files
        return self._context


def find_credentials(environment: Mapping[str, str] | None = None) -> Credentials:
    """The service account's where there is one, else those of the file that KUBECONFIG names (~/.kube/config).

    Raises UsageError where there is neither, or one that cannot be used.
    """
    env = os.environ if environment is None else environment
    host = env.get("KUBERNETES_SERVICE_HOST", "")
    if host and (SERVICE_ACCOUNT / "token").exists():
        authority = f"[{host}]" if ":" in host else host
        url = f"https://{authority}:{env.get('KUBERNETES_SERVICE_PORT', '443')}"
        return Credentials(url, ca=SERVICE_ACCOUNT / "ca.crt", token_file=SERVICE_ACCOUNT / "token")
    named = env.get("KUBECONFIG", "").partition(os.pathsep)[0]
    path = Path(named) if named else Path.home() / ".kube" / "config"
    return from_kubeconfig(path)


def from_kubeconfig(path: Path) -> Credentials:
    """Those of the file's current context. Raises UsageError."""
    try:
        document = _parsed(path.read_text())
        name = document["current-context"]
        context = _named(document["contexts"], name, "context")
        cluster = _named(document["clusters"], context["cluster"], "cluster")
        users = document.get("users") or []
        user = _named(users, context["user"], "user") if context.get("user") else {}
        unknown = [key for key in ("exec", "auth-provider", "username") if user.get(key)]
        unknown += ["proxy-url"] if cluster.get("proxy-url") else []
        if unknown:
            raise UsageError(
                f"there is no way to the Kubernetes API: {path} needs {', '.join(unknown)}, which agents do not do",
                hint="give them a token, tokenFile or client-certificate",
            )
        certificate, key = (_part(user, f"client-{part}", path) for part in ("certificate", "key"))
        return Credentials(
            url=str(cluster["server"]),
            ca=_part(cluster, "certificate-authority", path),
            verified=not cluster.get("insecure-skip-tls-verify", False),
            tls_name=str(cluster.get("tls-server-name") or ""),
            token=str(user.get("token") or ""),
            token_file=path.parent / str(user["tokenFile"]) if user.get("tokenFile") else None,
            client=(certificate, key) if certificate is not None and key is not None else None,
        )
    except OSError as error:
        reason = f"{path}: {error.strerror}"
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        reason = f"{path} is no kubeconfig: {type(error).__name__}: {error}"
    raise UsageError(f"there is no way to the Kubernetes API: {reason}", hint=HINT)


def _parsed(text: str) -> dict[str, Any]:
    """JSON, which is YAML too, without the 2 MB that reading YAML takes."""
    try:
        document = json.loads(text)
    except ValueError:
        import yaml

        try:
            document = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ValueError(str(error).splitlines()[0]) from None
    if not isinstance(document, dict):
        raise TypeError("not a mapping")
    return document


def _named(entries: list[dict[str, Any]], name: str, kind: str) -> dict[str, Any]:
    for entry in entries:
        if entry["name"] == name:
            return entry.get(kind) or {}
    raise ValueError(f"it has no {kind} {name!r}")


def _part(entry: dict[str, Any], key: str, beside: Path) -> Path | bytes | None:
    """The file that ``entry`` names by ``key``, or what it has in place under ``key``-data."""
    if entry.get(f"{key}-data"):
        return base64.b64decode(entry[f"{key}-data"], validate=True)
    return beside.parent / str(entry[key]) if entry.get(key) else None


def _context(mine: Credentials) -> ssl.SSLContext:
    # With a CA of its own, the many of this machine are neither trusted nor loaded.
    context = ssl.create_default_context(
        cafile=str(mine.ca) if isinstance(mine.ca, Path) else None,
        cadata=mine.ca.decode("ascii") if isinstance(mine.ca, bytes) else None,
    )
    if not mine.verified:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if mine.client is not None:
        with _as_file(mine.client[0]) as certificate, _as_file(mine.client[1]) as key:
            context.load_cert_chain(certificate, key)
    return context


@contextmanager
def _as_file(part: Path | bytes) -> Iterator[str]:
    if isinstance(part, Path):
        yield str(part)
        return
    # The standard library takes certificates with keys from files only; this one is its owner's alone, and short-lived.
    with tempfile.NamedTemporaryFile(prefix="utilctl-") as made:
        made.write(part)
        made.flush()
        yield made.name


def _identity(path: Path) -> tuple[int, int, int]:
    found = path.stat()
    return found.st_ino, found.st_mtime_ns, found.st_size
