"""The controller as commands see it: plain values in, JSON documents out, typed errors."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from utilctl_cli import codec, plan_codec
from utilctl_cli.documents import (
    ApplyDocument,
    DeleteDocument,
    ExplainDocument,
    ExportDocument,
    HistoryDocument,
    HoldDocument,
    HostsDocument,
    LivePlanDocument,
    ReleaseDocument,
    ServicesDocument,
    SetShareDocument,
    ShareDocument,
    SwitchDocument,
)
from utilctl_cli.transport import Transport
from utilctl_common.policy import SeePolicy
from utilctl_proto.v1 import control_pb2

if TYPE_CHECKING:
    from utilctl_common.policy_file import PolicyFileContent


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

    def apply(self, file: PolicyFileContent, *, prune: bool, terms: codec.WriteTerms) -> ApplyDocument:
        """Store a whole policy file, or with a dry run say what that would change."""
        request = codec.apply_request(file, prune=prune, terms=terms)
        if terms.dry_run:
            return codec.apply_document(self._transport.read(lambda stub: stub.Apply, request))
        return codec.apply_document(self._transport.write(lambda stub: stub.Apply, request))

    def export(self) -> tuple[ExportDocument, list[SeePolicy]]:
        """Every policy, as a document and as what a policy file is made of."""
        request = control_pb2.ListPoliciesRequest()
        response = self._transport.read(lambda stub: stub.ListPolicies, request)
        return codec.export_document(response), codec.exported_policies(response)

    def hold(self, see: str, duration_ns: int, terms: codec.WriteTerms) -> HoldDocument:
        """Keep one service's targets as they are."""
        request = codec.hold_request(see, duration_ns, terms)
        return codec.hold_document(self._transport.write(lambda stub: stub.Hold, request))

    def release(self, see: str, terms: codec.WriteTerms) -> ReleaseDocument:
        """End a hold."""
        request = codec.release_request(see, terms)
        return codec.release_document(self._transport.write(lambda stub: stub.Release, request))

    def set_enabled(self, *, enabled: bool, changed_by: str, reason: str) -> SwitchDocument:
        """Let shares hold on the whole fleet, or let nobody be held back."""
        request = control_pb2.SetEnabledRequest(enabled=enabled, changed_by=changed_by, reason=reason)
        return codec.switch_document(self._transport.write(lambda stub: stub.SetEnabled, request))

    def plan_live(self, changes: Iterable[plan_codec.PlannedChange]) -> LivePlanDocument:
        """What changes would do to the fleet as it is now."""
        request = plan_codec.plan_live_request(changes)
        return plan_codec.live_plan_document(self._transport.read(lambda stub: stub.PlanLive, request))

    def services(self) -> ServicesDocument:
        """Every service."""
        request = control_pb2.ListServicesRequest()
        return codec.services_document(self._transport.read(lambda stub: stub.ListServices, request))

    def hosts(self) -> HostsDocument:
        """Every host."""
        request = control_pb2.ListHostsRequest()
        return codec.hosts_document(self._transport.read(lambda stub: stub.ListHosts, request))

    def share(self, see: str) -> ShareDocument:
        """One service."""
        request = control_pb2.GetShareRequest(see=see)
        return codec.share_document(self._transport.read(lambda stub: stub.GetShare, request))

    def explain(self, see: str, host: str) -> ExplainDocument:
        """Why one service gets what it gets, on ``host`` or (empty) on all."""
        request = control_pb2.ExplainRequest(see=see, host=host)
        return codec.explain_document(self._transport.read(lambda stub: stub.Explain, request))

    def history(self, see: str, limit: int, since_unix_ns: int = 0) -> HistoryDocument:
        """The newest ``limit`` changes of one service, or (empty) of all; of those, what is not before ``since``."""
        request = control_pb2.ListHistoryRequest(see=see, limit=limit, since_unix_ns=since_unix_ns)
        return codec.history_document(self._transport.read(lambda stub: stub.ListHistory, request))
