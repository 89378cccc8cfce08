"""Sends transactions to servers at given instants, whatever becomes of those before: an open load.

usage: python -S arrivals.py STREAM START_NS REQUESTS...

STREAM has a line a transaction, oldest first: when it arrives (ns after START_NS of CLOCK_MONOTONIC), the place of its
server in REQUESTS (FIFOs), and its service time in ns. Prints how late the sending was: median, 99th percentile and
longest, in us. Sleeps until shortly before an instant and waits for it awake.
"""

import os
import sys
import time

AWAKE_NS = 150_000

start_ns = int(sys.argv[2])
fifos = [os.open(path, os.O_WRONLY) for path in sys.argv[3:]]
with open(sys.argv[1]) as file:
    stream = [tuple(map(int, line.split())) for line in file]
late_ns = []
for arrival_ns, server, service_ns in stream:
    at_ns = start_ns + arrival_ns
    if (wait_ns := at_ns - AWAKE_NS - time.monotonic_ns()) > 0:
        time.sleep(wait_ns / 1e9)
    while time.monotonic_ns() < at_ns:
        pass
    os.write(fifos[server], service_ns.to_bytes(8, sys.byteorder))
    late_ns.append(time.monotonic_ns() - at_ns)
late_ns.sort()
count = len(late_ns)
print(*(late_ns[min(count - 1, count * per_mille // 1000)] // 1000 for per_mille in (500, 990, 1000)))
