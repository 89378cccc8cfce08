"""What a failed system call on a file of a cgroup means: the cgroup is gone, or we may not control it."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Iterator
from pathlib import Path

from utilctl_agent.host.port import GroupGoneError, MechanismError
from utilctl_agent.safety.journal import JournalError
from utilctl_common.errors import FailedError


@contextlib.contextmanager
def opening(path: Path, release: Callable[[], None]) -> Iterator[None]:
    """Around everything that takes hold of the cgroup at ``path``: ``release`` is called if any of it fails.

    Raises GroupGoneError if the cgroup does not exist, MechanismError if it cannot be controlled or journalled.
    """
    try:
        yield
    except FileNotFoundError:
        release()
        raise GroupGoneError(f"cgroup {path} does not exist") from None
    except JournalError as error:
        release()
        raise MechanismError(f"cgroup {path} cannot be journalled: {error}") from None
    except OSError as error:
        release()
        hint = "" if error.errno == errno.EMFILE else "run the agent as root or use signals"
        raise MechanismError(f"cgroup {path} cannot be controlled: {error.strerror}", hint=hint) from None


def translated(path: Path, error: OSError) -> FailedError:
    """The error to raise for one of a read or write: GroupGoneError or MechanismError."""
    if error.errno in (errno.ENODEV, errno.ENOENT, errno.EBADF):
        return GroupGoneError(f"cgroup {path} was removed")
    return MechanismError(f"cgroup {path}: {error.strerror}", hint="is it mounted read-only?")
