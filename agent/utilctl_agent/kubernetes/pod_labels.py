"""What pods are there on this node and how they are labelled, as told by the API; a LabelSource for discovery.

Pure but for its own state: told what the API says, asked by discovery. Answers never wait for the API. What was known
holds while the API cannot be reached: a pod that is gone meanwhile has no processes to ask for.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from utilctl_agent.discovery.facts import CgroupPath
from utilctl_agent.kubernetes.pod_paths import pods_of
from utilctl_agent.kubernetes.waiting import waiting_pods

MIRROR_ANNOTATIONS: Final = ("kubernetes.io/config.mirror", "kubernetes.io/config.hash")
"""Annotations of the API's copy of a static pod with the uid that the kubelet, and so the cgroup, has for it."""


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod as the API tells it. ``cgroup_uids`` are those that its cgroups may carry: its own, and a static pod's."""

    uid: str
    namespace: str
    name: str
    labels: Mapping[str, str]
    cgroup_uids: tuple[str, ...]


class PodLabels:
    """Labels by cgroup. ``label_map`` gives other labels of pods the names that services go by: service's to pod's.

    A pod that has the service's label itself keeps it. For one thread.
    """

    def __init__(self, label_map: Mapping[str, str] | None = None) -> None:
        self.revision = 0
        self._label_map = dict(label_map or {})
        self._pods: dict[str, Pod] = {}
        self._by_cgroup_uid: dict[str, Pod] = {}

    def pods(self) -> list[Pod]:
        """All that are known, by namespace and name."""
        return sorted(self._pods.values(), key=lambda pod: (pod.namespace, pod.name))

    def replace(self, pods: Iterable[Pod]) -> None:
        """These are all there are."""
        fresh = {pod.uid: pod for pod in pods}
        if fresh != self._pods:
            self._pods = fresh
            self._by_cgroup_uid = {uid: pod for pod in fresh.values() for uid in pod.cgroup_uids}
            self.revision += 1

    def put(self, pod: Pod) -> None:
        """This one is new, or has changed."""
        before = self._pods.get(pod.uid)
        if before == pod:
            return
        if before is not None:
            self._forget(before)
        self._pods[pod.uid] = pod
        self._by_cgroup_uid.update(dict.fromkeys(pod.cgroup_uids, pod))
        self.revision += 1

    def remove(self, uid: str) -> None:
        """This one is gone. Nothing happens if it is not known."""
        pod = self._pods.pop(uid, None)
        if pod is not None:
            self._forget(pod)
            self.revision += 1

    def labels_of(self, cgroups: tuple[CgroupPath, ...]) -> Mapping[str, str]:
        """Labels of the pod that owns these cgroups; empty if none does, or the API has not told of it yet."""
        pod = self.pod_of(cgroups)
        return self._labels_of(pod) if pod is not None else {}

    def waiting(self, services: Collection[str]) -> dict[str, int]:
        """See waiting.waiting_pods."""
        return waiting_pods(map(self._labels_of, self._pods.values()), services, self._label_map)

    def pod_of(self, cgroups: tuple[CgroupPath, ...]) -> Pod | None:
        """The pod that owns these cgroups: of several around each other the innermost that this cluster knows."""
        for _, path in cgroups:
            for found in reversed(pods_of(path)):
                pod = self._by_cgroup_uid.get(found.uid)
                if pod is not None:
                    return pod
        return None

    def _labels_of(self, pod: Pod) -> Mapping[str, str]:
        labels = dict(pod.labels)
        for of_service, of_pod in self._label_map.items():
            if of_pod in pod.labels:
                labels.setdefault(of_service, pod.labels[of_pod])
        return labels

    def _forget(self, pod: Pod) -> None:
        for uid in pod.cgroup_uids:
            if self._by_cgroup_uid.get(uid) == pod:
                del self._by_cgroup_uid[uid]


def pod_from(document: Mapping[str, object]) -> Pod | None:
    """A pod from the API's JSON; None if it is none, or one without what identifies it."""
    metadata = document.get("metadata")
    if not isinstance(metadata, Mapping):
        return None
    uid, name, namespace = (metadata.get(key) for key in ("uid", "name", "namespace"))
    if not (isinstance(uid, str) and uid and isinstance(name, str) and isinstance(namespace, str)):
        return None
    annotations = _texts(metadata.get("annotations"))
    uids = [uid, *(annotations[key] for key in MIRROR_ANNOTATIONS if annotations.get(key))]
    return Pod(uid, namespace, name, _texts(metadata.get("labels")), tuple(dict.fromkeys(uids)))


def _texts(mapping: object) -> dict[str, str]:
    if not isinstance(mapping, Mapping):
        return {}
    return {key: value for key, value in mapping.items() if isinstance(key, str) and isinstance(value, str)}
