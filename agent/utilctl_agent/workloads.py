"""What ``utilctl alps`` is asked to run, and what it answers. Plain values."""

from __future__ import annotations

import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from utilctl_agent.mechanism import Mode
from utilctl_agent.orders import Algorithm
from utilctl_common.errors import UsageError
from utilctl_common.quantities import NS_PER_S

_SHELL_TEXT: Final = """
. : [ alias break case cd command continue echo eval exec exit export false fg for getopts hash if jobs kill local
printf pwd read readonly return set shift test times trap true type ulimit umask unset until wait while { ! (
"""
_SHELL_WORDS: Final = frozenset(_SHELL_TEXT.split())
"""Words that the shell itself understands (POSIX); anything else that a command begins with is a program."""


def check_command(command: str) -> None:
    """Raise UsageError for a command that cannot start: unbalanced quotes, or a program that is not there.

    A command is run by the shell, so only its first word can be judged, and only if that is plain.
    """
    try:
        words = shlex.split(command, comments=True)
    except ValueError as error:
        raise UsageError(f"command {command!r} is malformed: {error}") from None
    while words and (words[0] == "exec" or "=" in words[0].split("/")[0]):
        words = words[1:]
    if not words:
        raise UsageError(f"command {command!r} runs nothing", hint="write --run SHARE:COMMAND")
    first = words[0].rstrip(";")
    plain = not set(first) & set("$`|&;<>(){}*?~")
    if plain and first not in _SHELL_WORDS and shutil.which(first) is None:
        raise UsageError(f"there is no program {first!r}", hint="give its path, or check PATH")


@dataclass(frozen=True, slots=True)
class Workload:
    """One principal: its share and exactly one of a shell command to start, running processes, or a cgroup."""

    share: float
    command: str | None = None
    pids: tuple[int, ...] = ()
    cgroup: Path | None = None


@dataclass(frozen=True, slots=True)
class LocalSettings:
    """What to run and how. ``duration_ns`` or ``cycles`` end the run, whichever comes first; at least one is set.

    mode: how to hold back, see ``mechanism``; ``observe`` goes with the algorithm ``none``.
    """

    workloads: tuple[Workload, ...]
    quantum_ns: int
    cpus: tuple[int, ...]
    algorithm: Algorithm
    duration_ns: int | None
    cycles: int | None
    max_pause_ns: int = NS_PER_S
    mode: Mode = "auto"


@dataclass(frozen=True, slots=True)
class CycleRow:
    """One finished cycle: number, end (CLOCK_MONOTONIC ns), and consumption in the order of the workloads."""

    cycle: int
    end_ns: int
    cpu_ns: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class PrincipalResult:
    """What one workload got. Fractions are of the CPU time of all workloads together."""

    name: str
    share: float
    cpu_s: float
    fraction: float
    target_fraction: float
    paused_s: float
    problem: str


@dataclass(frozen=True, slots=True)
class LocalResult:
    """Outcome of a run. ``overhead_pct`` counts every process of ours while it controlled, in percent of one CPU;
    ``cycle_stretch`` is how many times longer than asked for cycles were at its end.
    """

    algorithm: str
    quantum_ms: float
    cycles: int
    wall_s: float
    overhead_pct: float
    startup_cpu_s: float
    rms_relative_error_pct: float
    wakeups_per_s: float
    mechanism: str
    mechanism_reason: str
    loop_class: str
    late_mean_us: float
    late_max_us: float
    cycle_stretch: float
    principals: tuple[PrincipalResult, ...]
