"""``python -S nursery.py SERVICE ...``: a process tree that stands for a host in the demo.

Starts one spinning process for each service named, prints their pids, and ends them when it is ended. Run as a file,
without site packages, so that it starts at once.
"""

import os
import signal
import sys


def main(sees: list[str]) -> int:
    """Returns the exit status."""
    children: list[int] = []

    def end(_number: int, _frame: object) -> None:
        for child in children:
            os.kill(child, signal.SIGKILL)
        for child in children:
            os.waitpid(child, 0)
        os._exit(0)

    signal.signal(signal.SIGTERM, end)
    # An end that came between a start and its note would leave the child behind.
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    for see in sees:
        environment = {**os.environ, "UTILCTL_SEE": see}
        spin = [sys.executable, "-S", "-c", "while True: pass"]
        children.append(os.posix_spawn(sys.executable, spin, environment, setsigmask=[]))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
    try:
        os.write(1, "".join(f"{child}\n" for child in children).encode())
    except BrokenPipeError:  # whoever started us is ending already
        end(0, None)
    while True:
        signal.pause()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
