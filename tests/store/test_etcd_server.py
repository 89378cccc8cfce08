"""The etcd that tests run on: it lives as long as the test needs it."""

from __future__ import annotations

import threading
import time

import pytest

from support.etcd_server import NO_ETCD, EtcdServer, etcd_on_path

pytestmark = [pytest.mark.etcd, pytest.mark.skipif(not etcd_on_path(), reason=NO_ETCD)]


def test_a_server_that_a_thread_started_outlives_the_thread() -> None:
    with EtcdServer() as server:
        server.kill()
        starter = threading.Thread(target=server.start)
        starter.start()
        starter.join(60)
        time.sleep(0.2)  # the death that must not come takes no time
        server.put("k", b"v")
        assert server.get("k") == b"v"
