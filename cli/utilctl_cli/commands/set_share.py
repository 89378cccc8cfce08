"""``utilctl set-share``: create or change one service's policy."""

from __future__ import annotations

import click

from utilctl_cli.options import (
    FLOOR,
    SEE,
    SHARE,
    Parsed,
    TracedCommand,
    controller_options,
    examples,
    output_option,
    parse_cap,
    text_for_the_wire,
    write_options,
)
from utilctl_cli.output import emit
from utilctl_common.errors import UsageError
from utilctl_common.matchers import MATCHER_KEYS, Matcher, parse_matchers
from utilctl_common.policy import MODES
from utilctl_common.quantities import parse_share

_NO_CAP = object()
"""What ``--cap none`` parses to: None already means that the option was not given."""


def _cap_or_marker(text: str) -> object:
    cap_cores = parse_cap(text)
    return _NO_CAP if cap_cores is None else cap_cores


class SetShareCommand(TracedCommand):
    """Reads a share such as -1 as the bad number it is, not as an unknown option."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse as click does. Raises UsageError for a negative share."""
        typed = list(args)
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            for argument in typed:
                if argument.startswith(error.option_name) and _is_number(argument):
                    parse_share(argument)
            raise


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


@click.command(
    "set-share",
    cls=SetShareCommand,
    epilog=examples(
        "utilctl set-share svc=web 3",
        "utilctl set-share svc=web 3 --floor 0.5 --cap 4 --reason 'launch week'",
        "utilctl set-share svc=web/class=gold 2",
        "utilctl set-share svc=db 2 --match user=postgres",
        "utilctl set-share svc=web --cap none --if-version 7",
    ),
)
@click.argument("see", metavar="SERVICE", type=SEE)
@click.argument("share", metavar="[SHARE]", type=SHARE, required=False)
@click.option("--floor", "floor_cores", type=FLOOR, metavar="CORES", help="CPU guaranteed while there is demand.")
@click.option(
    "--cap",
    type=Parsed("cores", _cap_or_marker),
    metavar="CORES|none",
    help="Hard ceiling over the whole fleet.",
)
@click.option(
    "--match", "match", multiple=True, type=Parsed("matcher", text_for_the_wire("matcher")),
    metavar="KEY=VALUE[,...]|none",
    help=f"Which processes belong to it: commas are AND, repeats are OR; keys {', '.join(MATCHER_KEYS)}. "
    "none: back to processes and pods labelled with the service's name.",
)  # fmt: skip
@click.option("--mode", type=click.Choice(MODES), help="How agents may hold it back.")
@write_options
@output_option
@controller_options
def set_share(
    see: str,
    share: float | None,
    floor_cores: float | None,
    cap: object,
    match: tuple[str, ...],
    mode: str | None,
    reason: str,
    if_version: int | None,
    dry_run: bool,
    output: str,
    controller: tuple[str, ...],
    timeout_ns: int,
) -> None:
    """Give SERVICE the share SHARE of the fleet's CPU.

    Bigger is always more CPU; shares count relative to the other services at the same level. A service that
    does not exist is created. What is not named keeps its stored value, the share too.
    """
    matchers = _matchers(match)
    if share is None and floor_cores is None and cap is None and matchers is None and mode is None:
        raise UsageError("nothing to set", hint=f"write for example 'utilctl set-share {see} 3'")
    from utilctl_cli.client import ControllerClient
    from utilctl_cli.codec import ShareChange
    from utilctl_cli.identity import write_terms
    from utilctl_cli.wording import set_share_words

    change = ShareChange(
        see=see,
        share=share,
        floor_cores=floor_cores,
        cap_cores=cap if isinstance(cap, float) else None,
        clear_cap=cap is _NO_CAP,
        mode=mode,
        matchers=matchers,
    )
    terms = write_terms(reason, if_version, dry_run=dry_run)
    emit(ControllerClient(controller, timeout_ns).set_share(change, terms), output, set_share_words)


def _matchers(texts: tuple[str, ...]) -> tuple[Matcher, ...] | None:
    """What --match asks for; None where it was not given, empty for ``none``."""
    if not texts:
        return None
    if "none" in texts:
        if len(texts) > 1:
            raise UsageError("--match none stands beside another --match", hint="use one or the other")
        return ()
    return parse_matchers(texts)
