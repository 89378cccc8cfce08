"""Everything that is odd about talking to etcd through the ``etcd3`` package, behind one small typed client.

- etcd3 0.12.0 ships modules generated for protobuf <= 3.20, which fail to import today. ``_load_etcd3`` reads
  the serialized descriptors out of their source and builds the messages with the installed protobuf.
- Its client takes one host and one port, and joins them with a colon; a list of addresses fits into the host.
- Its transactions hide the revision, and its watcher spins while the server is away and leaves a thread
  behind; so this module uses its messages and stubs.
- Its errors drop the server's words; here each gRPC status becomes an error that says what may have happened.
"""

from __future__ import annotations

import ast
import importlib.util
import queue
import re
import sys
import threading
import types
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import grpc
from google.protobuf import descriptor_pool
from google.protobuf.internal import builder

from utilctl_common.errors import FailedError, UsageError
from utilctl_common.quantities import NS_PER_S
from utilctl_controller.store.etcd_endpoints import Endpoint, grpc_target
from utilctl_controller.store.etcd_tls import EtcdTls

_MAX_MESSAGE_BYTES: Final = 1 << 30
"""gRPC's own limit of 4 MiB is below one page of large policies. Arbitrary: above any sane database page."""

_CHANNEL_OPTIONS: Final = (
    ("grpc.lb_policy_name", "round_robin"),
    ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
    ("grpc.enable_http_proxy", 0),
    ("grpc.enable_retries", 0),  # what may be repeated is decided by the store, which knows
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 1_000),  # the default of 120 s would outlast any outage
    ("grpc.keepalive_time_ms", 10_000),  # etcd refuses clients that ping more often than every 5 s
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),
)
MAX_OPERATIONS: Final = 40
"""Operations and conditions in one list of a transaction. etcd takes 128 (--max-txn-ops) along each path of nested
lists, so three levels fit: 64,000 operations, more than the size of a request allows."""

_MAX_REVISION: Final = 2**63 - 2

_LEADER_METADATA: Final = (("hasleader", "true"),)
"""Makes a member that lost its leader end the stream instead of keeping it open in silence."""

_POLL_S: Final = 0.1
"""How often a watch looks at its stop event. Arbitrary: below what people notice."""

_QUEUE_RESPONSES: Final = 64
"""Responses read ahead of a slow consumer before gRPC's flow control holds the server back. Arbitrary."""


class EtcdError(Exception):
    """Base; ``str(error)`` is what went wrong, without a full stop."""


class EtcdUnavailableError(EtcdError):
    """No answer: a write may or may not have happened. Trying again may help."""


class EtcdRefusedError(EtcdError):
    """The server, or this client, refused the call: it did not happen, and repeating it does not help."""


class EtcdTooLargeError(EtcdError):
    """The request is larger than the server takes. It did not happen."""


class EtcdCompactedError(EtcdError):
    """The revision asked for has been compacted away."""


@dataclass(frozen=True, slots=True)
class KeyValue:
    """One key. ``version`` counts its writes since it was created; revisions are the store's."""

    key: str
    value: bytes
    version: int
    create_revision: int
    mod_revision: int


@dataclass(frozen=True, slots=True)
class RangeResult:
    """Keys found, the store's revision when they were read, and whether there are more."""

    kvs: tuple[KeyValue, ...]
    revision: int
    more: bool


@dataclass(frozen=True, slots=True)
class TxnResult:
    """``found`` holds what is stored under each of the keys asked for if the comparison failed."""

    succeeded: bool
    revision: int
    found: tuple[KeyValue | None, ...]


@dataclass(frozen=True, slots=True)
class WatchEvent:
    """``kv`` is the key as written, None if it was deleted."""

    key: str
    kv: KeyValue | None
    mod_revision: int


@dataclass(frozen=True, slots=True)
class WatchBatch:
    """Events in order, with which everything up to revision ``complete_to`` has been told."""

    events: tuple[WatchEvent, ...]
    complete_to: int


_load_lock = threading.Lock()


def _load_etcd3() -> Any:  # noqa: ANN401 - the package is untyped
    """Import etcd3 after putting working protobuf modules in the place of its own. Raises FailedError."""
    with _load_lock:
        if "etcd3" not in sys.modules:
            spec = importlib.util.find_spec("etcd3")
            if spec is None or spec.origin is None:
                raise FailedError("the etcd3 package is missing", hint="pip install etcd3==0.12.0")
            _install_messages(Path(spec.origin).parent / "etcdrpc")
        import etcd3

        return etcd3


def _install_messages(folder: Path) -> None:
    # A pool of its own: names as common as rpc.proto would clash with other packages in the default pool.
    pool = descriptor_pool.DescriptorPool()
    modules: dict[str, types.ModuleType] = {}
    for stem in ("kv", "auth", "rpc"):  # in the order of their imports
        source = (folder / f"{stem}_pb2.py").read_text(encoding="utf-8")
        literal = re.search(r"serialized_pb=_b\(('.*')\)\s*$", source, re.MULTILINE)
        if literal is None:
            raise FailedError("the installed etcd3 is not the one expected", hint="pip install etcd3==0.12.0")
        serialized = str(ast.literal_eval(literal[1])).encode("latin1")
        descriptor = pool.AddSerializedFile(serialized)
        module = types.ModuleType(f"etcd3.etcdrpc.{stem}_pb2")
        builder.BuildMessageAndEnumDescriptors(descriptor, module.__dict__)
        builder.BuildTopDescriptorsAndMessages(descriptor, module.__name__, module.__dict__)
        modules[module.__name__] = module
    sys.modules.update(modules)


def prefix_end(prefix: str) -> bytes:
    """The first key after every key that begins with ``prefix`` (ASCII, not empty)."""
    raw = prefix.encode("ascii")
    return raw[:-1] + bytes([raw[-1] + 1])


class EtcdClient:
    """Ranges, transactions and watches on one etcd cluster. Connects when first used; thread-safe."""

    def __init__(self, endpoints: tuple[Endpoint, ...], tls: EtcdTls | None = None) -> None:
        """Raises FailedError without a usable etcd3 package, UsageError for endpoints that gRPC cannot
        combine.
        """
        target = grpc_target(endpoints)
        if tls is not None and len(endpoints) > 1:
            raise UsageError(
                "certificates are checked against one name, and several etcd endpoints are listed",
                hint="name one that resolves to all members and stands in their certificates",
            )
        etcd3 = _load_etcd3()
        self._rpc = etcd3.etcdrpc
        host, _, port = target.rpartition(":")  # it only joins them again
        files: dict[str, str] = {}
        if tls is not None:
            paths = {"ca_cert": tls.ca, "cert_cert": tls.certificate, "cert_key": tls.key}
            files = {name: str(path) for name, path in paths.items() if path is not None}
        self._etcd = etcd3.Etcd3Client(host=host, port=port, grpc_options=_CHANNEL_OPTIONS, **files)
        self._watch_stub = self._rpc.WatchStub(self._etcd.channel)
        self.closed = threading.Event()
        """Set by ``close``."""

    def get(self, key: str, timeout_ns: int) -> tuple[KeyValue | None, int]:
        """The key (None: absent) and the store's revision. Linearizable. Raises EtcdError."""
        result = self._range(self._rpc.RangeRequest(key=key.encode()), timeout_ns)
        return (result.kvs[0] if result.kvs else None), result.revision

    def get_prefix(
        self,
        prefix: str,
        timeout_ns: int,
        *,
        from_key: str | None = None,
        limit: int = 0,
        revision: int = 0,
        newest_first: bool = False,
    ) -> RangeResult:
        """Keys that begin with ``prefix``, from ``from_key`` on; at most ``limit`` unless 0; at ``revision``
        unless 0.

        ``newest_first`` sorts by the revision at which a key was created, else the order is by key. Raises
        EtcdError.
        """
        rpc = self._rpc.RangeRequest
        request = rpc(
            key=(prefix if from_key is None else from_key).encode(),
            range_end=prefix_end(prefix),
            limit=limit,
            revision=revision,
        )
        if newest_first:
            request.sort_order, request.sort_target = rpc.DESCEND, rpc.CREATE
        return self._range(request, timeout_ns)

    def write_if(
        self,
        unless_changed: Mapping[str, int],
        puts: Mapping[str, bytes],
        deletes: Sequence[str],
        otherwise_get: Sequence[str],
        timeout_ns: int,
        *,
        prefixes_unless_changed: Mapping[str, int] = MappingProxyType({}),
        leases: Mapping[str, int] = MappingProxyType({}),
    ) -> TxnResult:
        """Do all of ``puts`` and ``deletes`` if nothing that is named was changed. ``leases``: of some of the puts.

        That is: each key of ``unless_changed`` was last written at its revision (0: it does not exist), and no key that
        begins with one of the prefixes was written after its revision.

        If not, read ``otherwise_get``. Raises EtcdError; after EtcdUnavailableError it may have happened.
        """
        rpc = self._rpc
        compares = [
            rpc.Compare(result=rpc.Compare.EQUAL, target=rpc.Compare.MOD, key=key.encode(), mod_revision=revision)
            for key, revision in unless_changed.items()
        ]
        compares += [
            rpc.Compare(
                result=rpc.Compare.LESS,
                target=rpc.Compare.MOD,
                key=prefix.encode(),
                range_end=prefix_end(prefix),
                mod_revision=min(revision, _MAX_REVISION) + 1,
            )
            for prefix, revision in prefixes_unless_changed.items()
        ]
        changes = [
            rpc.RequestOp(request_put=rpc.PutRequest(key=name.encode(), value=value, lease=leases.get(name, 0)))
            for name, value in puts.items()
        ]
        changes += [rpc.RequestOp(request_delete_range=rpc.DeleteRangeRequest(key=name.encode())) for name in deletes]
        reads = [rpc.RequestOp(request_range=rpc.RangeRequest(key=name.encode())) for name in otherwise_get]
        request = rpc.TxnRequest(compare=compares, success=self._nested(changes), failure=reads)
        response = self._call(self._etcd.kvstub.Txn, request, timeout_ns)
        found: list[KeyValue | None] = []
        if not response.succeeded:
            for part in response.responses:
                kvs = part.response_range.kvs
                found.append(_key_value(kvs[0]) if kvs else None)
        return TxnResult(response.succeeded, response.header.revision, tuple(found))

    def _nested(self, operations: list[Any]) -> list[Any]:
        """``operations`` as they are, or where they are too many for one list, as transactions inside the transaction.

        Those have no conditions: they are carried out with the outer one, or not at all.
        """
        rpc = self._rpc
        while len(operations) > MAX_OPERATIONS:
            operations = [
                rpc.RequestOp(request_txn=rpc.TxnRequest(success=operations[start : start + MAX_OPERATIONS]))
                for start in range(0, len(operations), MAX_OPERATIONS)
            ]
        return operations

    def watch(
        self, prefix: str, start_revision: int, stop: threading.Event, created_timeout_ns: int
    ) -> Generator[WatchBatch, None, None]:
        """Changes of keys that begin with ``prefix`` from ``start_revision`` on, until ``stop`` is set.

        The first batch, empty, says that the server has taken up the watch. Raises EtcdError when the stream
        ends otherwise: EtcdCompactedError if ``start_revision`` is gone.
        """
        request = self._rpc.WatchRequest(
            create_request=self._rpc.WatchCreateRequest(
                key=prefix.encode(),
                range_end=prefix_end(prefix),
                start_revision=start_revision,
                progress_notify=True,
            )
        )
        done = threading.Event()

        def requests() -> Iterator[Any]:
            yield request
            done.wait()  # ending the requests would half-close the stream

        call = self._open_watch(requests())
        inbox: queue.Queue[Any] = queue.Queue(_QUEUE_RESPONSES)
        reader = threading.Thread(target=_read_stream, args=(call, inbox, done), name="etcd-watch", daemon=True)
        reader.start()
        try:
            waited_ns, created = 0, False
            while not stop.is_set() and not self.closed.is_set():
                try:
                    item = inbox.get(timeout=_POLL_S)
                except queue.Empty:
                    waited_ns += int(_POLL_S * NS_PER_S)
                    if not created and waited_ns > created_timeout_ns:
                        raise EtcdUnavailableError("the watch was not confirmed in time") from None
                    continue
                if isinstance(item, Exception):
                    raise item
                created = created or item.created
                yield _watch_batch(item, start_revision)
        finally:
            done.set()
            call.cancel()
            reader.join()

    def grant_lease(self, ttl_s: int, timeout_ns: int) -> int:
        """A new lease; etcd makes it longer where ``ttl_s`` is below what its elections take. Raises EtcdError."""
        rpc = self._rpc
        return int(self._call(self._etcd.leasestub.LeaseGrant, rpc.LeaseGrantRequest(TTL=ttl_s), timeout_ns).ID)

    def keep_lease(self, lease: int, timeout_ns: int) -> bool:
        """Prolong a lease by its whole length; False if it has ended. Raises EtcdError."""
        request = self._rpc.LeaseKeepAliveRequest(ID=lease)

        def once(requests: Iterator[Any], timeout: float) -> Any:  # noqa: ANN401 - untyped message
            return next(iter(self._etcd.leasestub.LeaseKeepAlive(requests, timeout=timeout)), None)

        response = self._call(once, iter([request]), timeout_ns)
        if response is None:
            raise EtcdUnavailableError("the server did not say whether the lease goes on")
        return bool(response.TTL > 0)

    def revoke_lease(self, lease: int, timeout_ns: int) -> None:
        """End a lease; its keys are deleted. Raises EtcdError."""
        self._call(self._etcd.leasestub.LeaseRevoke, self._rpc.LeaseRevokeRequest(ID=lease), timeout_ns)

    def close(self) -> None:
        """Close the connections; calls under way fail. Idempotent."""
        self.closed.set()
        self._etcd.close()

    def _range(self, request: Any, timeout_ns: int) -> RangeResult:  # noqa: ANN401 - untyped message
        response = self._call(self._etcd.kvstub.Range, request, timeout_ns)
        kvs = tuple(_key_value(kv) for kv in response.kvs)
        return RangeResult(kvs, response.header.revision, response.more)

    def _call(self, method: Any, request: Any, timeout_ns: int) -> Any:  # noqa: ANN401 - untyped stub
        if self.closed.is_set():
            raise EtcdRefusedError("the store is closed")
        try:
            return method(request, timeout=max(timeout_ns, 1) / NS_PER_S)
        except grpc.RpcError as error:
            raise _translated(error) from None
        except ValueError as error:  # the channel was closed between the check and the call
            raise EtcdRefusedError(_one_line(str(error))) from None

    def _open_watch(self, requests: Iterator[Any]) -> Any:  # noqa: ANN401 - untyped call
        if self.closed.is_set():
            raise EtcdRefusedError("the store is closed")
        try:
            return self._watch_stub.Watch(requests, metadata=_LEADER_METADATA)
        except ValueError as error:
            raise EtcdRefusedError(_one_line(str(error))) from None


def _read_stream(call: Any, inbox: queue.Queue[Any], done: threading.Event) -> None:  # noqa: ANN401 - untyped call
    """Thread: move responses, and at last the error that ended the stream, into ``inbox`` until ``done``."""

    def deliver(item: Any) -> None:  # noqa: ANN401 - untyped message or error
        while not done.is_set():
            try:
                return inbox.put(item, timeout=_POLL_S)
            except queue.Full:
                continue
        return None

    try:
        for response in call:
            deliver(response)
    except grpc.RpcError as error:
        deliver(_translated(error))
    else:
        deliver(EtcdUnavailableError("the server ended the watch"))


def _watch_batch(response: Any, start_revision: int) -> WatchBatch:  # noqa: ANN401 - untyped message
    """The response's events. Raises EtcdError if it ends the watch."""
    if response.compact_revision:
        raise EtcdCompactedError(f"revisions before {response.compact_revision} have been compacted")
    if response.canceled:
        raise EtcdUnavailableError(_one_line(response.cancel_reason) or "the server cancelled the watch")
    events: list[WatchEvent] = []
    for event in response.events:
        kv = _key_value(event.kv)
        deleted = event.type == type(event).DELETE
        events.append(WatchEvent(kv.key, None if deleted else kv, kv.mod_revision))
    if events:  # without etcd's "fragment" option a response never ends inside a revision
        return WatchBatch(tuple(events), events[-1].mod_revision)
    if response.created:  # its revision says nothing: the events before it are still to come
        return WatchBatch((), start_revision - 1)
    return WatchBatch((), response.header.revision)  # a progress report: all events before it were sent


def _key_value(kv: Any) -> KeyValue:  # noqa: ANN401 - untyped message
    key = kv.key.decode("utf-8", "backslashreplace")
    return KeyValue(key, kv.value, kv.version, kv.create_revision, kv.mod_revision)


def _translated(error: Any) -> EtcdError:  # noqa: ANN401 - its type does not say that it is a grpc.Call, too
    """What a gRPC status means for the call. etcd puts its own words into the details."""
    code, details = error.code(), _one_line(error.details() or "")
    if "compacted" in details:
        return EtcdCompactedError(details)
    if "too large" in details or "larger than max" in details:
        return EtcdTooLargeError(details)
    if code == grpc.StatusCode.DEADLINE_EXCEEDED:
        return EtcdUnavailableError("no answer in time")
    if "too many requests" in details or code in _UNCERTAIN:
        return EtcdUnavailableError(details or code.name)
    return EtcdRefusedError(details or code.name)


_UNCERTAIN: Final = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.ABORTED,
    }
)


def _one_line(text: str) -> str:
    return " ".join(text.split())
