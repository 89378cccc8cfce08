"""``utilctl-agent``: check the command line, then become the guard.

The checks need a command-line library, the guard must stay tiny: so the program replaces itself.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import click

from utilctl_agent.alps.model import CoreSettings
from utilctl_agent.host.alarm import Alarm
from utilctl_agent.host.procstat import read_stat
from utilctl_agent.link.settings import AGENT_MODES, AgentSettings
from utilctl_agent.safety.owners import Owner, living_owners
from utilctl_agent.safety.thaw import default_run_dir, ensure_run_dir
from utilctl_common.errors import ConflictError, UsageError, UtilctlError
from utilctl_common.logs import LOG_FORMATS
from utilctl_common.quantities import parse_address, parse_cpu_list, parse_duration_ns


@click.command(
    epilog="""\b
Examples:
  utilctl-agent --host node-1 --controller ctl-1:7400,ctl-2:7400
  utilctl-agent --host host-a --scope cgroup:/host-a --cpus 0
  utilctl-agent --host laptop --scope tree:4711 --mode signal
  utilctl-agent --host node-1 --controller ctl-1:7400 --take-over
  utilctl-agent --host node-1 --kubernetes --label-map svc=app.kubernetes.io/name
"""
)
@click.option("--host", required=True, metavar="NAME", help="Name of this host in the fleet.")
@click.option(
    "--controller",
    default="127.0.0.1:7400",
    show_default=True,
    envvar="UTILCTL_CONTROLLER",
    metavar="ADDR[,ADDR...]",
    help="Controllers, tried in turn.",
)
@click.option("--scope", metavar="cgroup:PATH|tree:PID", help="Manage only this cgroup subtree or process tree.")
@click.option("--cpus", metavar="LIST", help="CPUs whose time is shared out. [default: all]")
@click.option("--mode", type=click.Choice(AGENT_MODES), default="auto", show_default=True, help="How to hold back.")
@click.option("--quantum", default="10ms", show_default=True, help="Granularity of control.")
@click.option("--cycle", default="100ms", show_default=True, help="Period over which shares come out right.")
@click.option("--kubernetes", is_flag=True, help="Let pods of this node give their labels to their processes.")
@click.option(
    "--node-name",
    envvar="NODE_NAME",
    metavar="NAME",
    help="This host's name in Kubernetes. [default: $NODE_NAME, else --host]",
)
@click.option(
    "--label-map",
    multiple=True,
    metavar="LABEL=POD-LABEL",
    help="With --kubernetes: a label of pods that stands for one of services; may be repeated.",
)
@click.option("--health", default="", metavar="HOST:PORT", help="Serve the gRPC health protocol here.")
@click.option("--metrics", default="", metavar="HOST:PORT", help="Let Prometheus fetch metrics here.")
@click.option(
    "--log-format", type=click.Choice(LOG_FORMATS), default="text", show_default=True, help="How to log: a line each."
)
@click.option("--take-over", is_flag=True, help="Stop the agent that manages this scope, once this one is ready.")
def cli(
    *, host: str, controller: str, scope: str | None, cpus: str | None, mode: str, quantum: str, cycle: str,
    kubernetes: bool, node_name: str | None, label_map: tuple[str, ...], health: str, metrics: str,
    log_format: str, take_over: bool,
) -> AgentSettings:  # fmt: skip
    """Enforce this host's targets: pause services that are over theirs, resume those that are under.

    Without root it manages its own user's processes by signals. Whatever happens to it, nothing stays paused.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,252}", host):
        raise UsageError(f"{host!r} is not a host name", hint="use letters, digits, dots and hyphens")
    available = os.sched_getaffinity(0)
    chosen = parse_cpu_list(cpus) if cpus is not None else tuple(sorted(available))
    if not set(chosen) <= available:
        raise UsageError(f"CPUs {sorted(set(chosen) - available)} are not available", hint=f"use {sorted(available)}")
    settings = AgentSettings(
        host=host,
        controllers=tuple(part.strip() for part in controller.split(",") if part.strip()),
        scope=scope,
        cpus=chosen,
        mode=next(known for known in AGENT_MODES if known == mode),
        quantum_ns=parse_duration_ns(quantum),
        cycle_ns=parse_duration_ns(cycle),
        take_over=take_over,
        kubernetes=kubernetes,
        node=node_name or host,
        label_map=tuple(map(_label_pair, label_map)),
        health=health,
        metrics=metrics,
        log_format=next(known for known in LOG_FORMATS if known == log_format),
    )
    if label_map and not kubernetes:
        raise UsageError("--label-map needs --kubernetes", hint="add it, or leave the map out")
    for address in (health, metrics):
        if address:
            parse_address(address)
    if not settings.controllers:
        raise UsageError("no controller is named", hint="use --controller HOST:PORT")
    CoreSettings(quantum_ns=settings.quantum_ns, cycle_ns=settings.cycle_ns)
    if scope is not None:
        _check_scope(scope)
    return settings


def _label_pair(text: str) -> tuple[str, str]:
    of_service, equals, of_pod = text.partition("=")
    if not (equals and of_service and of_pod):
        raise UsageError(f"{text!r} names no two labels", hint="write for example svc=app.kubernetes.io/name")
    return of_service, of_pod


def _check_scope(scope: str) -> None:
    from utilctl_agent.discovery.cgroupfs import cgroup_mounts
    from utilctl_agent.discovery.procfs import ProcReader
    from utilctl_agent.discovery.scope import parse_scope

    parse_scope(scope, ProcReader(), cgroup_mounts(Path("/proc")))


def _check_vacant(settings: AgentSettings, run_dir: str) -> None:
    """Refuse to be the second: two agents would pause and resume the same processes against each other.

    A guard that is stopped looks after nothing. A start then undoes what a hanging loop left behind, and waits.
    """
    owners = [owner for owner in living_owners(run_dir, settings.journal_name) if not _is_stopped(owner)]
    if owners and not settings.take_over:
        raise ConflictError(
            f"an agent (pid {owners[0].pid}) manages {settings.scope or 'this host'} already",
            hint="stop it, or start this one with --take-over",
        )


def _is_stopped(owner: Owner) -> bool:
    stat = read_stat(owner.pid) if owner.reachable else None
    return stat is not None and stat[0] in (b"T", b"t")


def guard_argv(settings: AgentSettings, alarm_fd: int) -> list[str]:
    """The command line of the guard for these settings; it inherits ``alarm_fd`` (module ``host.alarm``)."""
    return [
        sys.executable,
        "-m",
        "utilctl_agent.safety.guard",
        default_run_dir(),
        settings.journal_name,
        "-1",
        str(alarm_fd),
        str(settings.max_pause_ns),
        settings.to_json(),
    ]


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Entry point."""
    try:
        settings = cli.main(args=argv, standalone_mode=False)
        if not isinstance(settings, AgentSettings):
            raise SystemExit(0)  # --help
        _check_vacant(settings, ensure_run_dir(default_run_dir()))
        alarm_fd = Alarm().fileno()
        os.set_inheritable(alarm_fd, True)
    except click.ClickException as error:
        sys.stderr.write(f"utilctl-agent: error: {error.format_message()}; see utilctl-agent --help\n")
        raise SystemExit(2) from None
    except UtilctlError as error:
        sys.stderr.write(f"utilctl-agent: error: {error}\n")
        raise SystemExit(error.exit_code) from None
    except OSError as error:
        sys.stderr.write(f"utilctl-agent: error: {error}\n")
        raise SystemExit(1) from None
    sys.stdout.flush()
    argv_of_guard = guard_argv(settings, alarm_fd)
    os.execv(sys.executable, argv_of_guard)  # noqa: S606 - the guard replaces this program


if __name__ == "__main__":
    main()
