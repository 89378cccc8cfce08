"""Numbers that users type: shares, cores, durations, percentages. One parser each, one error style.

Durations are integer nanoseconds everywhere behind these functions.
"""

from __future__ import annotations

import math
import re
from typing import Final

from utilctl_common.errors import UsageError

NS_PER_US: Final = 1_000
NS_PER_MS: Final = 1_000_000
NS_PER_S: Final = 1_000_000_000

MIN_SHARE: Final = 1e-3
MAX_SHARE: Final = 1e6
"""Bounds of a share. Nine decades keep every allowance at least a nanosecond in a ten-second cycle."""

MAX_CORES: Final = 1e6
"""Largest floor or cap in cores. Arbitrary: above any host, below float trouble."""

_UNITS_NS: Final = {"ns": 1, "us": NS_PER_US, "ms": NS_PER_MS, "s": NS_PER_S, "m": 60 * NS_PER_S,
                    "h": 3600 * NS_PER_S, "d": 86400 * NS_PER_S}  # fmt: skip
_ADDRESS: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):(\d{1,5})")
_DURATION: Final = re.compile(r"(\d{1,15}(?:\.\d{1,15})?)(ns|us|ms|s|m|h|d)")


def _finite(text: str, what: str, hint: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise UsageError(f"{what} {text!r} is not a number", hint=hint) from None
    if not math.isfinite(value):
        raise UsageError(f"{what} {text!r} is not a finite number", hint=hint)
    return value


def check_share(value: float) -> float:
    """Return ``value`` if it is a share between MIN_SHARE and MAX_SHARE; raise UsageError otherwise."""
    hint = f"use a number from {MIN_SHARE:g} to {MAX_SHARE:g}, for example 3"
    if not math.isfinite(value):
        raise UsageError(f"share {value} is not a finite number", hint=hint)
    if value <= 0:
        raise UsageError(f"share {value:g} is not positive", hint=hint)
    if not MIN_SHARE <= value <= MAX_SHARE:
        raise UsageError(f"share {value:g} is out of range", hint=hint)
    return value


def parse_share(text: str) -> float:
    """A share as typed by a user. Raises UsageError for text, NaN, infinities and values out of range."""
    return check_share(_finite(text, "share", f"use a number from {MIN_SHARE:g} to {MAX_SHARE:g}"))


def check_cores(value: float, what: str) -> float:
    """Return ``value`` if it is a sane number of cores (0 to MAX_CORES); raise UsageError naming ``what``."""
    if not math.isfinite(value) or not 0 <= value <= MAX_CORES:
        raise UsageError(f"{what} {value:g} is not a number of cores", hint="use for example 0.5 or 2")
    return value


def parse_cores(text: str, what: str) -> float:
    """Cores as typed by a user; ``what`` names the field in the error."""
    return check_cores(_finite(text, what, "use a number of cores, for example 0.5"), what)


def parse_duration_ns(text: str) -> int:
    """``10ms``, ``1.5s``, ``1h`` as integer nanoseconds. Raises UsageError without a unit or if not positive."""
    match = _DURATION.fullmatch(text.strip())
    if not match:
        raise UsageError(f"{text!r} is not a duration", hint="write a number and a unit, for example 10ms or 1.5s")
    value_ns = round(float(match[1]) * _UNITS_NS[match[2]])
    if value_ns <= 0:
        raise UsageError(f"duration {text!r} is not positive", hint="write for example 10ms")
    return value_ns


def parse_cpu_list(text: str) -> tuple[int, ...]:
    """``0``, ``0,2``, ``0-3`` as sorted CPU numbers. Raises UsageError otherwise."""
    cpus: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"(\d{1,4})(?:-(\d{1,4}))?", part.strip())
        if not match:
            raise UsageError(f"{text!r} is not a list of CPUs", hint="write for example 0 or 0,2 or 0-3")
        first, last = int(match[1]), int(match[2] or match[1])
        cpus.update(range(first, last + 1))
    if not cpus:
        raise UsageError(f"{text!r} names no CPU", hint="write for example 0 or 0-3")
    return tuple(sorted(cpus))


def parse_address(text: str) -> tuple[str, int]:
    """``HOST:PORT`` as (host, port). Raises UsageError."""
    match = _ADDRESS.fullmatch(text)
    if not match or int(match[2]) > 65_535:
        raise UsageError(f"{text!r} is not an address", hint="write HOST:PORT, for example 127.0.0.1:7400")
    return match[1], int(match[2])
