"""Starting many programs that begin together.

A program that spins from the moment it starts delays the start of those after it: beside hundreds of them on one CPU
the next one waits seconds until it is scheduled for the first time, and starting a thousand took a quarter of an hour.
So each is started as a shell that waits, without using CPU, for the end of a pipe before it becomes the program.
"""

from __future__ import annotations

import os
from typing import Final

_WAIT: Final = 'read -r _; [ -e "/proc/$1/exe" ] || exit 1; exec /bin/sh -c "$0" </dev/null'
"""The end of the pipe wakes all at once; lines would be handed from one to the next, each behind those that run
already. But it also comes if whoever should open the gate has been killed; then these end, too. One that was killed may
still be there, but has no program any more when its pipes are closed."""


class StartGate:
    """A gate before programs, as a context manager. Programs before one that never opens end with this process."""

    def __init__(self) -> None:
        self._read_fd, self._write_fd = os.pipe2(os.O_CLOEXEC)
        self._is_open = False

    def __enter__(self) -> StartGate:
        return self

    def __exit__(self, *_: object) -> None:
        self.open()
        os.close(self._read_fd)

    @property
    def stdin(self) -> int:
        """Standard input for those who wait."""
        return self._read_fd

    def argv(self, command: str) -> list[str]:
        """What to start, with ``stdin``, for the shell command to run once the gate is open. The process stays the
        same one."""
        return ["/bin/sh", "-c", _WAIT, command, str(os.getpid())]

    def open(self) -> None:
        """Let all of them go. Idempotent."""
        if not self._is_open:
            os.close(self._write_fd)
            self._is_open = True
