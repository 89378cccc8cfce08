"""Whether anybody waits for a CPU, by the kernel's own account."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from support.processes import spinning, wait_until
from utilctl_agent.host.pressure import HostPressure
from utilctl_common.quantities import NS_PER_S

WAITED = "some avg10=0.00 avg60=0.00 avg300=0.00 total={}\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n"


@pytest.fixture
def told(tmp_path: Path) -> Path:
    """A file in the kernel's format."""
    path = tmp_path / "cpu"
    path.write_text(WAITED.format(7_000_000))
    return path


def test_a_host_is_contended_when_somebody_waited_for_more_than_a_twentieth_of_the_time(told: Path) -> None:
    pressure = HostPressure(str(told))
    assert pressure.contended(0), "nothing is known yet"
    told.write_text(WAITED.format(7_000_000 + 50_000))
    assert not pressure.contended(NS_PER_S)
    told.write_text(WAITED.format(7_000_000 + 50_000 + 50_001))
    assert pressure.contended(2 * NS_PER_S)
    assert not pressure.contended(3 * NS_PER_S)
    pressure.close()
    pressure.close()


def test_without_the_kernels_account_every_host_counts_as_contended(tmp_path: Path) -> None:
    pressure = HostPressure(str(tmp_path / "none"))
    assert pressure.contended(NS_PER_S)
    assert pressure.contended(2 * NS_PER_S)


@pytest.mark.kernel
@pytest.mark.skipif(not os.path.exists("/proc/pressure/cpu"), reason="needs a kernel with PSI")  # noqa: PTH110
def test_two_spinners_on_one_cpu_are_seen_to_wait() -> None:
    pressure = HostPressure()
    cpu = min(os.sched_getaffinity(0))
    with spinning(2) as processes:
        for process in processes:
            os.sched_setaffinity(process.pid, {cpu})
        pressure.contended(time.monotonic_ns())

        def waits() -> bool:
            time.sleep(0.1)
            return pressure.contended(time.monotonic_ns())

        wait_until(waits, "somebody waits")
    pressure.close()
