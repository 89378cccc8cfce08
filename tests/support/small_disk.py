"""A disk that is small enough to be filled (a tmpfs). Needs root."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def small_disk(folder: Path, size_kib: int) -> Iterator[Path]:
    """Mount one on ``folder``, which is made; unmounted at the end."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size_kib}k", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def resize(disk: Path, size_kib: int) -> None:
    """Give it another size."""
    subprocess.run(["mount", "-o", f"remount,size={size_kib}k", str(disk)], check=True)


def fill(disk: Path) -> Path:
    """Fill it to the last page; returns the file that does, whose removal makes room again."""
    filler = disk / "filler"
    fd = os.open(filler, os.O_WRONLY | os.O_CREAT)
    try:
        with contextlib.suppress(OSError):
            while True:
                os.write(fd, bytes(4096))
    finally:
        os.close(fd)
    status = os.statvfs(disk)
    assert status.f_bavail == 0, "something else than room was missing"
    return filler
