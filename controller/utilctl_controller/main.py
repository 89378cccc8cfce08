"""``utilctl-controller``: keeps policy, decides who gets what where, tells the agents, answers the command
line."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Final, NoReturn

import click

from utilctl_common.errors import UsageError, UtilctlError
from utilctl_common.logs import LOG_FORMATS, LogFormat, set_up_logs
from utilctl_common.quantities import parse_address, parse_duration_ns
from utilctl_controller.settings import MODES, ControllerSettings, parse_mode
from utilctl_controller.store.open import open_store

_LOG = logging.getLogger("utilctl_controller")


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--listen", default="127.0.0.1:7400", show_default=True, metavar="HOST:PORT",
    help="Address to serve on; port 0 takes a free one.",
)  # fmt: skip
@click.option(
    "--advertise", default="", metavar="HOST:PORT",
    help="Where agents and utilctl reach this controller while it leads.  [default: the address of --listen]",
)  # fmt: skip
@click.option(
    "--store", "store_spec", required=True, metavar="SPEC",
    help="Where policies are kept: sqlite:PATH or etcd:HOST:PORT[,HOST:PORT...].",
)  # fmt: skip
@click.option(
    "--etcd-tls", type=click.Path(path_type=Path, file_okay=False), envvar="UTILCTL_ETCD_TLS", metavar="FOLDER",
    help="Speak TLS to etcd: ca.crt, and tls.crt with tls.key if it asks for one.",
)  # fmt: skip
@click.option(
    "--report-interval", default="1s", show_default=True, help="How often agents report and shares are moved."
)
@click.option("--lease", default="15s", show_default=True, help="How long an agent holds its targets when cut off.")
@click.option(
    "--mode", type=click.Choice(MODES), default="fleet", show_default=True, help="How the fleet is allocated."
)
@click.option("--metrics", default="", metavar="HOST:PORT", help="Let Prometheus fetch metrics here.")
@click.option(
    "--log-format", type=click.Choice(LOG_FORMATS), default="text", show_default=True, help="How to log: a line each."
)
@click.option("--verbose", "-v", is_flag=True, help="Log agents coming and going.")
def cli(
    listen: str,
    advertise: str,
    store_spec: str,
    etcd_tls: Path | None,
    report_interval: str,
    lease: str,
    mode: str,
    metrics: str,
    log_format: LogFormat,
    verbose: bool,
) -> None:
    """Serve one controller until SIGTERM or SIGINT.

    Several on one store elect a leader; the others send everybody there, and one takes over within seconds when it is
    gone.

    \b
    Examples:
      utilctl-controller --store sqlite:/var/lib/utilctl/policy.db
      utilctl-controller --listen 0.0.0.0:7400 --advertise ctl-1:7400 --store etcd:e1:2379,e2:2379,e3:2379
    """
    set_up_logs(
        log_format,
        level=logging.INFO if verbose else logging.WARNING,
        text_format="%(levelname)s %(message)s",
        host=socket.gethostname(),
    )
    settings = ControllerSettings(
        listen=listen,
        advertise=advertise,
        report_interval_ns=parse_duration_ns(report_interval),
        lease_ns=parse_duration_ns(lease),
        mode=parse_mode(mode),
    )
    if metrics:
        parse_address(metrics)
    try:
        asyncio.run(_serve(settings, store_spec, etcd_tls, metrics, log_format))
    except UtilctlError as error:
        if log_format == "text":
            raise
        _LOG.error("%s", error)
        sys.exit(error.exit_code)


GC_THRESHOLDS: Final = (20_000, 20, 200)
"""Thousands of hosts are millions of objects that stay, and a look at all of them takes half a second, in which nobody
is heard; what is to be collected are the few cycles that errors and streams leave."""


SWITCH_S: Final = 0.0005
"""How long one thread may keep the interpreter from another one: an allocation, for example, from the thread that
brings what agents say. Arbitrary; the default of 5 ms adds up to seconds when there are thousands of them."""


async def _serve(
    settings: ControllerSettings, store_spec: str, etcd_tls: Path | None, metrics: str, log_format: LogFormat
) -> None:
    gc.set_threshold(*GC_THRESHOLDS)
    sys.setswitchinterval(SWITCH_S)
    # What goes wrong in grpc's core reaches us as an error; its own log lines would stand beside our one.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    # Imported late: the server brings grpc and the SDK, which --help and a usage error can do without.
    from utilctl_common.telemetry import setup
    from utilctl_controller.server import SERVICE_NAME, serving

    started, stop = asyncio.Event(), asyncio.Event()
    this = asyncio.current_task()

    def end() -> None:
        stop.set()
        if not started.is_set() and this is not None:
            this.cancel()  # a start may wait long for a store that is away

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end)
    store = open_store(store_spec, etcd_tls)
    telemetry = setup(SERVICE_NAME, always_sdk=True, scraped_at=metrics)
    try:
        async with serving(settings, store, telemetry) as address:
            started.set()
            if log_format == "json":
                _LOG.setLevel(logging.INFO)
                _LOG.info("listening on %s", address)
            else:
                click.echo(f"utilctl-controller listening on {address}")
            await stop.wait()
    except asyncio.CancelledError:
        if not stop.is_set():
            raise
    finally:
        telemetry.shutdown(0.2)
        if started.is_set():
            # A start that was broken off may have left a call in the store, which closing would wait for.
            store.close()


def main() -> NoReturn:
    """Console entry point. Exit codes: 0 stopped, 1 failed, 2 usage, 3 store unreachable."""
    try:
        cli.main(standalone_mode=False)
    except click.exceptions.Abort:
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(UsageError.exit_code)
    except UtilctlError as error:
        click.echo(f"utilctl-controller: {error}", err=True)
        sys.exit(error.exit_code)
    sys.exit(0)


if __name__ == "__main__":
    main()
