"""``utilctl predict``: response times under shares, caps or neither, computed before anything is set."""

from __future__ import annotations

from pathlib import Path

import click

from utilctl_cli.commands.plan import SET, Assignment, planned_changes
from utilctl_cli.options import Parsed, TracedCommand, controller_options, examples, output_option
from utilctl_cli.output import emit
from utilctl_common.errors import UsageError
from utilctl_common.quantities import NS_PER_S, parse_cores, parse_duration_ns, parse_share

DEFAULT_POINTS = 21
MAX_POINTS = 1000
"""Most points of a sweep. Arbitrary; more than a plot shows."""

Sweep = tuple[str, str, str]
GoalText = tuple[str, float]


def _parse_sweep(text: str) -> Sweep:
    """``svc=web=0.1..5`` as name, first and last. Raises UsageError."""
    name, _, values = text.rpartition("=")
    first, dots, last = values.partition("..")
    if not (name and dots and first and last):
        raise UsageError(f"{text!r} names no workload and range", hint="write for example --sweep svc=web=0.1..5")
    return name, first, last


def _parse_goal(text: str) -> GoalText:
    """``svc=web<2s`` as name and seconds. Raises UsageError."""
    name, sign, limit = text.rpartition("<")
    if not (name and sign):
        raise UsageError(f"{text!r} is no goal", hint="write for example --goal 'svc=web<2s', in quotes")
    return name.strip(), parse_duration_ns(limit) / NS_PER_S


@click.command(
    "predict",
    cls=TracedCommand,
    epilog=examples(
        "utilctl predict -f workloads.yaml",
        "utilctl predict -f workloads.yaml --sweep svc=web=0.1..5 --plot web.png",
        "utilctl predict -f workloads.yaml --goal 'svc=web<2s' -o json",
        "utilctl predict --live --set svc=web=5",
    ),
)
@click.option(
    "-f", "--file", "file", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
    help="Workloads: semantics, cores, shares, utilizations and service times, as YAML.",
)  # fmt: skip
@click.option(
    "--sweep", type=Parsed("range", _parse_sweep), metavar="NAME=LOW..HIGH",
    help="Response times of all while this share (or floor, or cap) goes from LOW to HIGH.",
)  # fmt: skip
@click.option(
    "--points", type=click.IntRange(2, MAX_POINTS), metavar="N", help=f"Points of a sweep.  [default: {DEFAULT_POINTS}]"
)
@click.option(
    "--plot", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE.png",
    help="Draw the sweep, too; needs matplotlib (pip install 'utilctl[plot]').",
)  # fmt: skip
@click.option(
    "--goal", "goals", multiple=True, type=Parsed("goal", _parse_goal), metavar="'NAME<TIME'",
    help="Find the smallest share (or floor, or cap) with which NAME takes less; may be repeated.",
)  # fmt: skip
@click.option("--live", is_flag=True, help="Predict for the fleet as it is now, from what its hosts measure.")
@click.option(
    "--set", "shares", multiple=True, type=SET, metavar="SERVICE=SHARE", help="With --live: what if it had this share?"
)
@output_option
@controller_options
def predict(
    file: Path | None,
    sweep: Sweep | None,
    points: int | None,
    plot: Path | None,
    goals: tuple[GoalText, ...],
    live: bool,
    shares: tuple[Assignment, ...],
    output: str,
    controller: tuple[str, ...],
    timeout_ns: int,
) -> None:
    """Predict mean response times from shares, before anything is set.

    A guarantee is there when it is needed, and others use it otherwise; a cap is never exceeded; none means that all
    are served alike. docs/response-times.md explains the difference, which is large.
    """
    if live == (file is not None):
        raise UsageError("give either -f FILE or --live", hint="utilctl predict -f workloads.yaml asks nobody")
    if live:
        if sweep is not None or goals:
            raise UsageError("--sweep and --goal need -f", hint="describe the workloads in a file")
        _predict_live(shares, output, controller, timeout_ns)
        return
    assert file is not None
    if shares:
        raise UsageError("--set needs --live", hint="change the file instead")
    if sweep is None and (points is not None or plot is not None):
        raise UsageError("--points and --plot belong to --sweep", hint="add for example --sweep svc=web=0.1..5")
    if sweep is not None and goals:
        raise UsageError("give --sweep or --goal, not both")
    from utilctl_cli import predict_render
    from utilctl_common.responsetime.predict import predict as predicted
    from utilctl_common.workload_file import load_workloads

    machine = load_workloads(file)
    if goals:
        from utilctl_common.responsetime.goals import Goal, smallest

        answer = smallest(machine, [Goal(name, below_s) for name, below_s in goals])
        emit(predict_render.goal_document(answer), output, predict_render.goals)
    elif sweep is not None:
        from utilctl_common.responsetime.knobs import knob
        from utilctl_common.responsetime.sweep import sweep as swept

        name, first, last = sweep
        what = knob(machine, name)
        ends = [parse_share(text) if what == "share" else parse_cores(text, what) for text in (first, last)]
        result = swept(machine, name, ends[0], ends[1], points or DEFAULT_POINTS)
        document = predict_render.sweep_document(result)
        if plot is not None:
            from utilctl_cli.predict_plot import draw

            draw(document, plot)
        emit(document, output, predict_render.sweep)
    else:
        emit(predict_render.prediction_document(predicted(machine)), output, predict_render.prediction)


def _predict_live(shares: tuple[Assignment, ...], output: str, controller: tuple[str, ...], timeout_ns: int) -> None:
    from utilctl_cli import predict_render
    from utilctl_cli.client import ControllerClient
    from utilctl_cli.predict_live import live_prediction

    client = ControllerClient(controller, timeout_ns)
    plan = client.plan_live(planned_changes(shares, (), (), ())) if shares else None
    emit(live_prediction(client.services()["services"], client.hosts()["hosts"], plan), output, predict_render.live)
