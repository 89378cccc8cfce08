"""``utilctl thaw``: resume by hand whatever utilctl paused on this host."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from utilctl_common.errors import FailedError, UsageError


@click.command(
    short_help="Resume everything that utilctl paused on this host.",
    epilog="""\b
Examples:
  utilctl thaw --all
  utilctl thaw --all -o json
""",
)
@click.option("--all", "everything", is_flag=True, help="Resume every pause that any journal on this host names.")
@click.option("--run-dir", default=None, metavar="DIR", help="Where the journals are. [default: as for the agent]")
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
def thaw(*, everything: bool, run_dir: str | None, output: str) -> None:
    """Resume everything that utilctl paused on this host, whether an agent runs or not.

    Only what a journal names is touched: what a user stopped stays stopped. An agent that runs goes on deciding
    afresh; weights that one left behind which no longer runs are put back. Run it as the user whose agent paused.
    """
    from utilctl_agent.safety.thaw import default_run_dir, thaw_run_dir

    if not everything:
        raise UsageError("say what to resume", hint="write utilctl thaw --all")
    result = thaw_run_dir(run_dir or default_run_dir(), only_orphans=False)
    if output == "json":
        click.echo(json.dumps(asdict(result)))
    else:
        put_back = f", {result.weights} weights put back" if result.weights else ""
        click.echo(f"{result.resumed} resumed, {result.gone} gone already, {len(result.failures)} failed{put_back}")
    if result.failures:
        raise FailedError("; ".join(result.failures), hint="run it as root")
