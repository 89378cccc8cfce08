"""``--store``: from its text to a store. Adapters are imported only when asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from utilctl_common.errors import UsageError
from utilctl_controller.store.port import PolicyStore

STORE_HINT: Final = "write --store sqlite:PATH or --store etcd:HOST:PORT[,HOST:PORT...]"
"""The forms of ``--store``, as told to users."""


def open_store(spec: str, etcd_tls: Path | None = None) -> PolicyStore:
    """Open the store that ``spec`` names: ``sqlite:PATH`` or ``etcd:HOST:PORT[,HOST:PORT...]``.

    ``etcd_tls``: folder with the certificates for an etcd that speaks TLS.

    An etcd that is away is not an error here: the store connects when first used. Raises UsageError for any
    other text and for a path that cannot hold a file, FailedError for a file of a newer or another program or
    a missing etcd3 package, StoreUnavailableError for a file that cannot be read.
    """
    kind, _, rest = spec.partition(":")
    if kind == "sqlite":
        if not rest.strip():
            raise UsageError(f"store {spec!r} names no file", hint=STORE_HINT)
        if "\0" in rest:
            raise UsageError(f"store {spec!r} holds a NUL character", hint=STORE_HINT)
        from utilctl_controller.store.sqlite import SqliteStore

        return SqliteStore(Path(rest))
    if kind == "etcd":
        from utilctl_controller.store.etcd import EtcdStore
        from utilctl_controller.store.etcd_endpoints import parse_endpoints
        from utilctl_controller.store.etcd_tls import tls_from

        return EtcdStore(parse_endpoints(rest), tls=tls_from(etcd_tls) if etcd_tls is not None else None)
    raise UsageError(f"store {spec!r} is unknown", hint=STORE_HINT)
