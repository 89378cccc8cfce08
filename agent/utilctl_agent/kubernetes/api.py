"""The Kubernetes API: pods of one node, listed and watched. What is asked of it, and what its answers mean.

Lists come from the API server's cache (``resourceVersion`` set, no ``limit``): a list of the newest state, or one in
pages, makes it look at all pods that etcd has, for every agent that starts. Only metadata is asked for, a small part of
a pod, and only of pods that have not ended. What versions, watches and bookmarks mean:
https://kubernetes.io/docs/reference/using-api/api-concepts/
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any, Final
from urllib.parse import urlencode

from utilctl_agent.kubernetes.credentials import Access, Credentials, find_credentials
from utilctl_agent.kubernetes.http import HttpError, Response, get
from utilctl_agent.kubernetes.watch import PodsUnavailableError, VersionGoneError

WATCH_S: Final = 290
"""How long the server is asked to go on with one watch. Its own bound is half an hour; proxies' is often 300 s."""
SILENCE_S: Final = 310.0
"""A watch that has said nothing for longer than it was to last is dead."""
LIST_S: Final = 60.0
"""For a whole list."""
MAX_LIST_BYTES: Final = 64 * 1024 * 1024
"""Metadata of thousands of pods. A node has some hundred."""
MAX_EVENT_BYTES: Final = 4 * 1024 * 1024
"""One pod. etcd takes 1.5 MB."""
MAX_STATUS_BYTES: Final = 64 * 1024
"""Of what is said with a refusal."""
PATH: Final = "/api/v1/pods"
METADATA_ONLY: Final = "application/json;as=PartialObjectMetadata{};g=meta.k8s.io;v=v1, application/json"
OK: Final = 200
GONE: Final = 410
UNSEEN: Final = "ResourceVersionTooLarge"
"""Reason of a server that has not seen the version yet, as after etcd was restored from a backup."""

_FORBIDDEN_HINT: Final = "let the agent's service account get, list and watch pods (the chart's role does)"


class KubernetesPods:
    """See watch.PodApi. Pods of node ``node``."""

    def __init__(self, node: str, credentials: Credentials | None = None) -> None:
        """Raises UsageError where there is neither a service account nor a kubeconfig file."""
        self._access = Access(credentials or find_credentials())
        self._selector = {"fieldSelector": f"spec.nodeName={node},status.phase!=Succeeded,status.phase!=Failed"}

    async def list(self, at_least: str) -> tuple[list[Mapping[str, Any]], str]:
        """See PodApi."""
        pods: list[Mapping[str, Any]] = []
        query = {"resourceVersion": at_least} if at_least else {}
        while True:
            async with self._get(query, "List") as response:
                page = await _read(response)
            metadata, items = page.get("metadata"), page.get("items") or []
            if not isinstance(metadata, dict) or not isinstance(items, list):
                raise PodsUnavailableError("the answer makes no sense: it is no list")
            pods += [item for item in items if isinstance(item, dict)]
            if not metadata.get("continue"):
                return pods, str(metadata.get("resourceVersion") or "")
            query = {"continue": str(metadata["continue"])}  # unasked for; what stands before it is in there

    @asynccontextmanager
    async def changes(self, version: str) -> AsyncIterator[AsyncIterator[tuple[str, Mapping[str, Any]]]]:
        """See PodApi."""
        query = {
            "watch": "true",
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(WATCH_S),
        }
        async with self._get(query, "") as response:
            yield _events(response)

    @asynccontextmanager
    async def _get(self, query: Mapping[str, str], of: str) -> AsyncIterator[Response]:
        """An answer that is not a refusal."""
        target = f"{self._access.base_path}{PATH}?{urlencode({**self._selector, **query})}"
        try:
            headers = {"Accept": METADATA_ONLY.format(of), "User-Agent": "utilctl-agent", **self._access.headers()}
            origin = self._access.origin()
        except (OSError, ValueError) as error:
            raise PodsUnavailableError(f"the agent's credentials cannot be used: {error}") from None
        try:
            async with get(origin, target, headers) as response:
                if response.status != OK:
                    raise await _refusal(response)
                yield response
        except HttpError as error:
            raise PodsUnavailableError(str(error)) from None


async def _events(response: Response) -> AsyncIterator[tuple[str, Mapping[str, Any]]]:
    async for line in response.lines(MAX_EVENT_BYTES, SILENCE_S):
        event = _mapping(line)
        kind, told = event.get("type"), event.get("object")
        if not isinstance(kind, str) or not isinstance(told, dict):
            raise PodsUnavailableError("the answer makes no sense: an event without type or object")
        if kind == "ERROR":
            raise _meaning(told.get("code"), told)
        yield kind, told


async def _read(response: Response) -> dict[str, Any]:
    return _mapping(await response.body(MAX_LIST_BYTES, LIST_S))


async def _refusal(response: Response) -> Exception:
    """What a status other than 200 comes to. The body, a Status, is a courtesy: proxies send pages."""
    status: Mapping[str, Any] = {}
    with suppress(HttpError, PodsUnavailableError):
        status = _mapping(await response.body(MAX_STATUS_BYTES, LIST_S))
    return _meaning(response.status, status)


def _meaning(code: object, status: Mapping[str, Any]) -> Exception:
    message = status.get("message")
    said = message if isinstance(message, str) and message else f"status {code} and no reason given"
    if code == GONE or UNSEEN in json.dumps(status.get("details")):
        return VersionGoneError(said)
    return PodsUnavailableError(said, _FORBIDDEN_HINT if code in (401, 403) else "")


def _mapping(text: bytes) -> dict[str, Any]:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise PodsUnavailableError(f"the answer makes no sense: {error}") from None
    if not isinstance(document, dict):
        raise PodsUnavailableError("the answer makes no sense: it is no object")
    return document
