"""Certificates for an etcd that speaks TLS, from a folder as a Kubernetes secret is mounted."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from utilctl_common.errors import UsageError

CA: Final = "ca.crt"
CERTIFICATE: Final = "tls.crt"
KEY: Final = "tls.key"


@dataclass(frozen=True, slots=True)
class EtcdTls:
    """Files: whom to believe, and what to show to members that ask for it (None: nothing)."""

    ca: Path
    certificate: Path | None
    key: Path | None


def tls_from(folder: Path) -> EtcdTls:
    """``ca.crt``, and ``tls.crt`` with ``tls.key`` if they are there. Raises UsageError for files that are missing or
    cannot be read.
    """
    found = {name: folder / name for name in (CA, CERTIFICATE, KEY)}
    if not found[CA].is_file():
        raise UsageError(f"there is no {CA} in {folder}", hint="put the certificate of etcd's authority there")
    if found[CERTIFICATE].is_file() != found[KEY].is_file():
        missing = KEY if found[CERTIFICATE].is_file() else CERTIFICATE
        raise UsageError(f"there is no {missing} in {folder}", hint=f"{CERTIFICATE} and {KEY} belong together")
    for path in found.values():
        try:
            if path.is_file():
                path.read_bytes()
        except OSError as error:
            raise UsageError(f"{path} cannot be read: {error.strerror}", hint="check its mode and owner") from None
    shows = found[CERTIFICATE].is_file()
    return EtcdTls(found[CA], found[CERTIFICATE] if shows else None, found[KEY] if shows else None)
