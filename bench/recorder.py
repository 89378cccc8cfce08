"""An independent recorder: who ran on which CPU and when, to the microsecond, using nothing of utilctl.

A process of its own, on a CPU that is not under test, empties the kernel's context-switch records (``perf_event``)
into files; ``bench.recording`` makes CPU times of them afterwards. It ends by itself when its parent is gone.

    with Recorder(cpu=1) as recorder: ...
    recording = recorder.recording()
"""

from __future__ import annotations

import argparse
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Final

from bench.perf_event import SwitchRing
from bench.recording import Recording

DRAIN_S: Final = 0.1
"""How often the rings are emptied; they hold seconds of records."""
START_TIMEOUT_S: Final = 20.0


def refusal() -> str | None:
    """Why nothing can be recorded here; None if it can."""
    try:
        SwitchRing(min(os.sched_getaffinity(0))).close()
    except OSError as error:
        return str(error)
    return None


class Recorder:
    """Records while the context is open. ``cpu`` is where the recorder itself runs: not the CPU under test."""

    def __init__(self, cpu: int) -> None:
        self._cpu = cpu
        self._folder = tempfile.TemporaryDirectory(prefix="utilctl-recorder-")
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Recorder:
        argv = [sys.executable, "-m", "bench.recorder", "--cpu", str(self._cpu), "--out", self._folder.name]
        self._process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True, cwd=Path(__file__).parents[1]
        )
        assert self._process.stdout is not None
        readable, _, _ = select.select([self._process.stdout], [], [], START_TIMEOUT_S)
        if not readable or self._process.stdout.readline() != b"ready\n":
            self._stop()
            self._folder.cleanup()
            raise RuntimeError("the recorder did not start; see above")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()
        if kind is not None:
            self._folder.cleanup()

    def recording(self) -> Recording:
        """What was recorded; once, after the context has ended."""
        with self._folder:
            return Recording.read(Path(self._folder.name))

    def _stop(self) -> None:
        process = self._process
        if process is None:
            return
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        try:
            process.wait(timeout=START_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


def main() -> int:
    """The recorder process: empties the rings until its standard input closes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cpu", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends us, after what it measures has ended
    cpus = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, [options.cpu])
    with ExitStack() as stack:
        rings = {cpu: SwitchRing(cpu) for cpu in cpus}
        files = {cpu: stack.enter_context((options.out / f"cpu{cpu}.records").open("wb")) for cpu in cpus}
        start_ns = time.monotonic_ns()
        print("ready", flush=True)
        open_input = True
        while open_input:
            open_input = not select.select([sys.stdin], [], [], DRAIN_S)[0]
            for cpu, ring in rings.items():
                files[cpu].write(ring.drain())
        end_ns = time.monotonic_ns()
        for cpu, ring in rings.items():
            files[cpu].write(ring.drain())
            ring.close()
        own_cpu_ns = time.process_time_ns()
    times = {"start_ns": start_ns, "end_ns": end_ns, "recorder_cpu_ns": own_cpu_ns}
    (options.out / "times.json").write_text(json.dumps(times))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
