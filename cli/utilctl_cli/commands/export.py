"""``utilctl export``: all policies as a policy file, which ``utilctl apply`` takes."""

from __future__ import annotations

import click

from utilctl_cli.documents import ExportDocument
from utilctl_cli.options import TracedCommand, controller_options, examples, output_option
from utilctl_cli.output import emit


@click.command(
    "export",
    cls=TracedCommand,
    epilog=examples(
        "utilctl export > policy.yaml",
        "utilctl export --controller old:7400 | utilctl apply -f -",
        "utilctl export -o json",
    ),
)
@output_option
@controller_options
def export(output: str, controller: tuple[str, ...], timeout_ns: int) -> None:
    """Write every service's policy as a policy file; its first line says at which revision.

    'utilctl apply' takes the file back and then has nothing to change. Holds are left out: they are no policy, and
    end. With -o json also who changed each policy last.
    """
    from utilctl_cli.client import ControllerClient
    from utilctl_common.policy_file import dump_policies

    document, policies = ControllerClient(controller, timeout_ns).export()

    def as_file(document: ExportDocument) -> str:
        return f"# revision {document['revision']}\n{dump_policies(policies)}".rstrip("\n")

    emit(document, output, as_file)
