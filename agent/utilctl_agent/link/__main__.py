"""``python -m utilctl_agent.link CONTROL_FD GUARD_FD ALARM_FD JOURNAL SETTINGS``; started by the guard only."""

from __future__ import annotations

import asyncio
import ctypes
import logging
import signal
import sys

from utilctl_agent.channel import Channel
from utilctl_agent.link.app import LinkApp
from utilctl_agent.link.settings import AgentSettings
from utilctl_agent.safety.journal import Journal
from utilctl_common.errors import UtilctlError
from utilctl_common.logs import set_up_logs

_LOG = logging.getLogger("utilctl_agent.link")

_PR_SET_PDEATHSIG = 1


def main() -> int:
    """Returns the exit status."""
    control_fd, guard_fd, alarm_fd = map(int, sys.argv[1:4])
    channel = Channel.from_fd(control_fd)
    journal = Journal.open(sys.argv[4])
    settings = AgentSettings.from_json(sys.argv[5])
    set_up_logs(settings.log_format, level=logging.INFO, text_format="utilctl-agent: %(message)s", host=settings.host)
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)

    async def serve() -> int:
        app = LinkApp(settings, channel, guard_fd, alarm_fd, journal)
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, app.stop)
        return await app.run()

    try:
        return asyncio.run(serve())
    except UtilctlError as error:
        _LOG.error("error: %s", error)
        return error.exit_code


if __name__ == "__main__":
    raise SystemExit(main())
