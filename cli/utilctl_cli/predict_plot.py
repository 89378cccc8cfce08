"""A sweep as a picture. matplotlib is an extra (``utilctl[plot]``): it is large, and few machines draw."""

from __future__ import annotations

from pathlib import Path

from utilctl_cli.documents import SweepDocument
from utilctl_cli.predict_render import series
from utilctl_common.errors import FailedError


def draw(document: SweepDocument, path: Path) -> None:
    """Write ``path`` as PNG. Raises FailedError without matplotlib, or where the file cannot be written."""
    try:
        import matplotlib as mpl
    except ImportError:
        raise FailedError("a plot needs matplotlib", hint="pip install 'utilctl[plot]', or leave --plot out") from None
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for name, values, times_s in series(document):
        axes.plot(values, times_s, label=name)
    means = [(point["value"], point["mean_response_time_s"]) for point in document["points"]]
    bounded = [(value, mean_s) for value, mean_s in means if mean_s is not None]
    axes.plot([v for v, _ in bounded], [m for _, m in bounded], "k--", linewidth=1, label="mean by CPU used")
    axes.set_xlabel(f"{document['field']} of {document['name']}")
    axes.set_ylabel("response time [s]")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend()
    try:
        figure.savefig(path, dpi=120, format="png")
    except OSError as error:
        raise FailedError(f"cannot write {path}: {error.strerror}") from None
    finally:
        plt.close(figure)
