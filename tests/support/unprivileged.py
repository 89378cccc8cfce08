"""Running programs as a user without privilege, from tests that run as root."""

from __future__ import annotations

import os
import pwd
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Final

NOBODY: Final = "nobody"

_READ_ALL: Final = "-all,+dac_read_search"
"""The one capability kept: to read files. The interpreter may lie below a home that is closed to others."""


def can_become_nobody() -> bool:
    """Whether a program can be started as that user here."""
    return os.geteuid() == 0 and shutil.which("setpriv") is not None


def as_nobody(argv: Sequence[str]) -> list[str]:
    """The command line that runs ``argv`` as user nobody, who may signal and freeze nothing that others own."""
    user = pwd.getpwnam(NOBODY)
    return [
        "setpriv",
        f"--reuid={user.pw_uid}",
        f"--regid={user.pw_gid}",
        "--clear-groups",
        f"--bounding-set={_READ_ALL}",
        f"--inh-caps={_READ_ALL}",
        f"--ambient-caps={_READ_ALL}",
        *argv,
    ]


def give_to_nobody(folder: Path) -> Path:
    """Make ``folder`` that user's own; returns it."""
    folder.mkdir(mode=0o700, exist_ok=True)
    os.chown(folder, pwd.getpwnam(NOBODY).pw_uid, -1)
    return folder
