"""A service of many compute-bound processes that all begin at once.

usage: python -S many.py PROCESSES GATE_DIR PARTIES

Forks while nobody computes yet: a service that forked beside a thousand spinners would need minutes to get going.
When ``PARTIES`` services have reported to ``GATE_DIR`` all of them begin; the file ``go.PID`` there then holds the
instant (CLOCK_MONOTONIC, ns). They end when they are killed, together: they are one process group.
"""

import os
import sys
import time

processes, gate, parties = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
wait, go = os.pipe()
for _ in range(processes - 1):
    if os.fork() == 0:
        os.close(go)
        os.read(wait, 1)  # until the parent closes its end
        while True:
            pass
open(os.path.join(gate, f"ready.{os.getpid()}"), "w").close()
while sum(name.startswith("ready.") for name in os.listdir(gate)) < parties:
    time.sleep(0.02)
with open(os.path.join(gate, f"go.{os.getpid()}"), "w") as file:
    file.write(str(time.monotonic_ns()))
os.close(go)
while True:
    pass
