"""Serves the transactions of one workload one after the other by computing for as long as each asks.

usage: python -S server.py REQUESTS ENDS

REQUESTS is a FIFO of service times, ENDS a file that gets the instant at which each transaction was done
(CLOCK_MONOTONIC). Both hold integers of 8 bytes, in ns. Runs until the FIFO is closed. What reading and writing cost
is taken off the next transaction, so that the CPU time in all is what was asked for.
"""

import os
import sys
import time

requests = os.open(sys.argv[1], os.O_RDONLY)
ends = os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
due = time.process_time_ns()
while request := os.read(requests, 8):
    due += int.from_bytes(request, sys.byteorder)
    while time.process_time_ns() < due:
        pass
    os.write(ends, time.monotonic_ns().to_bytes(8, sys.byteorder))
