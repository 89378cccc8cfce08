"""Figures and tables in Markdown, as all experiments show them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def number(value: float | None, digits: int = 2) -> str:
    """A figure, or a dash where there is none."""
    return "-" if value is None else f"{value:.{digits}f}"


def spread(figure: dict[str, float] | None, digits: int = 2) -> str:
    """Median, and the range of the repeats where there were several."""
    if figure is None:
        return "-"
    median = number(figure["median"], digits)
    if figure["min"] == figure["max"]:
        return median
    return f"{median} ({number(figure['min'], digits)}-{number(figure['max'], digits)})"


def percents(fractions: Sequence[float], digits: int = 1) -> str:
    """A split, as percentages."""
    return " : ".join(number(100 * fraction, digits) for fraction in fractions)
