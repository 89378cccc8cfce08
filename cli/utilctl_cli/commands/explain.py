"""``utilctl explain``: why one service gets the CPU it gets."""

from __future__ import annotations

import click

from utilctl_cli.documents import ExplainDocument
from utilctl_cli.options import (
    SEE,
    Parsed,
    TracedCommand,
    controller_options,
    examples,
    output_option,
    text_for_the_wire,
)
from utilctl_cli.output import emit


@click.command(
    "explain",
    cls=TracedCommand,
    epilog=examples(
        "utilctl explain svc=web", "utilctl explain svc=web --host node-7", "utilctl explain svc=web -o json"
    ),
)
@click.argument("see", metavar="SERVICE", type=SEE)
@click.option(
    "--host",
    type=Parsed("name", text_for_the_wire("host")),
    default="",
    metavar="NAME",
    help="Only this host.",
)
@output_option
@controller_options
def explain(see: str, host: str, output: str, controller: tuple[str, ...], timeout_ns: int) -> None:
    """Say why SERVICE gets the CPU it gets: what holds it, who lends to it, who borrows from it."""
    from utilctl_cli.client import ControllerClient

    emit(ControllerClient(controller, timeout_ns).explain(see, host), output, _text)


def _text(document: ExplainDocument) -> str:
    from utilctl_cli import render

    return render.explain(document)
