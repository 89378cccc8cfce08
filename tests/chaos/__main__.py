"""``make chaos``: run many trials, say how each kind came out, keep the figures.

usage: python -m chaos [--trials N] [--peer-trials N] [--seed N] [--json FILE] [--page FILE]

Exits with 1 if anything was left paused, or for longer than is promised. Beside it, cpulimit is killed as often as
--peer-trials says.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

from chaos import peer, report
from chaos.campaign import run
from chaos.trials import Outcome
from utilctl_common.quantities import NS_PER_MS


def main() -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--seed", type=int, default=None, help="what is random is the same again for the same seed")
    parser.add_argument("--json", type=Path, help="where to keep the figures")
    parser.add_argument("--page", type=Path, help="a page whose table is brought up to date")
    parser.add_argument("--peer-trials", type=int, default=0)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the same clean way out as Ctrl-C
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(2**32)
    print(f"seed {seed}", flush=True)
    started = time.time()
    outcomes: list[Outcome] = []

    def on_outcome(outcome: Outcome) -> None:
        outcomes.append(outcome)
        if not outcome.kept:
            print(f"BROKEN {outcome}", flush=True)
        elif len(outcomes) % 50 == 0:
            print(f"{len(outcomes)} trials, {time.time() - started:.0f} s", flush=True)

    result = run(options.trials, seed, on_outcome)
    about = {
        "seed": seed,
        "started_unix_s": round(started),
        "duration_s": round(time.time() - started),
        "cpus": len(os.sched_getaffinity(0)),
        "root": os.geteuid() == 0,
        "longest_gap_of_observer_ms": round(result.longest_gap_ns / NS_PER_MS, 1),
        "left_at_the_end": result.left,
    }
    figures = report.summary(result.outcomes, about)
    refusal = peer.refusal()
    if options.peer_trials and refusal is None:
        figures["peer"] = peer.run(options.peer_trials, seed)
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")
    text = report.text(figures)
    if options.page is not None:
        report.update(options.page, text)
    print(text)
    if result.left:
        print(f"LEFT AT THE END: {result.left}")
    return 1 if figures["late"] or result.left else 0


if __name__ == "__main__":
    sys.exit(main())
