"""The controller as commands see it: plain values in, JSON documents out, typed errors."""

from __future__ import annotations

from utilctl_cli import codec
from utilctl_cli.documents import (
    DeleteDocument,
    ExplainDocument,
    HistoryDocument,
    HostsDocument,
    ServiceDocument,
    ServicesDocument,
    SetShareDocument,
)
from utilctl_cli.transport import Transport
from utilctl_proto.v1 import control_pb2


class ControllerClient:
    """One command's conversation with the first controller of ``addresses`` that answers.

    Every method raises UnreachableError when none does within ``timeout_ns``, ConflictError when somebody
    else was first, UsageError for what the controller finds malformed, FailedError for all else it refuses.
    """

    def __init__(self, addresses: tuple[str, ...], timeout_ns: int) -> None:
        self._transport = Transport(addresses, timeout_ns)

    def set_share(self, change: codec.ShareChange, terms: codec.WriteTerms) -> SetShareDocument:
        """Create or change one service's policy."""
        request = codec.set_share_request(change, terms)
        return codec.set_share_document(self._transport.write(lambda stub: stub.SetShare, request))

    def delete(self, see: str, terms: codec.WriteTerms) -> DeleteDocument:
        """Remove one service's policy."""
        request = codec.delete_request(see, terms)
        return codec.delete_document(self._transport.write(lambda stub: stub.DeleteSee, request))

    def services(self) -> ServicesDocument:
        """Every service."""
        request = control_pb2.ListServicesRequest()
        return codec.services_document(self._transport.read(lambda stub: stub.ListServices, request))

    def hosts(self) -> HostsDocument:
        """Every host."""
        request = control_pb2.ListHostsRequest()
        return codec.hosts_document(self._transport.read(lambda stub: stub.ListHosts, request))

    def share(self, see: str) -> ServiceDocument:
        """One service."""
        request = control_pb2.GetShareRequest(see=see)
        return codec.service_document(self._transport.read(lambda stub: stub.GetShare, request).service)

    def explain(self, see: str, host: str) -> ExplainDocument:
        """Why one service gets what it gets, on ``host`` or (empty) on all."""
        request = control_pb2.ExplainRequest(see=see, host=host)
        return codec.explain_document(self._transport.read(lambda stub: stub.Explain, request))

    def history(self, see: str, limit: int) -> HistoryDocument:
        """The newest ``limit`` changes of one service, or (empty) of all."""
        request = control_pb2.ListHistoryRequest(see=see, limit=limit)
        return codec.history_document(self._transport.read(lambda stub: stub.ListHistory, request))
