"""Processes that nothing interrupts: in the kernel, waiting for what does not come."""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from support.processes import thaw, wait_until
from utilctl_agent.host.procstat import ProcessId, identify, read_stat

_MNT_DETACH = 2
_FUSE_INIT_REPLY = struct.pack("<7I", 7, 31, 65536, 0, 0, 65536, 1) + bytes(36)
"""struct fuse_init_out of include/uapi/linux/fuse.h, protocol 7.31."""


@contextlib.contextmanager
def dead_mount() -> Iterator[Path]:
    """A mounted file system whose server never answers, like an NFS server that is gone. Needs root and /dev/fuse.

    Whoever looks anything up in it waits; once a signal or the freezer has tried to interrupt that, it waits
    uninterruptibly (state D) but for SIGKILL. At the end all are let go with an error.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    with tempfile.TemporaryDirectory() as folder:
        fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        options = f"fd={fd},rootmode=40000,user_id=0,group_id=0".encode()
        try:
            if libc.mount(b"utilctl-test", folder.encode(), b"fuse", 0, options) != 0:
                raise OSError(ctypes.get_errno(), "cannot mount a fuse file system")
            try:
                request = os.read(fd, 65536)  # FUSE_INIT
                (number,) = struct.unpack_from("<Q", request, 8)
                os.write(fd, struct.pack("<IiQ", 16 + len(_FUSE_INIT_REPLY), 0, number) + _FUSE_INIT_REPLY)
                yield Path(folder)
            finally:
                libc.umount2(folder.encode(), _MNT_DETACH)
        finally:
            os.close(fd)  # ends the connection: who waits gets an error


@contextlib.contextmanager
def waiting_in(mount: Path, *, cgroup: Path | None = None) -> Iterator[ProcessId]:
    """A process that waits for an answer from ``dead_mount``."""
    with _child(["cat", str(mount / "file")], cgroup) as process:
        wait_until(lambda: _waits_for(process.pid, "request_wait_answer"), "it waits for the dead mount")
        yield process


_VFORK = """
import ctypes, os, time
libc = ctypes.CDLL(None)
libc.syscall.restype = ctypes.c_long
CLONE_VFORK, SIGCHLD, SYS_clone = 0x4000, 17, {"x86_64": 56, "aarch64": 220}[os.uname().machine]
if libc.syscall(SYS_clone, CLONE_VFORK | SIGCHLD, 0, 0, 0, 0) == 0:
    time.sleep(60)
    os._exit(0)
"""


@contextlib.contextmanager
def vforking(*, cgroup: Path | None = None) -> Iterator[ProcessId]:
    """A process that waits, in state D, for its vfork child to let go of it; the child sleeps in the same cgroup."""
    with _child([sys.executable, "-S", "-c", _VFORK], cgroup) as process:
        wait_until(lambda: _waits_for(process.pid, "kernel_clone"), "it waits for its vfork child")
        yield process


@contextlib.contextmanager
def _child(argv: list[str], cgroup: Path | None) -> Iterator[ProcessId]:
    """A process in a session of its own, started inside ``cgroup``; it and its children are killed at the end."""

    if cgroup is not None:
        argv = ["sh", "-c", 'echo $$ > "$0"; exec "$@"', str(cgroup / "cgroup.procs"), *argv]
    child = subprocess.Popen(argv, start_new_session=True, stderr=subprocess.DEVNULL)
    try:
        process = identify(child.pid)
        assert process is not None
        yield process
    finally:
        if cgroup is not None and cgroup.exists():
            thaw(cgroup)
        os.killpg(child.pid, 9)
        child.wait()


def _waits_for(pid: int, where: str) -> bool:
    stat = read_stat(pid)
    return stat is not None and stat[0] in (b"S", b"D") and Path(f"/proc/{pid}/wchan").read_text() == where
