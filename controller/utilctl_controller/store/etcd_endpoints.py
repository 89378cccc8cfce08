"""Where the etcd members listen: from ``HOST:PORT[,HOST:PORT...]`` to one gRPC target."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Final

from utilctl_common.errors import UsageError

_HINT: Final = "write HOST:PORT[,HOST:PORT...], for example etcd:127.0.0.1:2379"
_HOST_NAME: Final = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(\.[A-Za-z0-9_-]{1,63})*\.?")
_LOCALHOST: Final = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The client port of one etcd member. ``host`` is a name or an address without brackets."""

    host: str
    port: int

    @property
    def address(self) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
        """The address if ``host`` is one, None if it is a name."""
        try:
            return ipaddress.ip_address(self.host)
        except ValueError:
            return None

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_endpoints(text: str) -> tuple[Endpoint, ...]:
    """``HOST:PORT[,HOST:PORT...]``, IPv6 addresses in brackets. Raises UsageError naming the faulty part."""
    endpoints = tuple(dict.fromkeys(_parse_endpoint(part.strip()) for part in text.split(",")))
    grpc_target(endpoints)
    return endpoints


def _parse_endpoint(text: str) -> Endpoint:
    host, colon, port_text = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        host = ""  # an IPv6 address without brackets, or a URL
    if not colon or not re.fullmatch(r"[0-9]{1,5}", port_text) or not 0 < int(port_text) < 65536:
        raise UsageError(f"etcd endpoint {text!r} has no port", hint=_HINT)
    endpoint = Endpoint(host, int(port_text))
    if endpoint.address is None and not _HOST_NAME.fullmatch(host):
        raise UsageError(f"etcd endpoint {text!r} has no host", hint=_HINT)
    return endpoint


def grpc_target(endpoints: tuple[Endpoint, ...]) -> str:
    """One gRPC target for all of them.

    gRPC takes a list of addresses of one family, or one name (which may resolve to several addresses): raises
    UsageError for a mixture. ``localhost`` counts as 127.0.0.1.
    """
    if not endpoints:
        raise UsageError("no etcd endpoint is given", hint=_HINT)
    if len(endpoints) == 1 and endpoints[0].address is None:
        return f"dns:///{endpoints[0]}"
    known = [Endpoint(_LOCALHOST, e.port) if e.host == "localhost" else e for e in endpoints]
    families: set[int] = set()
    for endpoint in known:
        if endpoint.address is None:
            raise UsageError(
                f"etcd endpoint {str(endpoint)!r} is a name in a list of several",
                hint="list addresses, or one name alone that resolves to all members",
            )
        families.add(endpoint.address.version)
    if len(families) > 1:
        raise UsageError("etcd endpoints mix IPv4 and IPv6", hint="list addresses of one family")
    return f"ipv{families.pop()}:" + ",".join(str(endpoint) for endpoint in known)
