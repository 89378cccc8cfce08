"""``make bench``: run the experiments one after the other, keep JSON and PNG, and bring the page up to date.

usage: python -m bench.run [--quick] [--only NAME ...] [--case GLOB] [--merge] [--list] [--out DIR]

Results are written after every case, so that a run that is interrupted keeps what it has. ``--case`` with ``--merge``
repeats some rows and keeps the others.
"""

from __future__ import annotations

import argparse
import fnmatch
import importlib
import json
import os
import signal
import subprocess
import time
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from bench import page, recorder
from bench.harness import machine
from bench.recording import RecordsLostError

EXPERIMENTS = {
    "accuracy": "A1, A2",
    "costs": "A3",
    "blocking": "A4",
    "independent": "A5",
    "scale": "A6",
    "web": "A7",
    "multicore": "A8",
    "idle": "idle agent",
    "membership": "membership at scale",
    "allocation": "allocation",
    "fairness": "F1",
    "fleet": "agents on one controller",
    "response_times": "response-time model",
    "agent_memory": "memory of an agent",
    "sandbox": "S1 to S3",
    "transactions": "B1 to B5",
}
"""Name of the module here and of the result, and what it is called in docs/benchmarks. Each module has
``cases(quick=...)``, rows by name, and ``plot(results, path)``."""


def _load(path: Path) -> dict[str, Any]:
    try:
        loaded: dict[str, Any] = json.loads(path.read_text())["results"]
    except (OSError, ValueError, KeyError):
        return {}
    return loaded


def _run(name: str, options: argparse.Namespace) -> int:
    """Measure an experiment's rows; returns how many failed."""
    module = importlib.import_module(f"bench.{name}")
    cases = {k: v for k, v in module.cases(quick=options.quick).items() if fnmatch.fnmatch(k, options.case)}
    if options.list:
        print(name, *cases, sep="\n  ")
        return 0
    target = options.out / f"{name}.json"
    results = _load(target) if options.merge else {}
    about = {"experiment": name, "machine": machine(), "recorder": recorder.refusal() or "perf_event context switches"}
    print(name, flush=True)
    failures = 0
    for case, measure in cases.items():
        started, load = time.time(), os.getloadavg()[0]
        try:
            row = measure()
        except (RuntimeError, OSError, subprocess.SubprocessError, RecordsLostError) as error:
            # The other rows are still worth having; the exit status tells.
            print(f"  {case} failed: {error}", flush=True)
            failures += 1
            continue
        duration_s = round(time.time() - started, 1)
        run = {"quick": options.quick, "started_unix_s": round(started), "duration_s": duration_s, "load_before": load}
        results[case] = {**row, "run": run}
        target.write_text(json.dumps({**about, "results": results}, indent=1) + "\n")
        print(f"  {case} ({duration_s:g} s)", flush=True)
        module.plot(results, options.out / f"{name}.png")
    return failures


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    """Being told to end takes the same clean way out as Ctrl-C."""
    raise KeyboardInterrupt


def main() -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer settings, shorter runs")
    parser.add_argument("--only", nargs="*", choices=list(EXPERIMENTS), default=list(EXPERIMENTS))
    parser.add_argument("--case", default="*", metavar="GLOB", help="only rows whose name matches")
    parser.add_argument("--merge", action="store_true", help="keep the other rows of an earlier run")
    parser.add_argument("--list", action="store_true", help="print the names of the rows and measure nothing")
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, _interrupt)
    failures = 0
    for name in options.only:
        try:
            failures += _run(name, options)
        except KeyboardInterrupt:
            print("interrupted; rows measured so far are kept", flush=True)
            return 130
    if not options.list:
        page.write(options.out)
    return 1 if failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
