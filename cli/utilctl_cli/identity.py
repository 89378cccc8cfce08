"""Who makes a change, and on what terms."""

from __future__ import annotations

import os

from utilctl_cli.codec import WriteTerms
from utilctl_cli.options import text_for_the_wire


def changed_by() -> str:
    """``user@host``, or the value of UTILCTL_USER. Raises UsageError if that is not valid UTF-8.

    A record for colleagues, not an authentication: the controller trusts whoever can reach its port.
    """
    override = os.environ.get("UTILCTL_USER", "").strip()
    if override:
        return text_for_the_wire("UTILCTL_USER")(override)
    import getpass
    import socket

    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user id without a passwd entry
        user = f"uid-{os.getuid()}"
    return text_for_the_wire("the user's name")(f"{user}@{socket.gethostname()}")


def write_terms(reason: str, if_version: int | None, *, dry_run: bool) -> WriteTerms:
    """The terms of a write by whoever runs this command. Raises UsageError as ``changed_by`` does."""
    return WriteTerms(changed_by(), reason, if_version, dry_run)
