"""``utilctl delete``: remove one service's policy."""

from __future__ import annotations

import click

from utilctl_cli.options import (
    SEE,
    TracedCommand,
    controller_options,
    examples,
    output_option,
    write_options,
)
from utilctl_cli.output import emit


@click.command(
    "delete",
    cls=TracedCommand,
    epilog=examples(
        "utilctl delete svc=web --reason 'moved to another fleet'", "utilctl delete svc=web --if-version 7"
    ),
)
@click.argument("see", metavar="SERVICE", type=SEE)
@write_options
@output_option
@controller_options
def delete(
    see: str,
    reason: str,
    if_version: int | None,
    dry_run: bool,
    output: str,
    controller: tuple[str, ...],
    timeout_ns: int,
) -> None:
    """Stop managing SERVICE: its processes run on, held back by nothing. Its history stays."""
    from utilctl_cli.client import ControllerClient
    from utilctl_cli.identity import write_terms
    from utilctl_cli.wording import delete_words

    terms = write_terms(reason, if_version, dry_run=dry_run)
    emit(ControllerClient(controller, timeout_ns).delete(see, terms), output, delete_words)
