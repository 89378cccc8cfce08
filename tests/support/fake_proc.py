"""A directory that looks like /proc, for what a real kernel does not do on demand."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from utilctl_agent.discovery.facts import CgroupPath


def stat_text(pid: int, comm: bytes, *, ppid: int = 1, start: int = 5, flags: int = 0, image: int = 7) -> bytes:
    """The text of /proc/PID/stat; ``image`` stands for the program that it runs."""
    fields = [b"0"] * 50
    fields[0], fields[1], fields[6], fields[17], fields[19] = (
        b"S",
        b"%d" % ppid,
        b"%d" % flags,
        b"1",
        b"%d" % start,
    )
    fields[23] = b"%d" % image
    return b"%d (%s) %s\n" % (pid, comm, b" ".join(fields))


@dataclass
class FakeProc:
    """The processes below ``root``; also a source of pod labels."""

    root: Path
    revision: int = 0
    labels: dict[str, str] = field(default_factory=dict)

    def labels_of(self, cgroups: tuple[CgroupPath, ...]) -> dict[str, str]:
        return self.labels if any(path == "/pod" for _, path in cgroups) else {}

    def put(self, pid: int, comm: bytes, *, environ: bytes = b"", cgroup: str = "/", **stat: int) -> None:
        directory = self.root / str(pid)
        directory.mkdir(exist_ok=True)
        (directory / "stat").write_bytes(stat_text(pid, comm, **stat))
        (directory / "environ").write_bytes(environ)
        (directory / "cmdline").write_bytes(comm + b"\0")
        (directory / "cgroup").write_text(f"0::{cgroup}\n")

    def drop(self, pid: int) -> None:
        for path in (self.root / str(pid)).iterdir():
            path.unlink()
        (self.root / str(pid)).rmdir()
