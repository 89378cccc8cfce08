"""The service that the command line talks to."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Final, Protocol

import grpc

from utilctl_common.errors import ConflictError, UnreachableError
from utilctl_common.names import parse_see_name
from utilctl_common.telemetry_grpc import current_trace_id
from utilctl_controller import codec
from utilctl_controller.edits import DeleteEdit, PolicyEdit, apply_edit, unknown
from utilctl_controller.explain import explain
from utilctl_controller.policies import PolicyKeeper
from utilctl_controller.rebalance import Rebalancer, reachability_warnings
from utilctl_controller.rpc_errors import answering
from utilctl_controller.status import ServiceView, host_views, service_views
from utilctl_controller.store.port import Change, Done, LostRace, Record, Unavailable
from utilctl_proto.v1 import control_pb2, control_pb2_grpc

WRITE_ATTEMPTS: Final = 16
"""Times a write without a version is tried against other writers. Arbitrary: each loss means another's
success."""

DEFAULT_HISTORY: Final = 100
MAX_HISTORY: Final = 10_000
"""Entries of history returned where no limit is asked for, and at most."""

Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(frozen=True, slots=True)
class ControllerState:
    """What is said of the controller itself, and of the decision that set the targets in force."""

    controller_id: str
    degraded_reason: str
    decided_unix_ns: int
    trace_id: str


class StateSource(Protocol):
    """Whoever runs the decisions."""

    def state(self) -> ControllerState:
        """The controller's state now."""
        ...


class ControlPlane(control_pb2_grpc.ControlServiceServicer):
    """Reads are answered from memory, also while the store is away; writes go through the store."""

    def __init__(self, keeper: PolicyKeeper, rebalancer: Rebalancer, source: StateSource) -> None:
        self._keeper = keeper
        self._rebalancer = rebalancer
        self._source = source

    @answering
    async def SetShare(  # noqa: N802 - the name of the RPC
        self, request: control_pb2.SetShareRequest, context: Context
    ) -> control_pb2.SetShareResponse:
        """Create or change one policy."""
        edit = codec.edit_from(request)
        previous, record = await self._set(edit)
        return codec.set_share_response(
            record,
            previous,
            changed=previous is None or previous.policy != record.policy,
            dry_run=edit.dry_run,
            trace_id=current_trace_id(),
            warnings=reachability_warnings(self._rebalancer.decision, record.policy),
        )

    @answering
    async def DeleteSee(  # noqa: N802 - the name of the RPC
        self, request: control_pb2.DeleteSeeRequest, context: Context
    ) -> control_pb2.DeleteSeeResponse:
        """Remove one policy."""
        edit = codec.delete_from(request)
        return codec.delete_response(await self._delete(edit), dry_run=edit.dry_run)

    @answering
    async def ListServices(  # noqa: N802 - the name of the RPC
        self, request: control_pb2.ListServicesRequest, context: Context
    ) -> control_pb2.ListServicesResponse:
        """Every SEE, by name."""
        views = service_views(self._rebalancer, self._keeper.records, time.monotonic_ns())
        return control_pb2.ListServicesResponse(
            services=[codec.service_message(view) for view in views.values()], controller=self._controller()
        )

    @answering
    async def ListHosts(  # noqa: N802 - the name of the RPC
        self, request: control_pb2.ListHostsRequest, context: Context
    ) -> control_pb2.ListHostsResponse:
        """Every host, by name."""
        now_unix_ns = time.time_ns()
        views = host_views(self._rebalancer, time.monotonic_ns())
        return control_pb2.ListHostsResponse(
            hosts=[codec.host_message(view, now_unix_ns) for view in views], controller=self._controller()
        )

    @answering
    async def GetShare(  # noqa: N802 - the name of the RPC
        self, request: control_pb2.GetShareRequest, context: Context
    ) -> control_pb2.GetShareResponse:
        """One SEE."""
        return control_pb2.GetShareResponse(service=codec.service_message(self._view(request.see)))

    @answering
    async def Explain(  # noqa: N802 - the name of the RPC
        self, request: control_pb2.ExplainRequest, context: Context
    ) -> control_pb2.ExplainResponse:
        """Why one SEE gets what it gets, everywhere or on one host."""
        view = self._view(request.see, host=request.host)
        state = self._source.state()
        explanation = explain(self._rebalancer, view, time.monotonic_ns())
        return codec.explain_message(view, explanation, state.decided_unix_ns, state.trace_id)

    @answering
    async def ListHistory(  # noqa: N802 - the name of the RPC
        self, request: control_pb2.ListHistoryRequest, context: Context
    ) -> control_pb2.ListHistoryResponse:
        """The newest changes, of one SEE (which may be deleted by now) or of all, newest first."""
        see = parse_see_name(request.see) if request.see else None
        limit = min(request.limit or DEFAULT_HISTORY, MAX_HISTORY)
        entries = await self._keeper.history(see, limit)
        if see is not None and not entries and see not in self._keeper.records:
            raise unknown("service", see, self._keeper.records)
        return codec.history_message(entries)

    def _view(self, see: str, *, host: str = "") -> ServiceView:
        parse_see_name(see)
        record = self._keeper.records.get(see)
        if record is None:
            raise unknown("service", see, self._keeper.records)
        if host and host not in self._rebalancer.hosts:
            raise unknown("host", host, self._rebalancer.hosts)
        now_ns = time.monotonic_ns()
        view = service_views(self._rebalancer, {see: record}, now_ns, everywhere=bool(host))[see]
        if host:
            view.per_host = [row for row in view.per_host if row.host == host]
        return view

    def _controller(self) -> control_pb2.ControllerStatus:
        state = self._source.state()
        return codec.controller_message(
            controller_id=state.controller_id,
            epoch=self._rebalancer.epoch,
            store_revision=self._keeper.revision,
            store_available=self._keeper.status.available,
            degraded_reason=state.degraded_reason,
        )

    async def _set(self, edit: PolicyEdit) -> tuple[Record | None, Record]:
        """The records before and after ``edit``; the same one twice if it changes nothing."""
        stored = self._keeper.records.get(edit.see)
        confirmed = False
        for _ in range(WRITE_ATTEMPTS):
            _check_version(edit.see, edit.if_version, stored)
            policy = apply_edit(stored.policy if stored else None, edit)
            change = Change(edit.who, edit.reason, time.time_ns())
            version = stored.version if stored else 0
            if edit.dry_run:
                unchanged = stored is not None and stored.policy == policy
                record = stored if unchanged else Record(policy, version + 1, self._keeper.revision, change)
                assert record is not None
                return stored, record
            if stored is not None and stored.policy == policy:
                if confirmed:
                    return stored, stored
                # The copy may be a moment behind another controller's write; only the store knows for
                # certain.
                stored, confirmed = await self._keeper.confirmed(edit.see), True
                continue
            outcome = await self._keeper.put(policy, change, version)
            if isinstance(outcome, Done):
                assert outcome.record is not None
                return stored, outcome.record
            stored, confirmed = _after_loss(edit.see, outcome), True
        raise ConflictError(f"{edit.see} is being changed by many writers at once", hint="try again")

    async def _delete(self, edit: DeleteEdit) -> Record:
        stored = self._keeper.records.get(edit.see)
        for _ in range(WRITE_ATTEMPTS):
            if stored is None:
                raise unknown("service", edit.see, self._keeper.records)
            _check_version(edit.see, edit.if_version, stored)
            if edit.dry_run:
                return stored
            outcome = await self._keeper.delete(edit.see, Change(edit.who, edit.reason, time.time_ns()), stored.version)
            if isinstance(outcome, Done):
                return stored
            stored = _after_loss(edit.see, outcome)
        raise ConflictError(f"{edit.see} is being changed by many writers at once", hint="try again")


def _check_version(see: str, wanted: int | None, stored: Record | None) -> None:
    """Raise ConflictError unless the stored version is the one asked for."""
    found = stored.version if stored else 0
    if wanted is None or wanted == found:
        return
    is_now = f"is at version {found}" if stored else "does not exist (version 0)"
    raise ConflictError(f"{see} {is_now}, not at version {wanted}; nothing was changed", hint="read it and try again")


def _after_loss(see: str, outcome: LostRace | Unavailable) -> Record | None:
    """What is stored after a lost race. Raises UnreachableError if the store did not answer."""
    if isinstance(outcome, Unavailable):
        known = outcome.reason.startswith("nothing was written")
        rest = "" if known else f", so {see} may or may not have been changed"
        raise UnreachableError(
            f"the policy store is unavailable ({outcome.reason}){rest}", hint="look with utilctl get and try again"
        )
    return outcome.current
