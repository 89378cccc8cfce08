"""The policy store on an etcd that speaks TLS and asks for a certificate."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.etcd_server import NO_ETCD, etcd_on_path, free_port
from utilctl_common.errors import UsageError
from utilctl_common.quantities import NS_PER_MS
from utilctl_controller.store.etcd import EtcdStore
from utilctl_controller.store.etcd_endpoints import parse_endpoints
from utilctl_controller.store.etcd_tls import EtcdTls, tls_from
from utilctl_controller.store.open import open_store
from utilctl_controller.store.port import StoreUnavailableError

OPENSSL = shutil.which("openssl")
needs_etcd = pytest.mark.skipif(not etcd_on_path() or OPENSSL is None, reason=NO_ETCD)


def openssl(*arguments: str) -> None:
    subprocess.run([OPENSSL or "openssl", *arguments], check=True, capture_output=True, timeout=30)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authority, and one certificate by it for server and client, named as a Kubernetes secret names them."""
    folder = tmp_path_factory.mktemp("tls")
    subject = ["-subj", "/CN=test"]
    openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *subject, "-addext",
            "basicConstraints=critical,CA:TRUE", "-keyout", f"{folder}/ca.key", "-out", f"{folder}/ca.crt")  # fmt: skip
    openssl("req", "-newkey", "rsa:2048", "-nodes", *subject, "-keyout", f"{folder}/tls.key", "-out", f"{folder}/csr")
    extensions = folder / "extensions"
    extensions.write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\nextendedKeyUsage=serverAuth,clientAuth\n")
    openssl("x509", "-req", "-in", f"{folder}/csr", "-CA", f"{folder}/ca.crt", "-CAkey", f"{folder}/ca.key",
            "-CAcreateserial", "-days", "2", "-extfile", str(extensions), "-out", f"{folder}/tls.crt")  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def address(certificates: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("etcd")
    client, peer = f"127.0.0.1:{free_port()}", f"http://127.0.0.1:{free_port()}"
    with (folder / "log").open("wb") as log:
        flags = f"""--data-dir={folder}/data --listen-client-urls=https://{client}
            --advertise-client-urls=https://{client} --listen-peer-urls={peer}
            --initial-advertise-peer-urls={peer} --initial-cluster=default={peer}
            --cert-file={certificates}/tls.crt --key-file={certificates}/tls.key
            --trusted-ca-file={certificates}/ca.crt --client-cert-auth"""
        process = subprocess.Popen(["etcd", *flags.split()], stdout=log, stderr=log)
    try:
        yield client
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def store(address: str, tls: EtcdTls | None) -> Iterator[EtcdStore]:
    opened = EtcdStore(parse_endpoints(address), "/tls-test/", deadline_ns=500 * NS_PER_MS, tls=tls)
    try:
        yield opened
    finally:
        opened.close()


def epoch(opened: EtcdStore) -> int:
    """The next epoch, once the server is up."""
    deadline = time.monotonic() + 20
    while True:
        try:
            return opened.next_epoch()
        except StoreUnavailableError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


@pytest.mark.etcd
@needs_etcd
@pytest.mark.parametrize("endpoints", ["{0}", "localhost:{1}"])
def test_a_controller_with_the_certificate_is_served(address: str, certificates: Path, endpoints: str) -> None:
    with store(endpoints.format(address, address.rpartition(":")[2]), tls_from(certificates)) as opened:
        assert epoch(opened) < epoch(opened)


@pytest.mark.etcd
@needs_etcd
def test_without_a_certificate_or_with_another_authority_there_is_no_store(
    address: str, certificates: Path, tmp_path: Path
) -> None:
    with store(address, tls_from(certificates)) as opened:
        epoch(opened)  # it is up
    shutil.copy(certificates / "ca.crt", tmp_path / "ca.crt")
    for tls in (None, tls_from(tmp_path)):
        with store(address, tls) as opened, pytest.raises(StoreUnavailableError):
            opened.next_epoch()
    openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=other", "-keyout", f"{tmp_path}/k", "-out",
            f"{tmp_path}/ca.crt")  # fmt: skip
    with store(address, tls_from(tmp_path)) as opened, pytest.raises(StoreUnavailableError):
        opened.next_epoch()


def test_several_endpoints_have_no_one_name_to_check(certificates: Path) -> None:
    with pytest.raises(UsageError, match="one name"):
        EtcdStore(parse_endpoints("127.0.0.1:1,127.0.0.1:2"), tls=tls_from(certificates))


def test_files_that_are_missing_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no ca\.crt"):
        open_store("etcd:127.0.0.1:1", tmp_path)
    (tmp_path / "ca.crt").write_text("x")
    (tmp_path / "tls.crt").write_text("x")
    with pytest.raises(UsageError, match=r"no tls\.key"):
        tls_from(tmp_path)
    (tmp_path / "tls.crt").rename(tmp_path / "tls.key")
    with pytest.raises(UsageError, match=r"no tls\.crt"):
        tls_from(tmp_path)
