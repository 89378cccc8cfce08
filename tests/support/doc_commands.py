"""Pages whose examples are run: files and ``utilctl`` commands in Markdown, and what the commands print.

A ``yaml`` block whose first line is ``# NAME.yaml`` is that file. In a ``console`` block, what follows a line
``$ utilctl ...`` is its whole output. ``python -m support.doc_commands PAGE`` (in tests/) brings a page up to date.
"""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from utilctl_cli.main import main

_BLOCK = re.compile(r"^```(yaml|console)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_NAME = re.compile(r"# ([a-z-]+\.yaml)\n")


def run_page(text: str) -> str:
    """The page with the output that each command gives now."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):

        def renewed(block: re.Match[str]) -> str:
            kind, body = block[1], block[2]
            if kind == "yaml":
                name = _NAME.match(body)
                if name:
                    Path(name[1]).write_text(body)
                return block[0]
            return f"```console\n{''.join(_outputs(body))}```"

        return _BLOCK.sub(renewed, text)


def prose(text: str) -> str:
    """The page without its blocks."""
    return re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)


def _outputs(body: str) -> Iterator[str]:
    for line in body.splitlines():
        if line.startswith("$ "):
            program, *arguments = shlex.split(line[2:])
            assert program == "utilctl", line
            out, err = io.StringIO(), io.StringIO()
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                main(arguments)
            yield f"{line}\n{out.getvalue()}{err.getvalue()}"


if __name__ == "__main__":
    page = Path(sys.argv[1])
    page.write_text(run_page(page.read_text()))
