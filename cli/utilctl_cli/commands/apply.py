"""``utilctl apply`` and ``utilctl diff``: a whole policy file as one transaction, and what that would change."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import click

from utilctl_cli.options import (
    VERSION,
    Parsed,
    TracedCommand,
    controller_options,
    examples,
    output_option,
    text_for_the_wire,
)
from utilctl_cli.output import emit

Function = TypeVar("Function", bound=Callable[..., object])


def _file_options(function: Function) -> Function:
    """Add ``-f`` and ``--prune``."""
    file = click.option(
        "-f", "--file", "file", required=True, type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
        help="Policy file (YAML or JSON); - for standard input.",
    )  # fmt: skip
    prune = click.option("--prune", is_flag=True, help="Also delete every service that the file does not name.")
    return file(prune(function))


@click.command(
    "apply",
    cls=TracedCommand,
    epilog=examples(
        "utilctl apply -f policy.yaml --reason 'launch week'",
        "utilctl apply -f policy.yaml --prune --dry-run",
        "utilctl apply -f - < policy.yaml",
        "utilctl apply -f policy.yaml --if-version 41",
    ),
)
@_file_options
@click.option(
    "--reason", type=Parsed("text", text_for_the_wire("reason")), default="", metavar="TEXT",
    help="Why; kept in the history of every service that changes.",
)  # fmt: skip
@click.option(
    "--if-version", type=VERSION, metavar="REVISION",
    help="Refuse if anybody changed any service after this revision, which diff and export print.",
)  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Check and show what would change; change nothing.")
@output_option
@controller_options
def apply(
    file: Path,
    prune: bool,
    reason: str,
    if_version: int | None,
    dry_run: bool,
    output: str,
    controller: tuple[str, ...],
    timeout_ns: int,
) -> None:
    """Make the stored policies those of FILE, all of them or none.

    An entry is the whole policy of its service: what it leaves out returns to its default. Services that FILE does
    not name stay as they are, unless --prune is given. A hold stays too. An entry without a share only groups its
    children. If somebody else changes one of the services meanwhile, nothing is changed (exit code 4).
    """
    from utilctl_cli.client import ControllerClient
    from utilctl_cli.identity import write_terms
    from utilctl_cli.wording import apply_words
    from utilctl_common.policy_file import load_policies

    content = load_policies(file)
    terms = write_terms(reason, if_version, dry_run=dry_run)
    emit(ControllerClient(controller, timeout_ns).apply(content, prune=prune, terms=terms), output, apply_words)


@click.command(
    "diff",
    cls=TracedCommand,
    epilog=examples(
        "utilctl diff -f policy.yaml",
        "utilctl diff -f policy.yaml --prune -o json",
        "utilctl diff -f policy.yaml --exit-code > /dev/null || echo changed",
    ),
)
@_file_options
@click.option("--exit-code", is_flag=True, help="Exit with 1 if there are changes.")
@output_option
@controller_options
def diff(file: Path, prune: bool, exit_code: bool, output: str, controller: tuple[str, ...], timeout_ns: int) -> None:
    """Show what 'utilctl apply' would change: + a new service, ~ a changed one, - a deleted one (--prune).

    The revision that it prints may be given to 'utilctl apply --if-version', which then makes exactly these changes
    or none.
    """
    from utilctl_cli.client import ControllerClient
    from utilctl_cli.identity import write_terms
    from utilctl_cli.wording import apply_words
    from utilctl_common.policy_file import load_policies

    content = load_policies(file)
    terms = write_terms("", None, dry_run=True)
    document = ControllerClient(controller, timeout_ns).apply(content, prune=prune, terms=terms)
    emit(document, output, apply_words)
    if exit_code and document["changes"]:
        raise click.exceptions.Exit(1)
