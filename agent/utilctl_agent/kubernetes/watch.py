"""Follows the pods of one node: a list, then what changes, for ever.

A watch that the server ends goes on from the version that was told last; bookmarks move that on where no pod changes.
Every other interruption ends in a new list: an API server that is away, restarts or is slow, a version that it has no
longer (410 Gone), an answer that makes no sense. While there is none, what was known last holds; the newest state is
also kept in a file, so that an agent that starts while the API is away controls pods as the last one did.

Lists may be as old as a server's cache, but not older than what was told before: the API then goes back in time for
nobody, and none of thousands of agents makes it read etcd.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import os
import random
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, suppress
from pathlib import Path
from typing import Any, Final, Protocol

from utilctl_agent.kubernetes.pod_labels import Pod, PodLabels, pod_from

_LOG = logging.getLogger(__name__)

FIRST_RETRY_S: Final = 0.5
LAST_RETRY_S: Final = 30.0
STEADY_S: Final = 10.0
"""A watch that lasted so long was one: what comes after it is no longer part of the trouble before."""
ANY_VERSION: Final = "0"
"""Whatever the server has at hand."""
NEWEST_VERSION: Final = ""
MAX_KEPT_PODS: Final = 5_000
"""Pods that the file takes; kubelets run some hundreds at most."""
SAVE_DELAY_S: Final = 1.0
"""Changes within this time are written together."""


class PodsUnavailableError(Exception):
    """The API does not tell, for now. ``hint``: what to do about it if it lasts; empty where waiting is all."""

    def __init__(self, reason: str, hint: str = "") -> None:
        super().__init__(reason)
        self.hint = hint


class VersionGoneError(Exception):
    """The API no longer has the version from which changes were asked for."""


class PodApi(Protocol):
    """What is asked of the API. Both raise PodsUnavailableError and VersionGoneError."""

    async def list(self, at_least: str) -> tuple[list[Mapping[str, Any]], str]:
        """All pods of the node as of version ``at_least`` or later, and the version after which ``changes`` go on.

        ANY_VERSION and NEWEST_VERSION are versions, too. Raises VersionGoneError where the server has not got there.
        """
        ...

    def changes(self, version: str) -> AbstractAsyncContextManager[AsyncIterator[tuple[str, Mapping[str, Any]]]]:
        """What happens after ``version``: ADDED, MODIFIED, DELETED or BOOKMARK, and the pod. Granted once entered.

        Ends when the server ends it, which is no failure.
        """
        ...


class PodWatch:
    """Keeps ``labels`` up to date. ``on_change`` is called when they have changed."""

    def __init__(self, api: PodApi, labels: PodLabels, cache: Path, on_change: Callable[[], None]) -> None:
        self._api = api
        self.labels = self._labels = labels
        self._cache = cache
        self._on_change = on_change
        self._saving: asyncio.TimerHandle | None = None
        self._version = ANY_VERSION
        self._told = ""
        self._granted_s = math.inf
        self.synced = False
        self.restarts = 0

    def recall(self) -> None:
        """Take what an earlier agent kept. A file that cannot be read is as good as none."""
        with suppress(OSError, ValueError, TypeError, KeyError):
            kept = json.loads(self._cache.read_text())
            pods = [
                Pod(str(one["uid"]), str(one["namespace"]), str(one["name"]), dict(one["labels"]), tuple(one["uids"]))
                for one in kept["pods"][:MAX_KEPT_PODS]
            ]
            self._labels.replace(pods)

    async def run(self) -> None:
        """Follow; never returns."""
        retry_s = FIRST_RETRY_S
        try:
            while True:
                self._granted_s = math.inf
                try:
                    await self._list()
                    await self._follow()
                except VersionGoneError:
                    pass
                except PodsUnavailableError as error:
                    self._tell(error)
                self.restarts += 1
                if time.monotonic() - self._granted_s > STEADY_S:
                    retry_s = FIRST_RETRY_S
                # Full jitter: the agents of a whole cluster ask the same servers.
                await asyncio.sleep(random.uniform(0.1, 1.0) * retry_s)  # noqa: S311 - jitter, not a secret
                retry_s = min(LAST_RETRY_S, 2 * retry_s)
        finally:
            if self._saving is not None:
                self._saving.cancel()
                self._save()

    async def _list(self) -> None:
        try:
            documents, self._version = await self._api.list(self._version)
        except VersionGoneError:
            self._version = NEWEST_VERSION
            raise
        before = self._labels.revision
        self._labels.replace(pod for pod in map(pod_from, documents) if pod is not None)
        self.synced = True
        self._changed(before)

    async def _follow(self) -> None:
        while True:
            started_s = time.monotonic()
            async with self._api.changes(self._version) as changes:
                self._granted_s = min(self._granted_s, started_s)
                if self._told:
                    _LOG.warning("Kubernetes tells of pods again")
                    self._told = ""
                told = False
                async for kind, document in changes:
                    told = True
                    self._take(kind, document)
            if not told and time.monotonic() - started_s < 1.0:
                raise PodsUnavailableError("the server ends watches at once")

    def _take(self, kind: str, document: Mapping[str, Any]) -> None:
        before = self._labels.revision
        metadata = document.get("metadata")
        version = metadata.get("resourceVersion") if isinstance(metadata, Mapping) else None
        self._version = version if isinstance(version, str) and version else self._version
        pod = pod_from(document)
        if kind == "DELETED" and pod is not None:
            self._labels.remove(pod.uid)
        elif kind in ("ADDED", "MODIFIED") and pod is not None:
            self._labels.put(pod)
        self._changed(before)

    def _tell(self, error: PodsUnavailableError) -> None:
        if str(error) != self._told:  # once each, not with every try
            self._told = str(error)
            _LOG.warning("pods are not told, labels stay as they were: %s%s", error, _also(error.hint))

    def _changed(self, before: int) -> None:
        if self._labels.revision == before:
            return
        self._on_change()
        if self._saving is None:
            self._saving = asyncio.get_running_loop().call_later(SAVE_DELAY_S, self._save)

    def _save(self) -> None:
        self._saving = None
        pods = [
            {
                "uid": pod.uid,
                "namespace": pod.namespace,
                "name": pod.name,
                "labels": pod.labels,
                "uids": pod.cgroup_uids,
            }
            for pod in self._labels.pods()[:MAX_KEPT_PODS]
        ]
        partial = self._cache.with_name(f"{self._cache.name}.{os.getpid()}")
        try:
            partial.write_text(json.dumps({"pods": pods}))
            partial.replace(self._cache)
        except OSError as error:
            _LOG.warning("what pods there are cannot be kept in %s: %s", self._cache, error.strerror)


def _also(hint: str) -> str:
    return f"; {hint}" if hint else ""
