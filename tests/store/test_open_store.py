"""The texts of ``--store``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from support.store_harness import Closing
from utilctl_common.errors import UsageError
from utilctl_controller.store.etcd import EtcdStore
from utilctl_controller.store.etcd_endpoints import Endpoint, grpc_target, parse_endpoints
from utilctl_controller.store.open import open_store
from utilctl_controller.store.sqlite import SqliteStore


def test_sqlite_and_a_path_open_a_file(tmp_path: Path, closing: Closing) -> None:
    store = open_store(f"sqlite:{tmp_path}/a:b.db")
    assert isinstance(store, SqliteStore)
    closing(store)
    assert (tmp_path / "a:b.db").is_file()


def test_etcd_and_endpoints_open_a_store_even_if_nobody_answers(closing: Closing) -> None:
    store = open_store("etcd:127.0.0.1:1,127.0.0.1:2")
    assert isinstance(store, EtcdStore)
    closing(store)


@pytest.mark.parametrize(
    "spec",
    ["", "sqlite", "sqlite:", "sqlite: ", "sqlite:\0", "etcd", "etcd:", "etcd:host", "etcd:host:", "etcd::2379",
     "etcd:h:0", "etcd:h:65536", "etcd:h:99999999", "etcd:h:-1", "etcd:h:1 2", "etcd:h:٣", "etcd:h:1,", "etcd:,h:1",
     "etcd:http://h:2379", "etcd:::1:2379", "etcd:-x:1", "etcd:a:1,b:2", "etcd:127.0.0.1:1,[::1]:2", "redis:h:1",
     "SQLITE:x", "/var/lib/policy.db", "etcd:h_\n:1"],
)  # fmt: skip
def test_anything_else_is_a_usage_error_of_one_line(spec: str) -> None:
    with pytest.raises(UsageError) as raised:
        open_store(spec)
    assert len(str(raised.value).splitlines()) == 1
    assert raised.value.hint


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("127.0.0.1:2379", "ipv4:127.0.0.1:2379"),
        ("10.0.0.1:1, 10.0.0.2:2,10.0.0.1:1", "ipv4:10.0.0.1:1,10.0.0.2:2"),
        ("localhost:1,127.0.0.1:2", "ipv4:127.0.0.1:1,127.0.0.1:2"),
        ("[::1]:1,[fe80::1]:2", "ipv6:[::1]:1,[fe80::1]:2"),
        ("etcd.example.org:2379", "dns:///etcd.example.org:2379"),
        ("localhost:2379", "dns:///localhost:2379"),
    ],
)
def test_endpoints_become_one_grpc_target(text: str, target: str) -> None:
    assert grpc_target(parse_endpoints(text)) == target


def test_an_endpoint_reads_as_it_is_written() -> None:
    assert [str(e) for e in parse_endpoints("[::1]:1")] == ["[::1]:1"]
    assert parse_endpoints("h:1") == (Endpoint("h", 1),)


def test_opening_a_file_imports_no_etcd_client(tmp_path: Path) -> None:
    script = (
        "import sys; from utilctl_controller.store.open import open_store; open_store(sys.argv[1]).close();"
        "assert not {'etcd3', 'grpc', 'google.protobuf'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script, f"sqlite:{tmp_path}/policy.db"], check=True, timeout=60)
