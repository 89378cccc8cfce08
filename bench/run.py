"""``make bench``: run the experiments one after the other, keep JSON and PNG.

usage: python -m bench.run [--quick] [--only NAME ...] [--out DIR]
"""

from __future__ import annotations

import argparse
import importlib
import json
import time
from pathlib import Path

from bench.harness import machine

EXPERIMENTS = {"accuracy": "bench.accuracy", "membership": "bench.membership"}
"""Name of the result and module with ``run(quick=...)`` and ``plot(results, path)``."""


def main() -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer settings, shorter runs")
    parser.add_argument("--only", nargs="*", choices=sorted(EXPERIMENTS), default=sorted(EXPERIMENTS))
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.only:
        print(name, flush=True)
        module = importlib.import_module(EXPERIMENTS[name])
        started = time.time()
        results = module.run(quick=options.quick)
        document = {
            "experiment": name,
            "quick": options.quick,
            "started_unix_s": round(started),
            "duration_s": round(time.time() - started, 1),
            "machine": machine(),
            "results": results,
        }
        (options.out / f"{name}.json").write_text(json.dumps(document, indent=1) + "\n")
        module.plot(results, options.out / f"{name}.png")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
