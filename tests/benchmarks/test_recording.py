"""The independent recorder of the benchmarks: its arithmetic on made records, and itself on real processes."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import time

import pytest

from bench import recorder
from bench.metrics import mean_error_pct, rms_relative_error_pct, worst_deviation_pct
from bench.recording import Recording, RecordsLostError, parse


def switch_in(pid: int, at_ns: int) -> bytes:
    return struct.pack("IHHIIIIQ", 15, 0, 32, 0, 0, pid, pid, at_ns)


def switch_out(pid: int, at_ns: int) -> bytes:
    return struct.pack("IHHIIIIQ", 15, 1 << 13, 32, 0, 0, pid, pid, at_ns)


def fork(parent: int, child: int, at_ns: int) -> bytes:
    return struct.pack("IHHIIIIQIIQ", 7, 0, 48, child, parent, child, parent, at_ns, child, child, at_ns)


def recording(*records: bytes, end_ns: int = 1_000) -> Recording:
    runs, forks = parse(b"".join(records), end_ns)
    children: dict[int, set[int]] = {}
    for parent, child in forks:
        children.setdefault(parent, set()).add(child)
    return Recording({0: runs}, children, 0, end_ns)


def test_a_run_that_crosses_the_end_of_a_cycle_counts_for_both_cycles() -> None:
    seen = recording(switch_in(7, 100), switch_out(7, 300), switch_in(8, 310), switch_out(8, 400))
    assert seen.cpu_ns({7}, [0, 150, 350, 500]) == [50, 150, 0]
    assert seen.cpu_ns({8}, [0, 150, 350, 500]) == [0, 40, 50]
    assert seen.cpu_ns({7, 8}, [0, 500]) == [290]


def test_a_run_that_began_before_the_recording_is_left_out() -> None:
    seen = recording(switch_out(7, 50), switch_in(7, 100), switch_out(7, 120))
    assert seen.cpu_ns({7}, [0, 1_000]) == [20]


def test_a_run_that_lasts_until_the_end_is_closed_there() -> None:
    assert recording(switch_in(7, 900), end_ns=1_000).cpu_ns({7}, [0, 950, 2_000]) == [50, 50]


def test_a_family_has_all_descendants_but_not_those_of_excluded_members() -> None:
    seen = recording(fork(1, 2, 10), fork(2, 3, 20), fork(1, 4, 30), fork(4, 5, 40), fork(1, 1, 50))
    assert seen.family([1]) == {1, 2, 3, 4, 5}
    assert seen.family([1], without={4}) == {1, 2, 3}


def test_lost_records_are_an_error_and_not_a_hole() -> None:
    with pytest.raises(RecordsLostError):
        parse(struct.pack("IHHQQ", 2, 0, 24, 1, 5), 1_000)


def test_records_of_other_kinds_are_skipped_by_their_size() -> None:
    other = struct.pack("IHHQ", 4, 0, 16, 0)
    assert recording(switch_in(7, 100), other, switch_out(7, 300)).cpu_ns({7}, [0, 1_000]) == [200]


def test_the_error_of_a_cycle_is_the_root_mean_square_of_relative_errors() -> None:
    # Ideal 10 and 30 of 40: off by +100 % and -33.3 %.
    assert rms_relative_error_pct([20, 20], [1, 3]) == pytest.approx(100 * ((1 + 1 / 9) / 2) ** 0.5)
    assert rms_relative_error_pct([10, 30], [1, 3]) == 0
    assert rms_relative_error_pct([0, 0], [1, 3]) == 0
    assert mean_error_pct([[10, 30], [20, 20]], [1, 3]) == pytest.approx(50 * ((1 + 1 / 9) / 2) ** 0.5)
    assert mean_error_pct([], [1, 3]) is None


def test_the_worst_deviation_is_relative_to_the_share() -> None:
    assert worst_deviation_pct([11, 29], [1, 3]) == pytest.approx(10)


@pytest.mark.root
@pytest.mark.kernel
def test_the_recorder_agrees_with_the_kernel_on_what_a_child_consumed() -> None:
    why = recorder.refusal()
    if why is not None:
        pytest.skip(f"no context-switch records here: {why}")
    code = "import time\nwhile time.process_time() < 0.2: pass\nprint(time.process_time_ns())"
    with recorder.Recorder(max(os.sched_getaffinity(0))) as running:
        start_ns = time.monotonic_ns()
        with subprocess.Popen([sys.executable, "-S", "-c", code], stdout=subprocess.PIPE, text=True) as child:
            output, _ = child.communicate()
        end_ns = time.monotonic_ns()
    seen = running.recording()
    recorded_ns = seen.cpu_ns(seen.family([child.pid]), [start_ns, end_ns])[0]
    # Start and exit of the interpreter lie outside what the child can see of itself.
    assert int(output) * 0.98 < recorded_ns < int(output) + 150_000_000
    assert child.pid in seen.family([os.getpid()])
