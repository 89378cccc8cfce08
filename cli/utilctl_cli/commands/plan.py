"""``utilctl plan``: the allocation of a fleet that stands in a file; nothing is asked and nothing is changed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from utilctl_cli.options import TracedCommand, examples, output_option
from utilctl_cli.output import emit

if TYPE_CHECKING:
    from utilctl_controller.plan import Plan


@click.command(
    "plan",
    cls=TracedCommand,
    epilog=examples("utilctl plan -f fleet.yaml", "utilctl plan -f fleet.yaml -o json"),
)
@click.option(
    "-f", "--file", "file", required=True, type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
    help="Fleet to plan: mode, hosts and services, as YAML.",
)  # fmt: skip
@output_option
def plan(file: Path, output: str) -> None:
    """Compute who would get what where, for hosts, services and demands given in a file."""
    from utilctl_controller.plan import load_fleet
    from utilctl_controller.plan import plan as planned

    emit(planned(load_fleet(file)), output, _text)


def _text(document: Plan) -> str:
    from utilctl_cli import render

    return render.plan(document)
