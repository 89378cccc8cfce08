"""Pods as services, put together where an agent is told to follow them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from utilctl_agent.kubernetes.pod_labels import PodLabels
from utilctl_agent.kubernetes.watch import PodWatch
from utilctl_agent.link.settings import AgentSettings
from utilctl_agent.safety.thaw import default_run_dir


def follow_pods(settings: AgentSettings, on_change: Callable[[], None]) -> tuple[PodLabels, PodWatch]:
    """Labels by cgroup, as the last agent knew them, and what keeps them up to date once it runs.

    Raises UsageError where there is no way to the API.
    """
    # Imported late: hosts without pods can do without.
    from utilctl_agent.kubernetes.api import KubernetesPods

    labels = PodLabels(dict(settings.label_map))
    watch = PodWatch(
        KubernetesPods(settings.node), labels, Path(default_run_dir(), f"pods-{settings.journal_name}.json"), on_change
    )
    watch.recall()
    return labels, watch
