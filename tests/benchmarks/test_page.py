"""The benchmark page and the result files say the same."""

from __future__ import annotations

from pathlib import Path

from bench.markdown import number, percents, spread, table
from bench.page import fill, render

FOLDER = Path(__file__).parents[2] / "docs/benchmarks"


def test_the_page_shows_what_the_result_files_say() -> None:
    page = (FOLDER / "README.md").read_text()
    assert render(page, FOLDER) == page, "run: python -m bench.page"


def test_tables_go_between_their_markers_and_nowhere_else() -> None:
    page = "a\n<!-- x -->\nold\n<!-- /x -->\nb\n<!-- y -->\nkept\n<!-- /y -->\n"
    assert fill(page, "x", "new \\1") == page.replace("old", "\nnew \\1")
    assert fill(page, "z", "new") == page


def test_a_figure_without_repeats_has_no_range_and_a_missing_one_is_a_dash() -> None:
    assert spread({"median": 1.0, "min": 1.0, "max": 1.0}) == "1.00"
    assert spread({"median": 1.0, "min": 0.5, "max": 2.0}, 1) == "1.0 (0.5-2.0)"
    assert (spread(None), number(None)) == ("-", "-")
    assert percents([0.25, 0.75]) == "25.0 : 75.0"
    assert table(["a", "b"], [[1, 2]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"
