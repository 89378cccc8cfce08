"""``utilctl get services|hosts|share``: what is, and what comes of it."""

from __future__ import annotations

import click

from utilctl_cli.documents import HostsDocument, ServicesDocument, ShareDocument
from utilctl_cli.lazy import SuggestingGroup
from utilctl_cli.options import SEE, TracedCommand, controller_options, examples, output_option
from utilctl_cli.output import emit


@click.group(
    "get",
    cls=SuggestingGroup,
    no_args_is_help=False,
    epilog=examples("utilctl get services", "utilctl get hosts -o json", "utilctl get share svc=web"),
)
def get() -> None:
    """Show services, hosts, or one service's share."""


@get.command(cls=TracedCommand, epilog=examples("utilctl get services", "utilctl get services -o json"))
@output_option
@controller_options
def services(output: str, controller: tuple[str, ...], timeout_ns: int) -> None:
    """Every service: its share, and the CPU it is entitled to, wants and uses, in cores."""
    from utilctl_cli.client import ControllerClient

    emit(ControllerClient(controller, timeout_ns).services(), output, _services_text)


@get.command(cls=TracedCommand, epilog=examples("utilctl get hosts", "utilctl get hosts -o json"))
@output_option
@controller_options
def hosts(output: str, controller: tuple[str, ...], timeout_ns: int) -> None:
    """Every host: its agent's state, its cores and how exactly shares hold on it."""
    from utilctl_cli.client import ControllerClient

    emit(ControllerClient(controller, timeout_ns).hosts(), output, _hosts_text)


@get.command(cls=TracedCommand, epilog=examples("utilctl get share svc=web", "utilctl get share svc=web -o json"))
@click.argument("see", metavar="SERVICE", type=SEE)
@output_option
@controller_options
def share(see: str, output: str, controller: tuple[str, ...], timeout_ns: int) -> None:
    """One service: its policy, its totals, and its share on each host."""
    from utilctl_cli.client import ControllerClient

    emit(ControllerClient(controller, timeout_ns).share(see), output, _share_text)


def _services_text(document: ServicesDocument) -> str:
    from utilctl_cli import render

    return render.services(document)


def _hosts_text(document: HostsDocument) -> str:
    from utilctl_cli import render

    return render.hosts(document)


def _share_text(document: ShareDocument) -> str:
    from utilctl_cli import render

    return render.share(document)
