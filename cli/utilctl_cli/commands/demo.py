"""``utilctl demo``: shares at work on this machine."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any

import click

from utilctl_cli.interrupts import end_as_after_ctrl_c
from utilctl_common.errors import FailedError, UsageError
from utilctl_common.quantities import NS_PER_S, parse_duration_ns

if TYPE_CHECKING:
    from utilctl_cli.demo.play import Progress
    from utilctl_cli.demo.scenario import PhaseResult

OVERHEAD_S = 8.0
"""Start, settling and clean-up of both phases together, about; the rest of the duration is spent measuring."""
SHORTEST_S = 12.0


@click.command(
    short_help="Watch shares at work on this machine.",
    epilog="""\b
Examples:
  utilctl demo
  utilctl demo --duration 60s
  utilctl demo -o json
""",
)
@click.option("--duration", default="20s", show_default=True, help="About how long it takes, at least 12s.")
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
def demo(duration: str, output: str) -> None:
    """Start a controller, two hosts and three services on this machine, and watch the services get their shares.

    web runs on host-a only, etl on host-b only, batch on both; all want more CPU than there is. Half-way one share is
    changed. At the end every process and cgroup of the demo is gone, also after Ctrl-C. Exits with 1 if a service's
    fraction is off by more than 5 %.
    """
    from utilctl_cli.demo.machine import Machine
    from utilctl_cli.demo.play import Player

    end_as_after_ctrl_c()
    duration_s = parse_duration_ns(duration) / NS_PER_S
    if duration_s < SHORTEST_S:
        raise UsageError(f"{duration} is too short to settle and measure twice", hint=f"use {SHORTEST_S:g}s or more")
    measure_s = (duration_s - OVERHEAD_S) / 2
    with Machine() as machine, _display(machine.mechanism, quiet=output == "json") as show:
        phases = Player(machine, measure_s, show).play()
    if output == "json":
        click.echo(json.dumps(_document(phases), indent=2))
    else:
        _print(phases)
    if not all(phase.ok for phase in phases):
        raise FailedError("a service's fraction is off by more than 5 %", hint="is the machine busy with other work?")


def _document(phases: tuple[PhaseResult, ...]) -> dict[str, Any]:
    return {
        "phases": [
            {
                "shares": dict(phase.shares),
                "services": {
                    see: {
                        "share": service.share,
                        "entitlement_cores": service.entitlement_cores,
                        "measured_cores": service.measured_cores,
                        "relative_error": service.relative_error,
                        "planned_cores": service.planned_cores,
                        "per_host_shares_cores": service.per_host_shares_cores,
                    }
                    for see, service in phase.services.items()
                },
            }
            for phase in phases
        ],
        "ok": all(phase.ok for phase in phases),
    }


@contextlib.contextmanager
def _display(mechanism: str, *, quiet: bool) -> Any:  # noqa: ANN401 - a generator of a callback
    if quiet:
        yield lambda _progress: None
        return
    from rich.console import Console
    from rich.live import Live
    from rich.table import Table

    def table_of(progress: Progress) -> Table:
        table = Table(box=None, pad_edge=False, title=f"{progress.stage} ...", title_justify="left")
        table.add_column("service")
        for heading in ("share", "entitled", "getting"):
            table.add_column(heading, justify="right")
        table.add_column("")
        for see, share in progress.shares.items():
            entitled = progress.entitlement_cores.get(see, 0.0)
            measured = progress.measured_cores.get(see, 0.0)
            bar = "█" * round(30 * min(1.0, measured))
            table.add_row(see, f"{share:g}", f"{entitled:.2f}", f"{measured:.2f}", f"[green]{bar}")
        return table

    console = Console()
    console.print("host-a runs svc=web and svc=batch, host-b runs svc=etl and svc=batch, one CPU each.")
    console.print(f"Services are held back by {mechanism}.\n", highlight=False)
    with Live(console=console, refresh_per_second=4, transient=True) as live:
        yield lambda progress: live.update(table_of(progress))


def _print(phases: tuple[PhaseResult, ...]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    for phase in phases:
        shares = ", ".join(f"{see} {share:g}" for see, share in phase.shares.items())
        table = Table(box=None, pad_edge=False, title=f"shares {shares}", title_justify="left", title_style="bold")
        table.add_column("service")
        for heading in ("share", "entitled", "measured", "error", "per-host shares would give"):
            table.add_column(heading, justify="right")
        for see, service in phase.services.items():
            table.add_row(
                see,
                f"{service.share:g}",
                f"{service.entitlement_cores:.3f}",
                f"{service.measured_cores:.3f}",
                f"{100 * service.relative_error:+.2f} %",
                f"{service.per_host_shares_cores:.3f}",
            )
        console.print(table)
        console.print()
    console.print("CPU in cores; error compares each service's fraction of the CPU with its entitled fraction.")
