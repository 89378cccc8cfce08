"""Generate the protobuf and gRPC modules from ``proto/``, or, with ``--check``, fail if the committed ones differ.

Run by ``make proto`` and ``make lint``; needs the ``dev`` extra.
"""

from __future__ import annotations

import filecmp
import sys
import tempfile
from pathlib import Path

import grpc_tools
from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "proto"


def generate(into: Path) -> None:
    """Write ``*_pb2.py``, ``*_pb2.pyi``, ``*_pb2_grpc.py`` and ``*_pb2_grpc.pyi`` below ``into``."""
    well_known = Path(str(grpc_tools.__file__)).parent / "_proto"
    files = sorted(str(path.relative_to(SOURCE)) for path in SOURCE.rglob("*.proto"))
    status = protoc.main(
        [
            "protoc",
            f"-I{SOURCE}",
            f"-I{well_known}",
            f"--python_out={into}",
            f"--mypy_out=quiet:{into}",
            f"--grpc_python_out={into}",
            f"--mypy_grpc_out=quiet:{into}",
            *files,
        ]
    )
    if status != 0:
        raise SystemExit(f"protoc failed with status {status}")


def main() -> int:
    """Entry point; returns the exit status."""
    if sys.argv[1:] != ["--check"]:
        generate(SOURCE)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        fresh = Path(folder)
        generate(fresh)
        names = sorted(path.relative_to(fresh) for path in fresh.rglob("*_pb2*"))
        stale = [n for n in names if not (SOURCE / n).exists() or not filecmp.cmp(fresh / n, SOURCE / n, shallow=False)]
    if stale:
        print("generated code is out of date, run `make proto`:", *stale, sep="\n  ", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
