"""Names close to one that was mistyped."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

MAX_SUGGESTIONS: Final = 3
"""How many names an error line may suggest. Arbitrary; more would not be read."""


def near_names(wrong: str, known: Iterable[str]) -> list[str]:
    """At most MAX_SUGGESTIONS of ``known`` that ``wrong`` may have meant, likeliest first.

    Compares without regard to case. Names that begin with ``wrong`` come first, then similar ones.
    """
    from difflib import get_close_matches

    names = {name.lower(): name for name in sorted(known, reverse=True)}
    lowered = wrong.lower()
    begun = [name for name in sorted(names) if len(lowered) > 1 and name.startswith(lowered)]
    similar = get_close_matches(lowered, names, n=MAX_SUGGESTIONS, cutoff=0.6)
    return [names[name] for name in dict.fromkeys([*begun, *similar])][:MAX_SUGGESTIONS]
