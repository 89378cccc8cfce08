"""``utilctl sandbox``: one program on a part of a CPU."""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from utilctl_cli.options import examples
from utilctl_common.errors import UsageError
from utilctl_common.quantities import NS_PER_S, parse_duration_ns

if TYPE_CHECKING:
    from utilctl_agent.sandbox import Sandbox, SandboxReport

PASSED_ON: Final = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
"""Signals that are for the program. Ctrl-C and Ctrl-\\ reach it by themselves, from the terminal."""


@click.command(
    short_help="Give one program a part of a CPU.",
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    epilog=examples(
        "utilctl sandbox --cap 25% -- make -j2",
        "utilctl sandbox --cap 50% --pid 4711 --duration 10m",
        "utilctl sandbox --cap 150% -o json -- ./render",
        "utilctl sandbox set 4711 --cap 75%",
    ),
)
@click.option("--cap", default=None, metavar="PERCENT", help="Of one CPU, for example 25%; above 100% for several.")
@click.option("--pid", default=None, type=click.IntRange(min=1), help="Take a process that runs already.")
@click.option("--tree/--no-tree", default=True, show_default=True, help="Cap its children, too.")
@click.option("--duration", default=None, help="Stop capping after this time. [default: when the program ends]")
@click.option(
    "--metric", type=click.Choice(["wait", "state"]), default="wait", show_default=True,
    help="Tell ready time by the kernel's account of waiting, or by the states that are seen.",
)  # fmt: skip
@click.option(
    "--mode", type=click.Choice(["auto", "quota", "freezer", "signal"]), default="auto", show_default=True,
    help="Hold it back by a quota of the kernel, by freezing a cgroup, or by signals.",
)  # fmt: skip
@click.option("-o", "--output", type=click.Choice(["none", "table", "json"]), default="none", show_default=True,
              help="Report to standard error at the end.")  # fmt: skip
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def sandbox(
    *, cap: str | None, pid: int | None, tree: bool, duration: str | None, metric: str, mode: str, output: str,
    command: tuple[str, ...],
) -> int:  # fmt: skip
    """Run COMMAND, or take process PID, so that it progresses as on a slower CPU of its own.

    Whenever it could run, it gets the given part of a CPU; time in which it waits for something else is neither counted
    nor stretched, and what others take from it is made up for. Exit code and signals are the program's own. Works
    without root; whatever happens, it does not stay paused. 'utilctl sandbox set PID --cap PERCENT' changes the cap
    while it runs.
    """
    if cap is None and pid is None and command[:1] == ("set",):
        return _set(command[1:])
    if cap is None:
        raise UsageError("no cap is given", hint="add for example --cap 25%")
    cap_cores = parse_percent(cap)
    if (pid is None) == (not command):
        raise UsageError("give either --pid or a command", hint="write for example utilctl sandbox --cap 25% -- make")
    from utilctl_agent.mechanism import SANDBOX_MODES
    from utilctl_agent.safety.thaw import default_run_dir
    from utilctl_agent.sandbox import Sandbox
    from utilctl_agent.sandbox_control import ControlSocket

    timeout_s = parse_duration_ns(duration) / NS_PER_S if duration is not None else None
    box = Sandbox(
        cap_cores,
        command=command or None,
        pid=pid,
        tree=tree,
        metric="wait" if metric == "wait" else "state",
        mode=next(known for known in SANDBOX_MODES if known == mode),
    )
    with _left_to_the_program(box, taken=pid is not None), box:
        control = ControlSocket(box, Path(default_run_dir()))
        try:
            status = box.wait(timeout_s)
        finally:
            control.close()
        if output != "none":
            _report(box, output)
        if status is None and pid is None:
            status = _uncapped_to_the_end(box)
    return 0 if status is None else status if status >= 0 else 128 - status


def parse_percent(text: str) -> float:
    """``25%``, ``25`` or ``150%`` of one CPU, in cores. Raises UsageError."""
    try:
        percent = float(text.strip().removesuffix("%"))
    except ValueError:
        percent = math.nan
    if not math.isfinite(percent) or percent <= 0:
        raise UsageError(
            f"cap {text!r} is no percentage", hint="write for example 25%, or 150% for one and a half CPUs"
        )
    from utilctl_agent.sandbox import check_cap

    return check_cap(percent / 100.0)


@contextlib.contextmanager
def _left_to_the_program(box: Sandbox, *, taken: bool) -> Iterator[None]:
    """Signals are the program's: passed on, or, from the terminal, for it to decide. One that was taken hears none."""
    before = {number: signal.getsignal(number) for number in (*PASSED_ON, signal.SIGINT, signal.SIGQUIT)}

    def pass_on(number: int, _frame: object) -> None:
        with contextlib.suppress(AssertionError, ProcessLookupError):
            os.kill(box.pid, number)

    def let_go(number: int, _frame: object) -> None:
        sys.exit(128 + number)

    for number in PASSED_ON:
        signal.signal(number, let_go if taken else pass_on)
    for number in (signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, let_go if taken else lambda _number, _frame: None)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _uncapped_to_the_end(box: Sandbox) -> int | None:
    """The time is over: the program runs on without a cap, and its exit code is still ours."""
    box.release()
    return box.wait()


def _report(box: Sandbox, output: str) -> None:
    report = box.report()
    if output == "json":
        click.echo(json.dumps(asdict(report), indent=2), err=True)
        return
    click.echo(_sentence(report), err=True)


def _sentence(report: SandboxReport) -> str:
    problem = f"; {report.problem}" if report.problem else ""
    return (
        f"{100 * report.fraction:.2f} % of a CPU over {report.wall_s:.1f} s, cap {100 * report.cap_cores:g} %, "
        f"paused for {report.paused_s:.1f} s, own CPU time {report.own_cpu_s:.3f} s, "
        f"by {report.mechanism} ({report.reason}){problem}"
    )


@click.command("set")
@click.argument("pid", type=click.IntRange(min=1))
@click.option("--cap", required=True, metavar="PERCENT")
def _set_command(pid: int, cap: str) -> None:
    """Change the cap of a sandbox that runs."""
    from utilctl_agent.safety.thaw import default_run_dir
    from utilctl_agent.sandbox_control import change_cap

    change_cap(Path(default_run_dir()), pid, parse_percent(cap))
    click.echo(f"process {pid} is capped at {cap.removesuffix('%')}% of a CPU")


def _set(arguments: tuple[str, ...]) -> int:
    _set_command.main(list(arguments), prog_name="utilctl sandbox set", standalone_mode=False)
    return 0
