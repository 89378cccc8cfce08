"""The benchmark page's tables, made from the JSON files, so that page and figures cannot drift apart.

usage: python -m bench.page [--check] [--out DIR]

In docs/benchmarks/README.md each experiment's tables stand between ``<!-- NAME -->`` and ``<!-- /NAME -->``; the prose
around them is written by hand and states no figure of ours.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

from bench.tables import TABLES


def write(folder: Path) -> None:
    """Bring the page up to date, if there is one in this folder."""
    page = folder / "README.md"
    if page.exists():
        page.write_text(render(page.read_text(), folder))


def render(page: str, folder: Path) -> str:
    """The page with the tables of every experiment that has a JSON file; others keep what they have."""
    for name in TABLES:
        file = folder / f"{name}.json"
        if file.exists():
            page = fill(page, name, tables(json.loads(file.read_text())))
    return page


def fill(page: str, name: str, text: str) -> str:
    """Put ``text`` between the markers of ``name``; a page without them stays as it is."""
    pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    return pattern.sub(lambda found: f"{found[1]}\n{text}\n{found[2]}", page)


def tables(document: dict[str, Any]) -> str:
    """What was measured where and when, then the tables of one result file."""
    return f"{_provenance(document)}\n\n{TABLES[document['experiment']](document['results'])}\n"


def _provenance(document: dict[str, Any]) -> str:
    machine, runs = document["machine"], [row["run"] for row in document["results"].values()]
    short = sum(run["quick"] for run in runs)
    form = (
        "full form" if not short else "short form" if short == len(runs) else f"{short} of {len(runs)} rows short form"
    )
    load = max((run["load_before"] for run in runs), default=0.0)
    return (
        f"_{form}; {machine['cpu_model']}, {len(machine['cpus'])} CPUs, Linux {machine['kernel']}, "
        f"Python {machine['python']}; recorder: {document['recorder']}; highest load average before a row: {load:.1f}_"
    )


def main() -> int:
    """Returns the exit status: 1 if ``--check`` finds the page out of date."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing, say whether the page is up to date")
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks"))
    options = parser.parse_args()
    page = options.out / "README.md"
    if not options.check:
        write(options.out)
    elif render(page.read_text(), options.out) != page.read_text():
        print(f"{page} is not what the JSON files say; run: python -m bench.page", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
