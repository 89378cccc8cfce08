"""``utilctl hold`` and ``utilctl release``: keep a service's targets as they are for a while."""

from __future__ import annotations

import click

from utilctl_cli.options import (
    SEE,
    Parsed,
    TracedCommand,
    controller_options,
    examples,
    output_option,
    write_options,
)
from utilctl_cli.output import emit
from utilctl_common.quantities import parse_duration_ns


@click.command(
    "hold",
    cls=TracedCommand,
    epilog=examples("utilctl hold svc=web --for 1h --reason 'load test'", "utilctl hold svc=web --for 30m --dry-run"),
)
@click.argument("see", metavar="SERVICE", type=SEE)
@click.option(
    "--for", "duration_ns", type=Parsed("duration", parse_duration_ns), required=True, metavar="DURATION",
    help="For how long, for example 30m or 1h; at most 365d.",
)  # fmt: skip
@write_options
@output_option
@controller_options
def hold(
    see: str,
    duration_ns: int,
    reason: str,
    if_version: int | None,
    dry_run: bool,
    output: str,
    controller: tuple[str, ...],
    timeout_ns: int,
) -> None:
    """Keep SERVICE's part of every host as it is now, until the time is over or it is released.

    Whatever it or others come to want, rebalancing leaves it alone, and shares out only the rest. A new share, floor
    or cap is stored and counts afterwards. A repeated hold keeps the same parts and sets the time anew. Services below
    it are not held with it.
    """
    from utilctl_cli.client import ControllerClient
    from utilctl_cli.identity import write_terms
    from utilctl_cli.wording import hold_document_words

    terms = write_terms(reason, if_version, dry_run=dry_run)
    emit(ControllerClient(controller, timeout_ns).hold(see, duration_ns, terms), output, hold_document_words)


@click.command(
    "release",
    cls=TracedCommand,
    epilog=examples("utilctl release svc=web", "utilctl release svc=web --reason 'load test is over' -o json"),
)
@click.argument("see", metavar="SERVICE", type=SEE)
@write_options
@output_option
@controller_options
def release(
    see: str,
    reason: str,
    if_version: int | None,
    dry_run: bool,
    output: str,
    controller: tuple[str, ...],
    timeout_ns: int,
) -> None:
    """End the hold of SERVICE now: rebalancing moves it again."""
    from utilctl_cli.client import ControllerClient
    from utilctl_cli.identity import write_terms
    from utilctl_cli.wording import release_words

    terms = write_terms(reason, if_version, dry_run=dry_run)
    emit(ControllerClient(controller, timeout_ns).release(see, terms), output, release_words)
