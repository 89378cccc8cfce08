"""The two kinds of plots that the experiments draw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def _axes(title: str, xlabel: str, ylabel: str) -> tuple[Figure, Axes]:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(10, 4.5))
    axes.set_title(title)
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    return figure, axes


def _save(figure: Figure, path: Path) -> None:
    from matplotlib import pyplot as plt

    figure.tight_layout()
    figure.savefig(path, dpi=100)
    plt.close(figure)


def bars(
    path: Path,
    series: Mapping[str, Mapping[str, float]],
    *,
    title: str,
    ylabel: str,
    line: tuple[str, float] | None = None,
    log: bool = True,
) -> None:
    """Bars grouped by name, one colour a series; ``line`` is a published value, label first."""
    names = list(dict.fromkeys(name for values in series.values() for name in values))
    if not names:
        return
    figure, axes = _axes(title, "", ylabel)
    width = 0.8 / len(series)
    for index, (label, values) in enumerate(series.items()):
        shown = [(place, values[name]) for place, name in enumerate(names) if name in values]
        axes.bar([place + index * width for place, _ in shown], [value for _, value in shown], width, label=label)
    if log:
        axes.set_yscale("log")
    if line is not None:
        axes.axhline(line[1], color="grey", linestyle=":", label=line[0])
    axes.set_xticks([place + 0.4 for place in range(len(names))], names, rotation=20)
    axes.legend()
    _save(figure, path)


def lines(
    path: Path,
    series: Mapping[str, Sequence[tuple[float, float]]],
    *,
    title: str,
    xlabel: str,
    ylabel: str,
    log: str = "",
) -> None:
    """A line a series through (x, y); ``log`` names the axes on a logarithmic scale, as in "xy"."""
    figure, axes = _axes(title, xlabel, ylabel)
    for label, points in series.items():
        axes.plot([x for x, _ in points], [y for _, y in points], marker="o", markersize=3, label=label)
    if "x" in log:
        axes.set_xscale("log")
    if "y" in log:
        axes.set_yscale("log")
    if series:
        axes.legend()
    _save(figure, path)
