"""The ``utilctl`` program: its commands by name, and the place where errors become a line and an exit code.

Commands are imported when they run: ``utilctl --help`` needs none of them and costs little more than click.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from io import TextIOWrapper
from typing import Final

import click

from utilctl_cli.failures import INTERRUPTED, OUTPUT_CLOSED, describe_failure
from utilctl_cli.lazy import LazyCommand, LazyGroup

COMMANDS: Final = {
    "set-share": LazyCommand(
        "utilctl_cli.commands.set_share:set_share", "Give a service its share of the fleet's CPU."
    ),
    "get": LazyCommand("utilctl_cli.commands.get:get", "Show services, hosts, or one service's share."),
    "explain": LazyCommand("utilctl_cli.commands.explain:explain", "Say why a service gets the CPU it gets."),
    "history": LazyCommand("utilctl_cli.commands.history:history", "Show who changed which share, when and why."),
    "delete": LazyCommand("utilctl_cli.commands.delete:delete", "Stop managing a service."),
    "apply": LazyCommand("utilctl_cli.commands.apply:apply", "Store a whole policy file as one transaction."),
    "diff": LazyCommand("utilctl_cli.commands.apply:diff", "Show what applying a policy file would change."),
    "export": LazyCommand("utilctl_cli.commands.export:export", "Write all policies as a policy file."),
    "hold": LazyCommand("utilctl_cli.commands.hold:hold", "Keep a service's targets as they are for a while."),
    "release": LazyCommand("utilctl_cli.commands.hold:release", "End a hold before its time."),
    "disable": LazyCommand("utilctl_cli.commands.switch:disable", "Emergency: let nobody be held back on any host."),
    "enable": LazyCommand("utilctl_cli.commands.switch:enable", "Let shares hold again after disable."),
    "plan": LazyCommand(
        "utilctl_cli.commands.plan:plan", "Compute who would get what: from a file, or for the live fleet."
    ),
    "predict": LazyCommand(
        "utilctl_cli.commands.predict:predict", "Predict response times from shares, caps and utilizations."
    ),
    "alps": LazyCommand("utilctl_cli.commands.alps:alps", "Share this host's CPU between commands or processes."),
    "sandbox": LazyCommand("utilctl_cli.commands.sandbox:sandbox", "Give one program a part of a CPU."),
    "thaw": LazyCommand("utilctl_cli.commands.thaw:thaw", "Resume whatever agents on this host left paused."),
    "demo": LazyCommand("utilctl_cli.commands.demo:demo", "Watch shares at work on this machine."),
}
"""Every command: where it lives, and its line in ``utilctl --help``."""

_COMPLETION_VARIABLE: Final = "_UTILCTL_COMPLETE"


@click.group(
    cls=LazyGroup,
    lazy_commands=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Run 'utilctl COMMAND --help' for the options and examples of a command.",
)
@click.version_option(package_name="utilctl", message="%(prog)s %(version)s")
def cli() -> None:
    """One number, its share, for every hosted service; the CPU it gets follows, fleet-wide."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; errors are one line on standard error, never a traceback.

    ``argv`` leaves out the program's name; None takes it from ``sys.argv``.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    # grpc's C core would write its own lines about refused connections beside our one line.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    _write_what_the_terminal_cannot_show_as_escapes()
    if _COMPLETION_VARIABLE in os.environ:
        cli.main(arguments, prog_name="utilctl", complete_var=_COMPLETION_VARIABLE)
    try:
        with cli.make_context("utilctl", arguments) as context:
            result = cli.invoke(context)
        if sys.stdout is not None:  # None when the caller closed it
            sys.stdout.flush()
    except click.exceptions.Exit as done:
        return done.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        _let_nothing_more_be_written()
        return OUTPUT_CLOSED
    except Exception as error:  # noqa: BLE001 - the outermost barrier: no traceback reaches an operator
        failure = describe_failure(error)
        click.echo(failure.text, err=True)
        if failure.output_is_broken:
            _let_nothing_more_be_written()
        return failure.exit_code
    return result if isinstance(result, int) else 0


def _write_what_the_terminal_cannot_show_as_escapes() -> None:
    """A reason in Japanese on a Latin-1 terminal must not end a command that already did its work."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _let_nothing_more_be_written() -> None:
    """Python flushes standard output once more at exit and would complain about what is already known."""
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.close(null)
    except OSError:  # no descriptors left: the complaint at exit is the lesser evil
        return


if __name__ == "__main__":
    sys.exit(main())
