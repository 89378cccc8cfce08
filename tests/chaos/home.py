"""Where the programs under test keep their journals: not where a real agent of this host keeps its own."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

ROOTS_RUN_DIR: Final = "/run/utilctl"


class Home:
    """A folder of its own for journals. ``prefix`` and ``environment`` have a program use it.

    Users other than root need the environment alone. Root's programs see the folder in place of /run/utilctl, in a
    mount namespace; where that is not allowed, they share the host's: then nothing else of utilctl may run there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {**os.environ, "XDG_RUNTIME_DIR": str(folder)}
        self.prefix: list[str] = []
        journals = folder / "utilctl"
        journals.mkdir(mode=0o700)
        if os.geteuid() == 0 and shutil.which("unshare"):
            script = f'mkdir -p {ROOTS_RUN_DIR} && mount --bind "$0" {ROOTS_RUN_DIR} && exec "$@"'
            prefix = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, str(journals)]
            if subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode == 0:
                self.prefix = prefix

    @property
    def private(self) -> bool:
        """Whether nobody else's journals are there."""
        return bool(self.prefix) or os.geteuid() != 0
