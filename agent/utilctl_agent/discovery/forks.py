"""Fork events from the kernel's proc connector, so that no parent is missed between two scans.

A daemon that forks twice within a second leaves nothing in /proc that leads to the process which started it.
The connector needs CAP_NET_ADMIN and the initial pid and user namespaces; where it is not allowed, discovery
does with its scans. No thread: events wait in the socket until the next scan takes them.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
from typing import Final, Self

from utilctl_common.errors import FailedError

RECEIVE_BUFFER_BYTES: Final = 8 * 1024 * 1024
"""Room for events between two scans. Arbitrary: about 10,000 forks, since the kernel counts some 800 bytes
each.
"""

_NETLINK_CONNECTOR: Final = 11
_CN_IDX_PROC: Final = 1
_CN_VAL_PROC: Final = 1
_NLMSG_DONE: Final = 3
_PROC_CN_MCAST_LISTEN: Final = 1
_PROC_EVENT_FORK: Final = 1
_SO_ATTACH_FILTER: Final = 26
_SO_RCVBUFFORCE: Final = 33

_EVENT_OFFSET: Final = 36
"""Bytes before struct proc_event: the netlink header (16) and the connector's (20)."""

_EVENT: Final = struct.Struct("=IIQ")  # what, cpu, timestamp_ns
_FORK: Final = struct.Struct("=IIII")  # parent pid, parent tgid, child pid, child tgid

_ACK_TIMEOUT_S: Final = 0.2
"""The kernel answers within the call that subscribes; without permission it stays silent."""

# Classic BPF: keep acknowledgements (event 0) and those forks that made a process, not a thread.
# Numbers in packets are read as big-endian, so constants are swapped and ids only compared with each other.
_FILTER: Final = (
    (0x20, 0, 0, _EVENT_OFFSET),  # A = what
    (0x15, 4, 0, 0),  # if A == 0: accept
    (0x15, 0, 4, socket.htonl(_PROC_EVENT_FORK)),  # if A != fork: drop
    (0x20, 0, 0, _EVENT_OFFSET + _EVENT.size + 8),  # A = child pid
    (0x07, 0, 0, 0),  # X = A
    (0x20, 0, 0, _EVENT_OFFSET + _EVENT.size + 12),  # A = child tgid
    (0x1D, 0, 1, 0),  # if A != X: drop
    (0x06, 0, 0, 0xFFFFFFFF),  # accept
    (0x06, 0, 0, 0),  # drop
)


class ForkEvents:
    """Listens from construction until ``close``. Raises FailedError where the host does not allow it."""

    def __init__(self) -> None:
        self.lost = 0
        """How often the kernel had to drop events because scans were too far apart."""
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

    def take(self) -> dict[int, int]:
        """Parent pid by child pid, for every process forked since the last call. Does not block."""
        parents: dict[int, int] = {}
        while True:
            try:
                packet = self._socket.recv(4096)
            except BlockingIOError:
                return parents
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    return parents
                self.lost += 1
                continue
            if len(packet) < _EVENT_OFFSET + _EVENT.size + _FORK.size:
                continue
            what, _, _ = _EVENT.unpack_from(packet, _EVENT_OFFSET)
            _, parent, _, child = _FORK.unpack_from(packet, _EVENT_OFFSET + _EVENT.size)
            if what == _PROC_EVENT_FORK:
                # The event names the real parent, also where the child was given to another one at once.
                parents[child] = parent

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
        f"{who} listen to fork events: {reason}",
        hint="discovery goes on with scans alone; to change that, run the agent with CAP_NET_ADMIN "
        "in the host's pid namespace",
    )
