"""Computes for a while of its own CPU time, sleeps, and so on for ever (ALPS paper, section 3.3).

usage: python -S bursts.py WARM_UP_S COMPUTE_MS SLEEP_MS LOG

Computes without pause for WARM_UP_S of real time first. LOG gets a line at each change: ``compute`` or ``sleep``, and
the instant (CLOCK_MONOTONIC, ns).
"""

import sys
import time

warm_up_s, compute_s, sleep_s = float(sys.argv[1]), float(sys.argv[2]) / 1000, float(sys.argv[3]) / 1000
with open(sys.argv[4], "w", buffering=1) as log:
    end = time.monotonic() + warm_up_s
    while time.monotonic() < end:
        pass
    while True:
        log.write(f"sleep {time.monotonic_ns()}\n")
        time.sleep(sleep_s)
        start = time.process_time()
        log.write(f"compute {time.monotonic_ns()}\n")
        while time.process_time() - start < compute_s:
            pass
