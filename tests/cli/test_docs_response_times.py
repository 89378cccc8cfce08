"""docs/response-times.md says what the commands that it shows print."""

from __future__ import annotations

import re
from pathlib import Path

from support.doc_commands import prose, run_page

PAGE = (Path(__file__).parents[2] / "docs/response-times.md").read_text()
SECONDS = re.compile(r"\d+(?:\.\d+)? s\b")


def test_every_command_on_the_page_prints_what_the_page_shows() -> None:
    assert run_page(PAGE) == PAGE, "run in tests/: python -m support.doc_commands ../docs/response-times.md"


def test_every_response_time_in_the_prose_is_in_some_output_or_file_of_the_page() -> None:
    written = prose(PAGE)
    shown = PAGE.replace(written, "")
    blocks = "\n".join(re.findall(r"^```.*?^```$", shown, flags=re.DOTALL | re.MULTILINE))
    figures = set(SECONDS.findall(written))
    assert figures
    assert {figure for figure in figures if f" {figure}" not in blocks} == set()


def test_a_page_that_went_stale_is_noticed() -> None:
    assert PAGE.count("10 s") > 1
    stale = PAGE.replace(" 10 s ", " 11 s ")
    assert run_page(stale) != stale
