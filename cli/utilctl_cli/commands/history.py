"""``utilctl history``: who changed what, when and why."""

from __future__ import annotations

import click

from utilctl_cli.documents import HistoryDocument
from utilctl_cli.options import (
    SEE,
    Parsed,
    TracedCommand,
    controller_options,
    examples,
    output_option,
    parse_since,
)
from utilctl_cli.output import emit

DEFAULT_LIMIT = 20
MAX_LIMIT = 10_000
"""Most changes shown at once. Arbitrary; some megabytes of JSON."""


@click.command(
    "history",
    cls=TracedCommand,
    epilog=examples(
        "utilctl history",
        "utilctl history svc=web -n 5",
        "utilctl history --since 2h",
        "utilctl history --since 2026-11-22T12:00Z -o json",
    ),
)
@click.argument("see", metavar="[SERVICE]", type=SEE, required=False)
@click.option(
    "-n", "--limit", "limit", type=click.IntRange(1, MAX_LIMIT), default=DEFAULT_LIMIT, show_default=True, metavar="N",
    help="Show the newest N changes.",
)  # fmt: skip
@click.option(
    "--since", "since_unix_ns", type=Parsed("when", parse_since), default=0, metavar="WHEN",
    help="Leave out what is older: a time to look back, for example 2h, or an instant, for example 2026-11-22T12:00Z.",
)  # fmt: skip
@output_option
@controller_options
def history(
    see: str | None, limit: int, since_unix_ns: int, output: str, controller: tuple[str, ...], timeout_ns: int
) -> None:
    """Show who changed which share, when and why, newest first. Deleted services keep their history.

    Without SERVICE also who disabled or enabled the whole fleet.
    """
    from utilctl_cli.client import ControllerClient

    emit(ControllerClient(controller, timeout_ns).history(see or "", limit, since_unix_ns), output, _text)


def _text(document: HistoryDocument) -> str:
    from utilctl_cli import render

    return render.history(document)
