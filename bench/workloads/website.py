"""A web site for gunicorn whose every request costs the same CPU time (WSGI).

``SITE_CPU_MS`` of CPU time a request, taken by computing; the answer is a few bytes.
"""

import os
import time
from collections.abc import Callable, Iterable

CPU_NS = round(float(os.environ.get("SITE_CPU_MS", "5")) * 1e6)


def application(
    environ: dict[str, object], start_response: Callable[[str, list[tuple[str, str]]], object]
) -> Iterable[bytes]:
    """Compute, then answer."""
    end_ns = time.thread_time_ns() + CPU_NS
    while time.thread_time_ns() < end_ns:
        pass
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "3")])
    return [b"ok\n"]
