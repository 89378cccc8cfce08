"""Log lines of programs: text for people, or JSON for what collects logs, a line each on standard error.

JSON lines have ``time``, ``level``, ``logger``, ``message`` and ``host``, and, where a span is current, the names that
OpenTelemetry gives to trace context in logs (``trace_id``, ``span_id``, ``trace_flags``;
https://opentelemetry.io/docs/specs/otel/compatibility/logging_trace_context/). What was raised is told by its semantic
conventions (``exception.type``, ``exception.message``, ``exception.stacktrace``).
"""

from __future__ import annotations

import json
import logging
import sys
import threading
from datetime import UTC, datetime
from types import TracebackType
from typing import Final, Literal

LogFormat = Literal["text", "json"]
LOG_FORMATS: Final[tuple[LogFormat, ...]] = ("text", "json")

_LOG = logging.getLogger(__name__)


def set_up_logs(log_format: LogFormat, *, level: int, text_format: str, host: str) -> None:
    """Log to standard error from now on, whoever logs. ``text_format`` is that of the standard library, for text.

    As JSON also what nobody catches, which Python would print over several lines.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(host) if log_format == "json" else logging.Formatter(text_format))
    logging.basicConfig(level=level, handlers=[handler])
    if log_format == "json":
        sys.excepthook = _log_uncaught
        threading.excepthook = _log_uncaught_in_thread


class JsonFormatter(logging.Formatter):
    """See the module."""

    def __init__(self, host: str) -> None:
        # Imported late: programs that log text, and those that only say how they are used, do without.
        from opentelemetry import trace

        super().__init__()
        self._host = host
        self._trace = trace

    def format(self, record: logging.LogRecord) -> str:
        """One line of ASCII: what strangers put into a message ends no line and reaches no terminal."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            "host": self._host,
        }
        context = self._trace.get_current_span().get_span_context()
        if context.is_valid:
            line["trace_id"] = self._trace.format_trace_id(context.trace_id)
            line["span_id"] = self._trace.format_span_id(context.span_id)
            line["trace_flags"] = f"{context.trace_flags:02x}"
        if record.exc_info and record.exc_info[0] is not None:
            kind, raised, _ = record.exc_info
            line["exception.type"] = f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins.")
            line["exception.message"] = str(raised)
            line["exception.stacktrace"] = self.formatException(record.exc_info)
        return json.dumps(line)


def _log_uncaught(kind: type[BaseException], raised: BaseException, where: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, raised, where)
        return
    _LOG.critical("ends by what nobody caught: %s", raised, exc_info=(kind, raised, where))


def _log_uncaught_in_thread(arguments: threading.ExceptHookArgs) -> None:
    if arguments.exc_value is None or issubclass(arguments.exc_type, SystemExit):
        return
    name = arguments.thread.name if arguments.thread is not None else "a thread"
    raised = (arguments.exc_type, arguments.exc_value, arguments.exc_traceback)
    _LOG.critical("%s ends by what nobody caught: %s", name, arguments.exc_value, exc_info=raised)
