"""The Kubernetes API by lightkube: pods of one node, listed and watched. The only module that knows the library.

Credentials are those of the pod's service account, read anew when they have been rotated, or of a kubeconfig file.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any, Final

import httpx2
import msgspec
from lightkube import ALL_NS, AsyncClient, KubeConfig
from lightkube.core.exceptions import ApiError, ConfigError, LoadResourceError
from lightkube.generic_resource import create_namespaced_resource

from utilctl_agent.kubernetes.watch import PodsUnavailableError, VersionGoneError
from utilctl_common.errors import UsageError

if TYPE_CHECKING:
    from lightkube.core.client import FieldSelector

WATCH_S: Final = 290
"""How long the server is asked to go on with one watch. Its own bound is half an hour; proxies' is often 300 s."""
SILENCE_S: Final = 310.0
"""A watch that has said nothing for longer than it was to last is dead."""
GONE: Final = 410

logging.getLogger("httpx2").setLevel(logging.WARNING)  # it says every request at the level of our own news

_FORBIDDEN_HINT: Final = "let the agent's service account get, list and watch pods (the chart's role does)"
_Pod: Final = create_namespaced_resource("", "v1", "Pod", "pods")


class KubernetesPods:
    """See watch.PodApi. Pods of node ``node``."""

    def __init__(self, node: str, config: KubeConfig | None = None) -> None:
        """Raises UsageError where there is neither a service account nor a kubeconfig file."""
        try:
            found = config or KubeConfig.from_env()
            timeout = httpx2.Timeout(10.0, read=SILENCE_S)
            self._client = AsyncClient(config=found, timeout=timeout, trust_env=False)
        except (ConfigError, LoadResourceError, KeyError, OSError, ValueError) as error:
            raise UsageError(
                f"there is no way to the Kubernetes API: {error}",
                hint="run in a pod with a service account, or set KUBECONFIG",
            ) from None
        self._fields: FieldSelector = {"spec.nodeName": node}

    async def list(self) -> tuple[list[Mapping[str, Any]], str]:
        """See PodApi."""
        try:
            listed = self._client.list(_Pod, namespace=ALL_NS, fields=self._fields, chunk_size=500)
            pods = [_document(pod) async for pod in listed]
            version = listed.resourceVersion
        except Exception as error:  # noqa: BLE001 - of many kinds, all told apart there
            raise _told(error) from None
        return pods, version

    async def changes(self, version: str) -> AsyncIterator[tuple[str, Mapping[str, Any]]]:
        """See PodApi."""
        watching = self._client.watch(
            _Pod, namespace=ALL_NS, fields=self._fields, resource_version=version, server_timeout=WATCH_S
        )
        try:
            async for kind, pod in watching:
                yield kind, _document(pod)
        except Exception as error:  # noqa: BLE001 - of many kinds, all told apart there
            raise _told(error) from None

    async def close(self) -> None:
        """See PodApi."""
        await self._client.close()


def _document(pod: Any) -> Mapping[str, Any]:  # noqa: ANN401 - a class made by the library
    metadata = pod.metadata
    return {
        "metadata": {
            "uid": metadata.uid,
            "name": metadata.name,
            "namespace": metadata.namespace,
            "labels": metadata.labels,
            "annotations": metadata.annotations,
            "resourceVersion": metadata.resourceVersion,
        }
    }


def _told(error: Exception) -> Exception:
    """What is raised instead: what went wrong, by what it means here."""
    if isinstance(error, ApiError):
        code, message = error.status.code, error.status.message or "no reason given"
        if code == GONE:
            return VersionGoneError(message)
        return PodsUnavailableError(message, _FORBIDDEN_HINT if code in (401, 403) else "")
    if isinstance(error, httpx2.HTTPError):
        return PodsUnavailableError(str(error) or type(error).__name__)
    if isinstance(error, msgspec.MsgspecError | ValueError | AttributeError | TypeError):
        return PodsUnavailableError(f"the answer makes no sense: {error}")
    return PodsUnavailableError(f"{type(error).__name__}: {error}")
