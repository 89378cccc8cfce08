"""A short form of ``make consistency``: some kills and cuts under a few dozen writes."""

from __future__ import annotations

import pytest

from chaos.consistency import run
from support.etcd_server import NO_ETCD, etcd_on_path


@pytest.mark.quiet  # three members and three controllers: on a busy machine etcd loses its leader by itself
@pytest.mark.skipif(not etcd_on_path(), reason=NO_ETCD)
def test_no_write_is_lost_or_done_twice_while_members_and_controllers_die() -> None:
    wrong, figures = run(150, seed=11)
    assert wrong == []
    assert figures["writes"]["done"] >= 150
    assert figures["reads"] > 0
    assert set(figures["faults"]) == {"kill member", "kill controller", "stop controller", "cut", "partition"}
    assert figures["longest_without_an_acknowledged_write_s"] <= 10
