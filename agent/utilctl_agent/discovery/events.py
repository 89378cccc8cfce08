"""Fork, exec, exit, user and name events from the kernel's proc connector.

With them discovery knows of a new process within tens of milliseconds and never has to read the whole of /proc for
it; and no parent is missed: a daemon that forks twice between two scans leaves nothing in /proc that leads to the
process which started it. Linux lets root listen (CAP_NET_ADMIN, in the initial pid and user namespaces), and from 6.6
on everybody. Where it is not allowed, discovery does with its scans. No thread: events wait in the socket until they
are taken. Why not a library: docs/dependencies.md.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
from typing import Final, Self

from utilctl_agent.discovery.batch import EventBatch
from utilctl_common.errors import FailedError

RECEIVE_BUFFER_BYTES: Final = 8 * 1024 * 1024
"""Room for events that wait. Arbitrary: about 10,000, since the kernel counts some 800 bytes each. Without privilege
the kernel grants net.core.rmem_max at most.
"""

MOST_AT_ONCE: Final = 20_000
"""Events that one call takes; the rest waits for the next. Bounds the call in a storm: some 0.1 s."""

_NETLINK_CONNECTOR: Final = 11
_CN_IDX_PROC: Final = 1
_CN_VAL_PROC: Final = 1
_NLMSG_DONE: Final = 3
_PROC_CN_MCAST_LISTEN: Final = 1
_FORK: Final = 0x00000001
_EXEC: Final = 0x00000002
_UID: Final = 0x00000004
_COMM: Final = 0x00000200
_EXIT: Final = 0x80000000
_SO_ATTACH_FILTER: Final = 26
_SO_RCVBUFFORCE: Final = 33

_EVENT_OFFSET: Final = 36
"""Bytes before struct proc_event: the netlink header (16) and the connector's (20)."""

_EVENT_BYTES: Final = 16  # what, cpu, timestamp_ns
_SUBJECT_OFFSET: Final = _EVENT_OFFSET + _EVENT_BYTES  # pid and tgid of whom it is about; for a fork, of the parent
_CHILD_OFFSET: Final = _SUBJECT_OFFSET + 8  # for a fork: pid and tgid of the child
_EVENT: Final = struct.Struct("=IIQIIII")
"""All of these in a row; every event has at least this size. Its time is that of CLOCK_MONOTONIC."""

_ACK_TIMEOUT_S: Final = 0.2
"""The kernel answers within the call that subscribes; without permission it stays silent."""

# Classic BPF: keep acknowledgements (event 0), and events of processes (of a thread that is not the first, pid and tgid
# differ). Numbers in packets are read as big-endian, so constants are swapped and ids only compared with each other.
_FILTER: Final = (
    (0x20, 0, 0, _EVENT_OFFSET),  # 0: A = what
    (0x15, 14, 0, 0),  # 1: if A == 0: to 16
    (0x15, 5, 0, socket.htonl(_FORK)),  # 2: if A == fork: to 8
    (0x15, 8, 0, socket.htonl(_EXEC)),  # 3 to 6: if A is one of the others: to 12
    (0x15, 7, 0, socket.htonl(_UID)),
    (0x15, 6, 0, socket.htonl(_COMM)),
    (0x15, 5, 0, socket.htonl(_EXIT)),
    (0x06, 0, 0, 0),  # 7: drop
    (0x20, 0, 0, _CHILD_OFFSET),  # 8: A = child's pid
    (0x07, 0, 0, 0),  # 9: X = A
    (0x20, 0, 0, _CHILD_OFFSET + 4),  # 10: A = child's tgid
    (0x05, 0, 0, 3),  # 11: to 15
    (0x20, 0, 0, _SUBJECT_OFFSET),  # 12 to 14: the same for the subject
    (0x07, 0, 0, 0),
    (0x20, 0, 0, _SUBJECT_OFFSET + 4),
    (0x1D, 0, 1, 0),  # 15: if A != X: to 17
    (0x06, 0, 0, 0xFFFFFFFF),  # 16: accept
    (0x06, 0, 0, 0),  # 17: drop
)


class ProcEvents:
    """Implements batch.EventSource. Listens from construction until ``close``.

    Raises FailedError where the host does not allow it.
    """

    def __init__(self) -> None:
        self.lost = 0
        """How often the kernel had to drop events because they were taken too late."""
        try:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC, _NETLINK_CONNECTOR)
        except OSError as error:
            raise _not_allowed(error.strerror or str(error)) from None
        try:
            self._subscribe()
        except OSError as error:
            self._socket.close()
            raise _not_allowed(error.strerror or str(error)) from None

    def _subscribe(self) -> None:
        code = b"".join(struct.pack("=HBBI", *instruction) for instruction in _FILTER)
        buffer = ctypes.create_string_buffer(code, len(code))
        program = struct.pack("@HP", len(_FILTER), ctypes.addressof(buffer))
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, RECEIVE_BUFFER_BYTES)
        except PermissionError:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
        # Port 0: the kernel picks a free one; other sockets of this process may hold the pid's.
        self._socket.bind((0, _CN_IDX_PROC))
        operation = struct.pack("=I", _PROC_CN_MCAST_LISTEN)
        message = struct.pack("=IIIIHH", _CN_IDX_PROC, _CN_VAL_PROC, 0, 0, len(operation), 0) + operation
        header = struct.pack("=IHHII", 16 + len(message), _NLMSG_DONE, 0, 0, 0)
        self._socket.settimeout(_ACK_TIMEOUT_S)
        self._socket.send(header + message)
        self._socket.recv(4096)
        self._socket.setblocking(False)

    def fileno(self) -> int:
        """For select and poll."""
        return self._socket.fileno()

    def take(self) -> EventBatch:
        """Everything since the last call, up to MOST_AT_ONCE events. Does not block."""
        batch = EventBatch()
        receive, parse, least = self._socket.recv, _EVENT.unpack_from, _EVENT_OFFSET + _EVENT.size
        for _ in range(MOST_AT_ONCE):
            try:
                packet = receive(4096)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    break
                self.lost += 1
                batch.lost = True
                continue
            if len(packet) < least:
                continue
            what, _, now_ns, pid, _, child, _ = parse(packet, _EVENT_OFFSET)
            if what == _FORK:
                # The event names the real parent, also where the child was given to another one at once.
                batch.forked(pid, child)
            elif what == _EXIT:
                batch.ended(pid)
            elif what == _EXEC:
                batch.executed.add(pid)
            elif what in (_UID, _COMM):
                batch.changed.add(pid)
            else:
                continue
            if batch.first_ns is None:
                batch.first_ns = now_ns
        return batch

    def close(self) -> None:
        """Stop listening. Idempotent."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _not_allowed(reason: str) -> FailedError:
    who = "this process may not" if os.geteuid() else "this host does not let root"
    return FailedError(
        f"{who} listen to process events: {reason}",
        hint="discovery goes on with scans alone; to change that, run the agent in the host's pid namespace, before "
        "Linux 6.6 also with CAP_NET_ADMIN",
    )


def listen() -> ProcEvents | None:
    """Process events where the host allows them; None elsewhere."""
    try:
        return ProcEvents()
    except FailedError:
        return None
