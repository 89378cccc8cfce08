"""``utilctl disable`` and ``utilctl enable``: the emergency switch of the whole fleet."""

from __future__ import annotations

import click

from utilctl_cli.options import (
    Parsed,
    TracedCommand,
    controller_options,
    examples,
    output_option,
    text_for_the_wire,
)
from utilctl_cli.output import emit

_REASON = click.option(
    "--reason", type=Parsed("text", text_for_the_wire("reason")), default="", metavar="TEXT",
    help="Why; kept in the history.",
)  # fmt: skip


@click.command(
    "disable",
    cls=TracedCommand,
    epilog=examples("utilctl disable --reason 'incident 4711'", "utilctl disable -o json"),
)
@_REASON
@output_option
@controller_options
def disable(reason: str, output: str, controller: tuple[str, ...], timeout_ns: int) -> None:
    """Let nobody be held back on any host: agents resume everything, put weights back, and only measure.

    Connected hosts are told at once, others when they connect. It outlasts restarts of controllers and agents, until
    'utilctl enable'. Policies stay, and may be changed meanwhile.
    """
    _set_enabled(enabled=False, reason=reason, output=output, controller=controller, timeout_ns=timeout_ns)


@click.command(
    "enable",
    cls=TracedCommand,
    epilog=examples("utilctl enable --reason 'incident 4711 is over'", "utilctl enable -o json"),
)
@_REASON
@output_option
@controller_options
def enable(reason: str, output: str, controller: tuple[str, ...], timeout_ns: int) -> None:
    """Let shares hold again on the whole fleet after 'utilctl disable'."""
    _set_enabled(enabled=True, reason=reason, output=output, controller=controller, timeout_ns=timeout_ns)


def _set_enabled(*, enabled: bool, reason: str, output: str, controller: tuple[str, ...], timeout_ns: int) -> None:
    from utilctl_cli.client import ControllerClient
    from utilctl_cli.identity import changed_by
    from utilctl_cli.wording import switch_words

    client = ControllerClient(controller, timeout_ns)
    emit(client.set_enabled(enabled=enabled, changed_by=changed_by(), reason=reason), output, switch_words)
