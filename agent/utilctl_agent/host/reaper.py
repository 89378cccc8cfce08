"""Runs a program and adopts its orphans, so that no CPU time of what descends from it is lost. Started as a script.

``python -I -S reaper.py STATUS_FD GO_FD PROGRAM [ARGUMENT ...]``. A process whose parent has ended is given to the
nearest ancestor that asked for it (PR_SET_CHILD_SUBREAPER), else to init, where what it has used cannot be told any
more. This process is such an ancestor: it waits for the program and for all orphans, and its children's time counts. It
does so instead of our caller, whose own children are none of our business.

Says ``pid N`` on STATUS_FD; the program begins once there is a byte on GO_FD, and never if that is closed. Then it says
``runs`` or ``error ERRNO``, and at the end ``ended WAIT_STATUS CPU_NS``. Signals are for the program. It imports next
to nothing, to start quickly.
"""

import ctypes
import os
import resource
import signal
import sys

_PR_SET_CHILD_SUBREAPER = 36


def run(status_fd: int, go_fd: int, argv: list[str]) -> int:
    """Returns when the program has ended; whoever of its descendants goes on is given to the next ancestor."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    for fd in (status_fd, go_fd):
        os.set_inheritable(fd, False)
    told, tell = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        _become(argv, before, go_fd, tell)
    os.close(tell)
    os.close(go_fd)
    os.write(status_fd, b"pid %d\n" % pid)
    refusal = os.read(told, 16)  # empty once the program runs
    _say(status_fd, b"error %s\n" % refusal if refusal else b"runs\n")
    ended = status = 0
    while ended != pid:
        ended, status = os.wait()
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    _say(status_fd, b"ended %d %d\n" % (status, round((usage.ru_utime + usage.ru_stime) * 1e9)))
    return 0


def _say(fd: int, line: bytes) -> None:
    try:
        os.write(fd, line)
    except BrokenPipeError:  # nobody is left to hear it
        return


def _become(argv: list[str], mask: "set[int | signal.Signals]", go_fd: int, tell: int) -> None:
    try:
        if not os.read(go_fd, 1):
            os._exit(127)
        for number in (signal.SIGPIPE, signal.SIGXFSZ):  # the interpreter ignores them
            signal.signal(number, signal.SIG_DFL)
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # it may be pending
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        os.execvp(argv[0], argv)  # noqa: S606 - no shell is wanted
    except OSError as error:
        os.write(tell, b"%d" % (error.errno or 0))
    finally:
        os._exit(127)


if __name__ == "__main__":
    sys.exit(run(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]))
