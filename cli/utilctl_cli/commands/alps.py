"""``utilctl alps``: proportional shares for programs on this host, without a controller."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from utilctl_cli.interrupts import end_as_after_ctrl_c
from utilctl_common.errors import UsageError
from utilctl_common.quantities import parse_cpu_list, parse_duration_ns, parse_share

if TYPE_CHECKING:
    from utilctl_agent.workloads import CycleRow, LocalResult, Workload


@click.command(
    short_help="Run programs with proportional shares on this host.",
    epilog="""\b
Examples:
  utilctl alps --run '1:gzip -9 < a > a.gz' --run '2:make -j2' --duration 60s
  utilctl alps --run '1:./a' --run '2:./b' --run '3:./c' --cpus 0 --duration 10s -o json
  utilctl alps --pids 1:4711 --pids 3:4712,4713 --quantum 20ms --cycles 100
  utilctl alps --groups 1:cgroup:/sys/fs/cgroup/batch --groups 3:cgroup:/sys/fs/cgroup/web
""",
)
@click.option("--run", "runs", multiple=True, metavar="SHARE:COMMAND", help="Start COMMAND (by the shell).")
@click.option("--pids", multiple=True, metavar="SHARE:PID,PID", help="Take processes that already run, as one.")
@click.option("--groups", multiple=True, metavar="SHARE:cgroup:PATH", help="Take a cgroup as it is.")
@click.option("--quantum", default="10ms", show_default=True, help="Granularity of control, 1ms to 10s.")
@click.option("--cpus", default=None, metavar="LIST", help="CPUs to share, for example 0 or 0-3. [default: all]")
@click.option("--duration", default=None, help="Stop after this time. [default: 10s unless --cycles is given]")
@click.option("--cycles", default=None, type=click.IntRange(min=1), help="Stop after this many cycles.")
@click.option(
    "--algorithm",
    type=click.Choice(["default", "paper", "paper-unoptimized", "none"]),
    default="default",
    show_default=True,
    help="The default scheduler, the ALPS paper's, or none (measure only).",
)
@click.option("--cycle-log", type=click.Path(dir_okay=False, path_type=Path), help="Write a CSV row a cycle.")
@click.option(
    "--mode",
    type=click.Choice(["auto", "freezer", "freezer-v1", "signal", "weight", "observe"]),
    default=None,
    help="How to hold back; auto takes the best that this host allows. [default: auto]",
)
@click.option("--signals", is_flag=True, help="The same as --mode signal.")
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
def alps(
    runs: tuple[str, ...],
    pids: tuple[str, ...],
    groups: tuple[str, ...],
    quantum: str,
    cpus: str | None,
    duration: str | None,
    cycles: int | None,
    algorithm: str,
    cycle_log: Path | None,
    mode: str | None,
    signals: bool,
    output: str,
) -> None:
    """Run programs so that the CPU time they get follows their shares.

    Each program is paused when it has used up its allowance of a cycle and resumed in the next one. As root each gets
    a cgroup of its own, which is frozen; otherwise its processes are stopped by signals. With --mode weight nobody is
    paused: the kernel shares by weights, which are corrected by what each got. Whatever happens, nothing stays paused
    and every weight is put back.
    """
    from utilctl_agent.local import run_local
    from utilctl_agent.mechanism import MODES
    from utilctl_agent.orders import ALGORITHMS
    from utilctl_agent.workloads import LocalSettings

    end_as_after_ctrl_c()
    if signals and mode not in (None, "signal"):
        raise UsageError(f"--signals and --mode {mode} contradict each other", hint="drop one of them")
    mode = "signal" if signals else mode or "auto"
    workloads = (*(_command(t) for t in runs), *(_processes(t) for t in pids), *(_cgroup(t) for t in groups))
    if duration is None and cycles is None:
        duration = "10s"
    settings = LocalSettings(
        workloads=workloads,
        quantum_ns=parse_duration_ns(quantum),
        cpus=parse_cpu_list(cpus) if cpus is not None else _all_cpus(),
        algorithm=next(a for a in ALGORITHMS if a == algorithm),
        duration_ns=parse_duration_ns(duration) if duration is not None else None,
        cycles=cycles,
        mode=next(m for m in MODES if m == mode),
    )
    with ExitStack() as stack:
        log = stack.enter_context(_cycle_log(cycle_log, len(workloads))) if cycle_log is not None else None
        result = run_local(settings, log)
    if output == "json":
        click.echo(json.dumps(asdict(result), indent=2))
    else:
        _print(result)


@contextmanager
def _cycle_log(path: Path, count: int) -> Iterator[Callable[[CycleRow], None]]:
    """A CSV file with a row a cycle. Raises UsageError if it cannot be written."""
    try:
        file = path.open("w", newline="")
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}") from None
    with file:
        writer = csv.writer(file)
        writer.writerow(["cycle", "end_ns", *(f"p{index}" for index in range(count))])
        yield lambda row: writer.writerow([row.cycle, row.end_ns, *row.cpu_ns])


def _split(text: str, option: str, form: str) -> tuple[float, str]:
    share, colon, rest = text.partition(":")
    if not colon or not rest.strip():
        raise UsageError(f"{option} {text!r} is incomplete", hint=f"write {option} {form}")
    return parse_share(share), rest


def _command(text: str) -> Workload:
    from utilctl_agent.workloads import Workload

    share, command = _split(text, "--run", "SHARE:COMMAND")
    return Workload(share, command=command)


def _processes(text: str) -> Workload:
    from utilctl_agent.workloads import Workload

    share, listed = _split(text, "--pids", "SHARE:PID,PID")
    numbers = listed.split(",")
    if not all(number.strip().isdecimal() and int(number) > 0 for number in numbers):
        raise UsageError(f"--pids {text!r} names something that is not a process id", hint="write SHARE:PID,PID")
    return Workload(share, pids=tuple(int(number) for number in numbers))


def _cgroup(text: str) -> Workload:
    from utilctl_agent.workloads import Workload

    share, rest = _split(text, "--groups", "SHARE:cgroup:PATH")
    kind, _, path = rest.partition(":")
    if kind != "cgroup" or not path.startswith("/"):
        raise UsageError(f"--groups {text!r} names no cgroup", hint="write SHARE:cgroup:/sys/fs/cgroup/...")
    return Workload(share, cgroup=Path(path))


def _all_cpus() -> tuple[int, ...]:
    import os

    return tuple(sorted(os.sched_getaffinity(0)))


def _print(result: LocalResult) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for heading in ("share", "target", "measured", "cpu", "paused"):
        table.add_column(heading, justify="right")
    table.add_column("command", overflow="ellipsis", no_wrap=True)
    for principal in result.principals:
        table.add_row(
            f"{principal.share:g}",
            f"{100 * principal.target_fraction:.2f} %",
            f"{100 * principal.fraction:.2f} %",
            f"{principal.cpu_s:.2f} s",
            f"{principal.paused_s:.2f} s",
            principal.name + (f"  ({principal.problem})" if principal.problem else ""),
        )
    console = Console()
    console.print(table)
    console.print(
        f"{result.cycles} cycles in {result.wall_s:.1f} s, error a cycle {result.rms_relative_error_pct:.2f} %, "
        f"overhead {result.overhead_pct:.2f} %, {result.wakeups_per_s:.0f} wake-ups/s, "
        f"by {result.mechanism} ({result.mechanism_reason}), loop class {result.loop_class}",
        highlight=False,
    )
    if result.cycle_stretch > 1:
        console.print(
            f"Cycles were made {result.cycle_stretch:.1f} times longer than asked for, because pausing and resuming "
            "so many processes takes long.",
            highlight=False,
        )
