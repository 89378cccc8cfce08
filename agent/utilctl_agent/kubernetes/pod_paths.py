"""Which pods a cgroup path belongs to, by the names that the kubelet and container runtimes give.

The kubelet names cgroups of pods in one of two ways (kubernetes/pkg/kubelet/cm/cgroup_manager_linux.go):

- *cgroupfs* driver: ``/kubepods/burstable/pod<uid>``, without the middle part for guaranteed pods;
- *systemd* driver: ``/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod<uid>.slice``, with the uid's
  dashes written as underscores.

Below are cgroups of containers: ``<id>`` or ``crio-<id>``, or units as ``cri-containerd-<id>.scope``,
``crio-<id>.scope``, ``docker-<id>.scope``. A containerd that was left at the cgroupfs driver beside a kubelet at the
systemd one makes ``.../kubepods-burstable-pod<uid>.slice:cri-containerd:<id>``. A kubelet with ``--cgroup-root``, or
one that itself runs in a container (kind, k3d), has all this below further parts, which then also prefix slices:
``kubelet-kubepods-pod<uid>.slice``. The uid of a static pod is a hash, 32 digits without dashes.

Pure: text in, values out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal

QosClass = Literal["guaranteed", "burstable", "besteffort"]

_UID: Final = r"(?P<uid>[0-9a-f]{8}(?P<dash>[-_])(?:[0-9a-f]{4}(?P=dash)){3}[0-9a-f]{12}|[0-9a-f]{32})"
_PLAIN: Final = re.compile(rf"pod{_UID}")
_SLICE: Final = re.compile(
    rf"(?:[^/]*-)?kubepods(?:-(?P<qos>burstable|besteffort))?-pod{_UID}\.slice(?::[^:]+:(?P<container>[0-9a-f]{{64}}))?"
)
_PARENT: Final = re.compile(r"(?:[^/]*-)?kubepods(?:-(?P<qos>burstable|besteffort))?(?:\.slice)?")
_CONTAINER: Final = re.compile(r"(?:[a-z][a-z-]*-)?(?P<id>[0-9a-f]{64})(?:\.scope)?")
_REMEMBERED: Final = 4096
"""Paths whose answer is kept. A node has a few hundred containers."""


@dataclass(frozen=True, slots=True)
class PodCgroup:
    """A pod that a cgroup belongs to. ``uid`` has dashes; ``container`` is None for the pod's own cgroup."""

    uid: str
    qos: QosClass
    container: str | None


@lru_cache(maxsize=_REMEMBERED)
def pods_of(path: str) -> tuple[PodCgroup, ...]:
    """The pods whose cgroups ``path`` lies in, outermost first: more than one where a pod runs a cluster of its own."""
    parts = path.split("/")
    found: list[PodCgroup] = []
    for position, part in enumerate(parts):
        match = _SLICE.fullmatch(part)
        qos = match["qos"] if match else None
        container = match["container"] if match else None
        if match is None:
            match = _PLAIN.fullmatch(part)
            if match is None:
                continue
            above = _kubelet_above(parts[:position])
            if above is None:
                continue  # somebody else's directory that happens to be called so
            qos = above
        if container is None and position + 1 < len(parts):
            below = _CONTAINER.fullmatch(parts[position + 1])
            container = below["id"] if below else None
        found.append(PodCgroup(match["uid"].replace("_", "-"), _qos(qos), container))
    return tuple(found)


def _kubelet_above(parts: list[str]) -> str | None:
    """The QoS part between ``kubepods`` and a pod (empty: none), or None if there is no ``kubepods`` above."""
    if not parts:
        return None
    if parts[-1] in ("burstable", "besteffort"):
        return parts[-1] if len(parts) > 1 and _PARENT.fullmatch(parts[-2]) else None
    parent = _PARENT.fullmatch(parts[-1])
    return None if parent is None else parent["qos"] or ""


def _qos(text: str | None) -> QosClass:
    if text == "burstable":
        return "burstable"
    return "besteffort" if text == "besteffort" else "guaranteed"
