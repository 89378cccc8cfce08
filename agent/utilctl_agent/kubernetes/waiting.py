"""Pods that wait for a share: their label names a service that has none, so that nobody controls them.

Pure. Without this, a label with a slip of the pen is noticed by nobody.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import Final

from utilctl_common.errors import UsageError
from utilctl_common.names import label_pairs, parse_see_name

SERVICE_LABEL: Final = "svc"
"""Names a service, whatever other labels do."""
MAX_WAITING: Final = 100
"""Services that a host tells of; those with most pods."""


def waiting_pods(
    labels_by_pod: Iterable[Mapping[str, str]], services: Collection[str], mapped: Collection[str] = ()
) -> dict[str, int]:
    """Pods by the service that they name and that is not among ``services``; by name, at most MAX_WAITING of them.

    Labels that name services are SERVICE_LABEL, ``mapped`` (those that pods' own labels stand for) and those by which
    any of ``services`` goes. A pod of which one label names a service with a share is not waiting.
    """
    roots = {label_pairs(service)[0] for service in services}
    keys = list(dict.fromkeys([SERVICE_LABEL, *mapped, *sorted(key for key, _ in roots)]))
    found: Counter[str] = Counter()
    for labels in labels_by_pod:
        named = [(key, labels[key]) for key in keys if labels.get(key)]
        if named and roots.isdisjoint(named):
            found.update(name for name in map(_service, named[:1]) if name)
    return dict(sorted(found.most_common(MAX_WAITING)))


def _service(pair: tuple[str, str]) -> str:
    """Empty for a label that can name none, as one with a slash in its key."""
    try:
        return parse_see_name("=".join(pair))
    except UsageError:
        return ""
