"""``utilctl plan``: who would get what, for a fleet in a file or for the one there is. Nothing is changed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from utilctl_cli.options import (
    SEE,
    Parsed,
    TracedCommand,
    controller_options,
    examples,
    output_option,
    parse_cap,
)
from utilctl_cli.output import emit
from utilctl_common.errors import UsageError
from utilctl_common.names import parse_see_name
from utilctl_common.quantities import parse_cores, parse_share

if TYPE_CHECKING:
    from utilctl_cli.plan_codec import PlannedChange
    from utilctl_controller.plan import Plan

Assignment = tuple[str, float | None]


def _assignment(example: str, parse: Callable[[str], float | None]) -> Callable[[str], Assignment]:
    """A parser of ``SERVICE=VALUE``; the name of a service has an = of its own."""

    def parsed(text: str) -> Assignment:
        see, _, value = text.rpartition("=")
        if "=" not in see or not value:
            raise UsageError(f"{text!r} names no service and value", hint=f"write for example {example}")
        return parse_see_name(see), parse(value)

    return parsed


SET = Parsed("service=share", _assignment("--set svc=web=5", parse_share))
_FLOOR = Parsed("service=cores", _assignment("--floor svc=web=0.5", lambda text: parse_cores(text, "floor")))
_CAP = Parsed("service=cores", _assignment("--cap svc=web=4", parse_cap))


@click.command(
    "plan",
    cls=TracedCommand,
    epilog=examples(
        "utilctl plan -f fleet.yaml",
        "utilctl plan --live --set svc=web=5",
        "utilctl plan --live --set svc=web=5 --set svc=etl=1 --cap svc=etl=none",
        "utilctl plan --live --delete svc=batch -o json",
    ),
)
@click.option(
    "-f", "--file", "file", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
    help="Fleet to plan: mode, hosts and services, as YAML.",
)  # fmt: skip
@click.option("--live", is_flag=True, help="Plan for the fleet as it is now, with what it wants now.")
@click.option(
    "--set", "shares", multiple=True, type=SET, metavar="SERVICE=SHARE", help="With --live: what if it had this share?"
)
@click.option("--floor", "floors", multiple=True, type=_FLOOR, metavar="SERVICE=CORES", help="The same of a floor.")
@click.option("--cap", "caps", multiple=True, type=_CAP, metavar="SERVICE=CORES|none", help="The same of a cap.")
@click.option("--delete", "deletions", multiple=True, type=SEE, metavar="SERVICE", help="What if it were not managed?")
@output_option
@controller_options
def plan(
    file: Path | None,
    live: bool,
    shares: tuple[Assignment, ...],
    floors: tuple[Assignment, ...],
    caps: tuple[Assignment, ...],
    deletions: tuple[str, ...],
    output: str,
    controller: tuple[str, ...],
    timeout_ns: int,
) -> None:
    """Compute who would get what where; nothing is changed.

    With -f for hosts, services and demands given in a file, without any controller. With --live for the fleet as the
    controller knows it now: what would happen if shares, floors or caps were changed, or services deleted.
    """
    asked = bool(shares or floors or caps or deletions)
    if live == (file is not None):
        raise UsageError(
            "give either -f FILE or --live", hint="utilctl plan --live --set svc=web=5 asks the controller"
        )
    if file is not None:
        if asked:
            raise UsageError("--set, --floor, --cap and --delete need --live", hint="change the file instead")
        from utilctl_controller.plan import load_fleet
        from utilctl_controller.plan import plan as planned

        emit(planned(load_fleet(file)), output, _text)
        return
    if not asked:
        raise UsageError("no change is given", hint="give one, for example --set svc=web=5")
    from utilctl_cli.client import ControllerClient
    from utilctl_cli.render import live_plan

    changes = planned_changes(shares, floors, caps, deletions)
    emit(ControllerClient(controller, timeout_ns).plan_live(changes), output, live_plan)


def _text(document: Plan) -> str:
    from utilctl_cli import render

    return render.plan(document)


def planned_changes(
    shares: Iterable[Assignment], floors: Iterable[Assignment], caps: Iterable[Assignment], deletions: Iterable[str]
) -> list[PlannedChange]:
    """One change for each service that is named. Raises UsageError for two values of one thing."""
    from utilctl_cli.plan_codec import PlannedChange

    changes: dict[str, PlannedChange] = {}

    def change_of(see: str) -> PlannedChange:
        return changes.setdefault(see, PlannedChange(see))

    for see, share in shares:
        _once(see, "share", change_of(see).share)
        change_of(see).share = share
    for see, floor_cores in floors:
        _once(see, "floor", change_of(see).floor_cores)
        change_of(see).floor_cores = floor_cores
    for see, cap_cores in caps:
        change = change_of(see)
        _once(see, "cap", change.cap_cores if not change.clear_cap else 0.0)
        change.cap_cores, change.clear_cap = cap_cores, cap_cores is None
    for see in deletions:
        if see in changes:
            raise UsageError(f"{see} is both changed and deleted, or deleted twice", hint="name it once")
        change_of(see).delete = True
    return list(changes.values())


def _once(see: str, what: str, before: float | None) -> None:
    if before is not None:
        raise UsageError(f"two {what}s are given for {see}", hint="give one of them")
